"""Which month a receipt is made under: told by the event, looked for where it is not, and in how few turns of reads."""

import dataclasses
import shutil

import pytest
from log_samples import DAY_MS, DEC_1, NOV_21, Installation, Recording, event

from ledger.errors import LedgerError, LogDamaged
from ledger.files import Folder
from ledger.months import month_of, open_month, previous_month
from ledger.receipt import prove_entry


def months_of_three(base, entry):
    """A log of 16 closed months, the first of them empty, the others with three entries each."""
    many = Installation(base)
    for month in range(17):
        now_ms = NOV_21 + month * 33 * DAY_MS
        writer = many.open(now_ms)
        writer.append([entry(number, month_of(now_ms)) for number in range(writer.tree_size, 3 * month)])
        writer.sign(now_ms)
        writer.close(now_ms)
    policy, closed = many.policy(), [f"roots/{name}" for name in many.folder.names("roots") if name.count(".") == 2]
    sizes = {path: open_month(path, many.folder.read(path), policy).closing.tree_size for path in closed}
    return many, sizes


def recorded_in(number, month):
    return event(number, recordedtime=f"{month}-21T10:00:00.000Z")


#: Entries of which the month is no help, and how many certificates are read for each at most.
UNHELPFUL = {
    "all of the first month": (lambda number, _: event(number), 2),
    "each of the month before": (lambda number, month: recorded_in(number, previous_month(month)), 2),
    "of no month": (lambda number, _: event(number, recordedtime="long ago"), 1),
    "no event": (lambda number, _: b"%d" % number, 1),
    "nothing that is text": (lambda number, _: b'{"recordedtime":%d}' % number, 1),
}


@pytest.mark.parametrize("kind", UNHELPFUL)
def test_the_month_of_an_entry_that_does_not_tell_it_is_found_by_halves(tmp_path, ed25519_alone, kind):
    entry, certificates_max = UNHELPFUL[kind]
    many, sizes = months_of_three(tmp_path, entry)

    for leaf_index in range(48):
        source = Recording(many.folder.root)
        receipt = prove_entry(source, many.policy(), leaf_index)

        expected = next((path for path, size in sizes.items() if leaf_index < size), None)
        assert receipt.certificate == (many.folder.read(expected) if expected else None)
        assert [path for path in source.paths if path in sizes][-1:] == ([expected] if expected else [])
        assert sum(path in sizes for path in source.paths) <= certificates_max
        assert sum(path.endswith(".checkpoint") for path in source.paths) <= 6
    assert len(set(sizes.values())) < len(sizes), "one month is empty"


def test_the_month_that_an_event_was_recorded_in_is_read_first_and_no_other(tmp_path, ed25519_alone):
    many, sizes = months_of_three(tmp_path, recorded_in)
    last_closing = max(sizes).replace(".dsse.json", ".checkpoint")

    for leaf_index in range(45):
        source = Recording(many.folder.root)
        receipt = prove_entry(source, many.policy(), leaf_index)

        expected = next(path for path, size in sizes.items() if leaf_index < size)
        assert receipt.certificate == many.folder.read(expected)
        assert [path for path in source.paths if path.startswith("roots/")] == [last_closing, expected]


def test_a_certificate_in_place_of_another_is_named(tmp_path, ed25519_alone):
    many, sizes = months_of_three(tmp_path, recorded_in)
    third, sixth = list(sizes)[2], list(sizes)[5]
    good, policy = many.folder.read(third), many.policy()

    many.folder.replace(third, many.folder.read(sixth))
    with pytest.raises(LogDamaged, match=rf"^{third}: expected a month that has leaf 4, found leaves 9 to 11"):
        prove_entry(many.folder, policy, 4)
    many.folder.replace(third, good.replace(b'"sig":"', b'"sig":"' + b"A" * 4).replace(b'=="}]', b'"}]'))
    with pytest.raises(LedgerError, match=rf"^{third}"):
        prove_entry(many.folder, policy, 4)
    many.folder.remove(third)
    with pytest.raises(LogDamaged, match=r"expected a month that has leaf 4, found leaves 6 to 8"):
        prove_entry(many.folder, policy, 4)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A log of a closed month (300 events) and an open one (450)."""
    installed = Installation(tmp_path_factory.mktemp("turns"))
    installed.publish(120, 300, now_ms=NOV_21)
    installed.publish(450, now_ms=DEC_1 + 1)
    return installed


@pytest.mark.parametrize(
    ("leaf_index", "turns"),
    [(33, 3), (255, 3), (299, 4), (300, 2), (449, 2)],
    ids=["closed", "closed, last of its bundle", "closed, bundle not full", "open", "open, last"],
)
def test_the_files_of_a_receipt_are_asked_for_in_few_turns(installed, leaf_index, turns):
    source = Recording(installed.log_dir)
    policy = dataclasses.replace(installed.policy(), authorities={"one": (), "two": ()})

    receipt = prove_entry(source, policy, leaf_index)

    assert source.turns <= turns
    assert len(source.paths) <= 10
    is_closed = leaf_index < 300
    assert (receipt.certificate is not None) == is_closed
    assert sum(path.endswith(".tsr") for path in source.paths) == (2 if is_closed else 0)


def test_a_full_bundle_that_is_half_written_is_not_taken_for_the_partial_one(installed, tmp_path):
    log = Folder(shutil.copytree(installed.log_dir, tmp_path / "log"))
    log.replace("tile/entries/001", log.read("tile/entries/001.p/194")[:-50])

    for leaf_index in (256, 299, 449):
        assert prove_entry(log, installed.policy(), leaf_index).entry == event(leaf_index)


@pytest.mark.parametrize("leaf_index", [33, 255])
def test_a_bundle_that_ends_before_the_entry_is_named(installed, tmp_path, leaf_index):
    log = Folder(shutil.copytree(installed.log_dir, tmp_path / "log"))
    path = "tile/entries/000"
    data = log.read(path)
    end = sum(2 + len(event(number)) for number in range(leaf_index + 1))

    for cut in (end - 1, end - len(event(leaf_index)) - 1, end - len(event(leaf_index)) - 2, 1, 0):
        log.replace(path, data[:cut])
        with pytest.raises(
            LogDamaged, match=rf"^{path}: expected {leaf_index + 1} entries, found fewer in {cut} bytes"
        ):
            prove_entry(log, installed.policy(), leaf_index)
    log.replace(path, data[:end])
    assert prove_entry(log, installed.policy(), leaf_index).entry == event(leaf_index)
