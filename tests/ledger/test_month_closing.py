"""A long month is counted beside signing: its closing checkpoint is fixed at once, its certificate follows."""

import threading

import pytest
from log_samples import DAY_MS, NOV_21, Installation, event, events

from ledger import closing, monthbook
from ledger.checkpoint import Checkpoint
from ledger.errors import HistoryForked, LedgerError, LogDamaged, MonthFailed
from ledger.months import certificate_path, open_month, provisional_path

DEC_1 = 1_796_083_200_000
JAN_1 = DEC_1 + 31 * DAY_MS


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installation in which ten events are many."""
    monkeypatch.setattr(monthbook, "AT_ONCE_MAX", 10)
    return Installation(tmp_path)


@pytest.fixture
def held(monkeypatch):
    """Counts wait until the event is set."""
    go = threading.Event()
    count = closing.count_month

    def wait(source, first, end, stop):
        while not go.wait(0.01):
            if stop.is_set():
                return count(source, first, end, stop)  # which ends at once
        return count(source, first, end, stop)

    monkeypatch.setattr(closing, "count_month", wait)
    yield go
    go.set()


def month(installed, name):
    return open_month(name, installed.folder.read(certificate_path(name)), installed.policy())


def counted(writer):
    """Wait for the count that goes on, if one does."""
    if writer._book._counting is not None:
        writer._book._counting.wait()


def test_signing_goes_on_while_a_long_month_is_counted(installed, held):
    writer = installed.open(NOV_21)
    writer.append(events(0, 300))
    frozen = writer.sign(NOV_21)
    sizes = []
    for size in (310, 600, 601):
        writer.append(events(writer.tree_size, size))
        sizes.append(writer.sign(DEC_1 + size).tree_size)
    published = installed.folder.names("roots")
    while_counting = installed.audit()
    held.set()
    counted(writer)
    writer.sign(DEC_1 + 700)
    writer.close(DEC_1 + 800)

    assert sizes == [310, 600, 601]
    assert published == ["2026-11.checkpoint", "2026-11.provisional.dsse.json"]
    assert while_counting.checkpoint.checkpoint.tree_size == 601
    assert month(installed, "2026-11").closing.tree_size == frozen.tree_size == 300
    assert sum(month(installed, "2026-11").counts.values()) == 300
    months = installed.audit().months
    assert [(m.month, m.closing.tree_size) for m in months] == [("2026-11", 300), ("2026-12", 601)]


def test_a_month_whose_count_was_cut_off_closes_where_it_was_frozen(installed, held):
    writer = installed.open(NOV_21)
    writer.append(events(0, 300))
    writer.sign(NOV_21)
    writer.append(events(300, 700))
    writer.sign(DEC_1)
    writer.close(DEC_1 + 5)
    again = installed.open(DEC_1 + DAY_MS)
    again.append(events(700, 705))
    again.sign(DEC_1 + DAY_MS)
    again.abandon()
    held.set()
    third = installed.open(DEC_1 + 2 * DAY_MS)
    counted(third)
    third.close(DEC_1 + 2 * DAY_MS)

    november = month(installed, "2026-11")

    assert (november.opening.tree_size, november.closing.tree_size) == (0, 300)
    assert [(m.month, m.closing.tree_size) for m in installed.audit().months] == [("2026-11", 300), ("2026-12", 705)]
    assert sum(installed.audit().months[1].counts.values()) == 405


def test_months_that_end_while_one_is_counted_are_certified_after_it_in_order(installed, held):
    writer = installed.open(NOV_21)
    writer.append(events(0, 300))
    writer.sign(NOV_21)
    writer.append(events(300, 320))
    writer.sign(DEC_1)
    writer.append(events(320, 321))
    writer.sign(JAN_1 + 40 * DAY_MS)
    writer.abandon()
    held.set()
    writer = installed.open(JAN_1 + 40 * DAY_MS)
    while writer._book._ended:
        counted(writer)
        writer.sign(JAN_1 + 40 * DAY_MS)
    writer.close(JAN_1 + 40 * DAY_MS)

    closed = [(m.month, m.closing.tree_size) for m in installed.audit().months]

    assert closed == [("2026-11", 300), ("2026-12", 320), ("2027-01", 320), ("2027-02", 321)]
    assert month(installed, "2027-01").counts == {}


def test_a_late_start_finds_all_its_months_closed_with_what_was_signed_then(installed):
    installed.publish(5, now_ms=NOV_21)
    writer = installed.open(JAN_1 + 5)
    writer.append(events(5, 9))
    writer.close(JAN_1 + 6)

    assert [(m.month, m.closing.tree_size) for m in installed.audit().months] == [
        ("2026-11", 5),
        ("2026-12", 5),
        ("2027-01", 9),
    ]


def test_an_entry_that_cannot_be_read_while_counting_stops_the_signer(installed, held):
    writer = installed.open(NOV_21)
    writer.append(events(0, 600))
    writer.sign(NOV_21)
    installed.folder.replace("tile/entries/000", b"\0\1")
    writer.sign(DEC_1)
    held.set()
    counted(writer)

    with pytest.raises(LogDamaged, match="tile/entries/000"):
        writer.sign(DEC_1 + 1)
    with pytest.raises(LedgerError, match="open the log again"):
        writer.sign(DEC_1 + 2)
    writer.abandon()


def test_a_closing_checkpoint_of_another_history_is_not_resumed(installed, held):
    writer = installed.open(NOV_21)
    writer.append(events(0, 300))
    writer.sign(NOV_21)
    writer.close(NOV_21)
    foreign = installed.keyring.sign(Checkpoint(writer.signed.origin, 200, bytes(32)), NOV_21 // 1000)
    installed.folder.replace("roots/2026-11.checkpoint", foreign)

    with pytest.raises(LedgerError, match=r"root|proof"):
        installed.open(DEC_1)
    bigger = installed.keyring.sign(Checkpoint(writer.signed.origin, 301, bytes(32)), NOV_21 // 1000)
    installed.folder.replace("roots/2026-11.checkpoint", bigger)
    with pytest.raises(HistoryForked, match=r"expected a size of at least 301, as roots/2026-11.checkpoint has it"):
        installed.open(DEC_1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda data: data.replace(b"\n300\n", b"\n301\n"),
            "2026-11.checkpoint: expected the closing checkpoint of the",
        ),
        (lambda _: b"", "2026-11.checkpoint: expected the closing checkpoint of the certificate of 2026-11"),
        (lambda _: None, "2026-11.checkpoint: expected the file, found none"),
    ],
)
def test_a_closing_checkpoint_that_is_not_the_certificates_is_found(installed, spoil, message):
    installed.publish(300, now_ms=NOV_21)
    writer = installed.open(DEC_1)
    counted(writer)
    writer.close(DEC_1)
    data = spoil(installed.folder.read("roots/2026-11.checkpoint"))
    if data is None:
        installed.folder.remove("roots/2026-11.checkpoint")
    else:
        installed.folder.replace("roots/2026-11.checkpoint", data)

    with pytest.raises(LedgerError, match=message):
        installed.audit()


def test_a_month_is_counted_alike_at_once_and_beside_signing(tmp_path, monkeypatch):
    found = []
    for name, at_once_max in (("one", 10), ("two", 10_000)):
        monkeypatch.setattr(monthbook, "AT_ONCE_MAX", at_once_max)
        installed = Installation(tmp_path / name)
        writer = installed.open(NOV_21)
        writer.append([event(number, subjects=40) for number in range(700)])
        writer.sign(NOV_21)
        writer.sign(DEC_1)
        while installed.folder.read(certificate_path("2026-11")) is None:
            counted(writer)
            writer.sign(DEC_1)
        writer.close(DEC_1)
        statement = month(installed, "2026-11")
        found.append((statement.counts, statement.index, statement.closing_root, statement.closing.link))

    assert found[0] == found[1]
    assert found[0][1].subjects == 40


def test_a_month_frozen_twice_is_refused(installed):
    writer = installed.open(NOV_21)
    installed.folder.replace("roots/2026-11.checkpoint", b"there already\n")

    with pytest.raises(MonthFailed, match=r"2026-11.checkpoint: there is one already; no second certificate"):
        writer.sign(DEC_1)
    writer.abandon()
    assert installed.folder.read(provisional_path("2026-11")) is not None


def test_a_frozen_month_whose_closing_checkpoint_is_not_of_the_log_is_found(installed, held):
    writer = installed.open(NOV_21)
    writer.append(events(0, 300))
    writer.sign(NOV_21)
    writer.sign(DEC_1)
    writer.abandon()
    path = "roots/2026-11.checkpoint"
    assert installed.audit().months[-1].month == "2026-11"
    origin = installed.keyring.origin

    for size, root in ((300, bytes(32)), (301, bytes(32))):
        note = installed.keyring.sign(Checkpoint(origin, size, root), NOV_21 // 1000)
        installed.folder.replace(path, note)
        with pytest.raises(
            MonthFailed, match=rf"{path}: expected a checkpoint of this log, up to size 300, found size"
        ):
            installed.audit()
    installed.folder.replace(path, b"x\n")
    with pytest.raises(LedgerError, match=path):
        installed.audit()


@pytest.mark.parametrize("name", ["2026-10.checkpoint", "2026-10.one.tsr", "2026-11.one.tsr", "2026-12.one.tsr"])
def test_a_file_of_a_month_that_the_log_has_not_is_found(installed, name):
    installed.publish(5, now_ms=NOV_21)
    installed.folder.replace(f"roots/{name}", b"x")

    with pytest.raises(LogDamaged, match=rf"roots/{name}: expected a file of a month that the log has, found another"):
        installed.audit()
