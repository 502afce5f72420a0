"""A real published log, damaged in every way that we can think of: the audit names the object each time."""

import json
import random
import shutil

import pytest
from log_samples import NOV_21, Installation, event, events

from ledger.cli import main
from ledger.errors import EventRefused, LedgerError, Malformed
from ledger.files import Folder
from ledger.writer import LogWriter

DEC_1 = 1_796_083_200_000


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Two months, 700 events, partial tiles of several widths."""
    installed = Installation(tmp_path_factory.mktemp("published"))
    installed.publish(120, 300, 301, now_ms=NOV_21)
    installed.publish(540, 700, now_ms=DEC_1 + 1)
    return installed


@pytest.fixture
def damaged(published, tmp_path):
    """A copy to damage."""
    shutil.copytree(published.log_dir, tmp_path / "log")
    copy = Installation.__new__(Installation)
    copy.log_dir, copy.keyring, copy.folder = tmp_path / "log", published.keyring, Folder(tmp_path / "log")
    return copy


def all_files(installed):
    return list(installed.folder.walk())


def test_the_log_is_whole_before_it_is_damaged(published):
    kinds = {path.split("/")[0] for path in all_files(published)}

    assert published.audit().checkpoint.checkpoint.tree_size == 700
    assert kinds == {"checkpoint", "chain", "roots", "tile"}


def test_any_flipped_bit_in_any_file_is_found_and_its_object_named(damaged):
    dice = random.Random(62)
    for path in all_files(damaged):
        good = damaged.folder.read(path)
        for _ in range(6):
            bit = dice.randrange(len(good) * 8)
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            damaged.folder.replace(path, bytes(bad))
            with pytest.raises(LedgerError) as found:
                damaged.audit()
            assert path in str(found.value), (path, bit)
        damaged.folder.replace(path, good)
    assert damaged.audit().checkpoint.checkpoint.tree_size == 700


def test_any_file_cut_off_lengthened_emptied_or_removed_is_found(damaged):
    dice = random.Random(63)
    # Of partial tiles only the widest is needed; an older one that is gone is no damage.
    needed = [path for path in all_files(damaged) if ".p/" not in path or path.endswith((".p/188", "1/000.p/2"))]
    for path in needed:
        good = damaged.folder.read(path)
        for bad in (good[: dice.randrange(len(good))], good + b"\0", good + good, b"", None):
            if bad is None:
                damaged.folder.remove(path)
            else:
                damaged.folder.replace(path, bad)
            with pytest.raises(LedgerError):
                damaged.audit()
        damaged.folder.replace(path, good)
    assert len(needed) == 14


def test_any_two_files_of_one_kind_that_are_swapped_are_found(damaged):
    for first, second in (
        ("tile/0/000", "tile/0/001"),
        ("tile/entries/000", "tile/entries/001"),
        ("chain/000", "chain/001"),
        ("tile/0/000", "chain/000"),
    ):
        one, other = damaged.folder.read(first), damaged.folder.read(second)
        damaged.folder.replace(first, other)
        damaged.folder.replace(second, one)
        with pytest.raises(LedgerError, match=f"{first}|{second}"):
            damaged.audit()
        damaged.folder.replace(first, one)
        damaged.folder.replace(second, other)
    assert damaged.audit().checkpoint.checkpoint.tree_size == 700


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """More than two blocks of the audit: 33,400 events of 900 players, over two months."""
    installed = Installation(tmp_path_factory.mktemp("long"))
    for size, now_ms in ((16_384, NOV_21), (17_000, NOV_21), (33_400, DEC_1 + 1)):
        writer = installed.open(now_ms)
        writer.append([event(number, subjects=900) for number in range(writer.tree_size, size)])
        writer.close(now_ms)
    return installed


def test_several_processes_find_the_same_as_one(long):
    seen = []

    one, two = long.audit(progress=lambda done, total: seen.append((done, total))), long.audit(jobs=2)

    assert one == two
    assert one.counts.total() == 33_400
    assert [month.closing.tree_size for month in one.months] == [17_000, 33_400]
    assert seen == [(0, 33_400), (16_384, 33_400), (32_768, 33_400), (33_400, 33_400)]


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    "path", ["tile/entries/070", "tile/0/100", "chain/063", "tile/1/000.p/130", "tile/entries/130.p/120"]
)
def test_damage_in_any_block_is_named_by_one_process_and_by_several(long, path, jobs):
    good = long.folder.read(path)
    try:
        long.folder.replace(path, good[:-5] + bytes([good[-5] ^ 1]) + good[-4:])
        with pytest.raises(LedgerError, match=path):
            long.audit(jobs=jobs)
    finally:
        long.folder.replace(path, good)


def test_a_gap_in_the_versions_between_two_blocks_is_found(tmp_path):
    installed = Installation(tmp_path)
    writer = installed.open()
    writer.append([event(number, subjects=16_384) for number in range(16_384)])
    writer.append([event(16_384, subjects=16_384, aggregateversion=3)])
    writer.close(NOV_21)

    with pytest.raises(EventRefused, match="entry 16384, aggregateversion of 'player/b0': expected 2, found '3'"):
        installed.audit()


@pytest.mark.parametrize("path", ["notes.txt", "tile/0/5", "tile/0/000.p/0", "chain/x/000", "roots/2026-11.json"])
def test_a_file_that_is_no_part_of_the_log_is_named(damaged, path):
    damaged.folder.replace(path, b"x")

    with pytest.raises(LedgerError, match=path):
        damaged.audit()


def test_files_that_the_signer_has_not_signed_yet_are_counted_and_do_no_harm(damaged, tmp_path):
    shutil.copytree(damaged.keyring.folder, tmp_path / "keys")
    writer = LogWriter.open(damaged.log_dir, damaged.keyring, DEC_1 + 2)
    writer.append(events(700, 1_100))
    writer.abandon()

    files = damaged.audit().claims[-1]

    assert "6 of them not yet under the checkpoint" in files.detail


def test_the_audit_command_exits_1_and_names_what_does_not_match(damaged, capsys):
    data = damaged.folder.read("tile/entries/001")
    damaged.folder.replace("tile/entries/001", data.replace(b'"amount":400', b'"amount":401'))

    code = main(["audit", str(damaged.log_dir), "--policy", str(damaged.policy_path)])

    out = capsys.readouterr().out
    assert code == 1
    assert out.startswith("FAILED  tile/entries/001, entry 400: expected leaf hash ")
    assert out.count("\n") == 1


def test_a_folder_that_is_no_log_is_named_by_its_missing_checkpoint(published, tmp_path, capsys):
    assert main(["audit", str(tmp_path), "--policy", str(published.policy_path)]) == 1
    assert capsys.readouterr().out == "FAILED  checkpoint: expected the file, found none\n"


def test_an_older_checkpoint_of_the_same_log_does_not_pass_beside_newer_months(damaged, published):
    november = json.loads(published.folder.read("roots/2026-11.dsse.json"))
    assert november["payloadType"]
    older = Installation.__new__(Installation)
    older.folder = damaged.folder
    statement = published.audit().months[0]
    damaged.folder.replace("checkpoint", statement.closing.checkpoint)

    with pytest.raises(LedgerError, match="closing size: expected at most 301"):
        damaged.audit()


BAD_EVENTS = {
    "a gap in the versions": (event(4, aggregateversion=7), "aggregateversion of 'player/b4': expected 1, found '7'"),
    "a version twice": (event(3), "aggregateversion of 'player/b3': expected 2, found '1'"),
    "a version as text": (event(4, aggregateversion="1"), "aggregateversion"),
    "a version as truth": (event(4, aggregateversion=True), "aggregateversion"),
    "another tenant": (event(4, tenantid="berlin"), "tenantid: expected boston, found 'berlin'"),
    "an unknown attribute": (event(4, surprise=1), "attributes"),
    "no event": (b'"text"', "expected a JSON object, found str"),
    "no JSON": (b"{", "expected JSON"),
    "a float": (event(4).replace(b'"amount":4', b'"amount":4.0'), "without floats"),
    "infinity": (event(4).replace(b'"amount":4', b'"amount":Infinity'), "without floats"),
    "a space": (event(4).replace(b'"amount":4', b'"amount": 4'), "compact JSON"),
    "a key twice": (event(4).replace(b'"amount":4', b'"amount":4,"amount":4'), "duplicate keys"),
    "an escape where none is needed": (event(4).replace("☃".encode(), b"\\u2603"), "compact JSON"),
    "another order": (
        event(4).replace(b'"specversion":"1.0","id":"player.b4.1"', b'"id":"player.b4.1","specversion":"1.0"'),
        "attributes",
    ),
    "invalid UTF-8": (event(4).replace("☃".encode(), b"\xff"), "expected JSON"),
    "a trailing newline": (event(4) + b"\n", "expected compact JSON"),
}


@pytest.mark.parametrize("case", BAD_EVENTS)
def test_a_logged_event_that_breaks_the_rules_is_named(tmp_path, case):
    entry, message = BAD_EVENTS[case]
    installed = Installation(tmp_path)
    writer = installed.open()
    writer.append([*events(0, 4), entry])
    writer.sign(NOV_21)
    writer.close(NOV_21)

    with pytest.raises((EventRefused, Malformed), match=message) as found:
        installed.audit()
    assert str(found.value).startswith("entry 4")
