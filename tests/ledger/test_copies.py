"""What a copy of the entries lacks, has twice, has changed or has besides is named, against the signed root."""

import pytest
from log_samples import Installation, event, events

from ledger.copies import CopyComparison
from ledger.errors import CopyDiffers
from ledger.hashing import leaf_hash
from ledger.reader import LogReader

SIZE = 600
WHOLE = list(enumerate(events(0, SIZE)))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    installed = Installation(tmp_path_factory.mktemp("copies"))
    installed.publish(SIZE)
    return installed


def compare(installed, entries, end=None):
    opened = installed.policy().open("checkpoint", installed.folder.read("checkpoint"))
    comparison = CopyComparison("EVENTS_boston", LogReader(installed.folder, SIZE), opened)
    for leaf_index, entry in entries:
        comparison.take(leaf_index, entry)
    return comparison.finish(end).detail


def changed(entries, at, entry):
    return [*entries[:at], (at, entry), *entries[at + 1 :]]


def test_a_copy_that_holds_all_entries_has_the_signed_root(installed):
    assert compare(installed, WHOLE) == "EVENTS_boston: 600 entries equal the log's, byte for byte"


def test_entries_that_are_not_signed_yet_are_counted(installed):
    more = [*WHOLE, (SIZE, b"new"), (SIZE + 1, b"newer")]

    assert compare(installed, more).endswith("byte for byte, 2 more are not yet under the checkpoint")


def test_a_copy_that_says_that_it_is_behind_is_compared_as_far_as_it_goes(installed):
    assert compare(installed, WHOLE[:500], 500).endswith(
        "500 entries equal the log's, byte for byte, 100 not there yet"
    )


DIFFERENCES = {
    "one missing": (
        [*WHOLE[:17], *WHOLE[18:]],
        "EVENTS_boston: 1 difference: entry 17 (player.b3.3 xp-awarded/1 player/b3) is missing",
    ),
    "the tail missing": (
        WHOLE[:-2],
        "2 differences: entry 598 (player.b3.86 xp-awarded/1 player/b3) is missing; entry 599 (player.b4.86 xp-",
    ),
    "one twice": ([*WHOLE[:10], WHOLE[9], *WHOLE[10:]], "1 difference: entry 9 is there twice"),
    "one changed": (
        changed(WHOLE, 400, event(400, data={"amount": 1})),
        r"1 difference: entry 400 (player.b1.58 xp-awarded/1 player/b1): expected leaf hash ",
    ),
    "one of no use": (changed(WHOLE, 400, b"\xff"), "(no event)"),
    "all after one moved by one": (
        [*WHOLE[:590], *((at + 1, entry) for at, entry in WHOLE[590:-1])],
        "10 differences: entry 590 (player.b2.85 xp-awarded/1 player/b2) is missing; entry 591",
    ),
    "nothing there": ([], "; and 595 more"),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_a_difference_is_named_with_its_entry(installed, case):
    entries, message = DIFFERENCES[case]

    with pytest.raises(CopyDiffers) as found:
        compare(installed, entries)

    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_a_lie_in_a_tile_does_not_make_a_changed_copy_pass(installed):
    entry = event(300, data={"amount": 1})
    reader = LogReader(installed.folder, SIZE)
    good = reader.tile_bytes
    opened = installed.policy().open("checkpoint", installed.folder.read("checkpoint"))
    comparison = CopyComparison("EVENTS_boston", reader, opened)
    reader.tile_bytes = lambda tile: good(tile).replace(leaf_hash(event(300)), leaf_hash(entry))
    for leaf_index, each in changed(WHOLE, 300, entry):
        comparison.take(leaf_index, each)

    with pytest.raises(CopyDiffers, match="root of size 600: the log's tiles changed meanwhile"):
        comparison.finish()
