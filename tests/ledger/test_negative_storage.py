"""LEDGER.md section 5, C and H: what storage and a cheating operator do to files; each with the audit's message."""

import re
import shutil

import pytest
from log_samples import NOV_21, Installation, event

from ledger.errors import HistoryForked, LedgerError, LogDamaged
from ledger.reader import LogReader
from ledger.tiles import Tile

SIZE = 700


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    installed = Installation(tmp_path_factory.mktemp("published"))
    installed.publish(300, SIZE)
    return installed


@pytest.fixture
def log(published, tmp_path):
    shutil.copytree(published.log_dir.parent, tmp_path / "copy")
    return Installation(tmp_path / "copy")


def alter(log, path, change):
    log.folder.replace(path, change(log.folder.read(path)))


def without(*paths):
    def change(log):
        for path in paths:
            log.folder.remove(path)

    return change


def altered(path, change):
    return lambda log: alter(log, path, change)


LAST = "tile/entries/002.p/188"
ENTRY_600 = event(600)

CASES = {
    "tail of events missing": (
        without(LAST),
        f"{LAST}: expected the file, as tree size 700 needs it, found none",
    ),
    "checkpoint larger than the data": (
        without(LAST, "tile/0/002.p/188", "chain/002.p/188"),
        f"{LAST}: expected the file, as tree size 700 needs it, found none",
    ),
    "last bundle shortened by one entry": (
        altered(LAST, lambda data: data[: -(2 + len(event(699)))]),
        f"{LAST}: expected 188 entries to the last byte, found 0 bytes after 187 entries",
    ),
    "a bundle's length prefix runs past the end": (
        altered("tile/entries/001", lambda data: data[: -(2 + len(event(511)))] + b"\xff\xff" + event(511)),
        f"tile/entries/001: expected 256 entries to the last byte, found {65_535 - len(event(511))} bytes too few",
    ),
    "trailing bytes after a bundle": (
        altered("tile/entries/001", lambda data: data + b"\0"),
        "tile/entries/001: expected 256 entries to the last byte, found 1 bytes after 256 entries",
    ),
    "partial tile of the wrong width": (
        altered("tile/0/002.p/188", lambda data: data[:-32]),
        "tile/0/002.p/188: expected 6016 bytes, found 5984",
    ),
    "partial tile under the name of another width": (
        lambda log: (
            log.folder.replace("tile/0/002.p/187", log.folder.read("tile/0/002.p/188")),
            log.folder.remove("tile/0/002.p/188"),
        ),
        "tile/0/002.p/188: expected the file, as tree size 700 needs it, found none",
    ),
    "full tile missing": (
        without("tile/0/001"),
        "tile/0/001: expected the file, as tree size 700 needs it, found none",
    ),
    "full bundle missing": (
        without("tile/entries/000"),
        "tile/entries/000: expected the file, as tree size 700 needs it, found none",
    ),
    "value edited while chain and tiles are intact": (
        altered(LAST, lambda data: data.replace(b'"amount":600', b'"amount":601')),
        f"{LAST}, entry 600: expected leaf hash ",
    ),
    "previous-hash mismatch in the chain": (
        altered("chain/001", lambda data: data[:320] + bytes(32) + data[352:]),
        "chain/001, link 10: expected ",
    ),
    "one hash of a tile changed": (
        altered("tile/1/000.p/2", lambda data: bytes(32) + data[32:]),
        "tile/1/000.p/2, hash 0: expected ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_damage_to_storage_is_named_with_what_was_expected_and_found(log, case):
    change, message = CASES[case]
    change(log)

    with pytest.raises(LogDamaged) as found:
        log.audit()

    assert str(found.value).startswith(message)
    assert "\n" not in str(found.value)


def test_events_rearranged_in_the_files_alone_are_named(log):
    """What the operator did not sign again does not need the events' own versions to be found."""
    one, other, path = event(301), event(302), "tile/entries/001"
    assert len(one) == len(other)
    parts = re.compile(b"(%b)(..)(%b)" % (re.escape(one), re.escape(other)), re.DOTALL)
    alter(log, path, lambda data: parts.sub(rb"\3\2\1", data))

    with pytest.raises(LedgerError) as found:
        log.audit()

    assert str(found.value).startswith(f"{path}, entry 301: expected leaf hash ")


def test_a_partial_that_is_gone_is_read_from_the_full_tile(log):
    older = LogReader(log.folder, 300)
    path = Tile(0, 1, 44).path

    assert log.folder.read(path) is None
    assert older.root() == LogReader(log.folder, SIZE).root(300)
    assert older.entry(299) == event(299)


def test_a_checkpoint_that_was_signed_and_whose_tail_was_cut_off_is_not_signed_over(log):
    """The operator restores an older copy of the log; the keys remember."""
    known = log.policy().open("known", log.folder.read("checkpoint"))
    shutil.rmtree(log.log_dir)
    (log.keyring.folder / "last-signed").rename(log.keyring.folder / "away")
    log.publish(300)

    with pytest.raises(HistoryForked, match=r"rollback: the log is smaller than it was: expected at least .*700.*300"):
        log.audit(known=known)


def test_nothing_is_signed_over_a_bundle_that_lost_its_tail(log):
    alter(log, LAST, lambda data: data[:-1])

    with pytest.raises(LogDamaged, match=LAST):
        log.open(NOV_21)
