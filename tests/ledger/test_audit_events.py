"""Events that an operator put into the log in another order, twice, not at all or at another time; each signed well.

The log is whole by its hashes in every case: only who re-reads the events finds out.
"""

import datetime as dt

import pytest
from authorities import Authority
from log_samples import ANY_TIME_S, DAY_MS, NOV_21, Installation, event, events

from ledger.audit import audit_log
from ledger.encoding import encode_base64
from ledger.errors import EventRefused, LedgerError
from ledger.policy import parse_policy

DEC_1 = 1_796_083_200_000
SUBJECTS = 7


def published(tmp_path, entries):
    installed = Installation(tmp_path)
    writer = installed.open()
    writer.append(entries)
    writer.close(NOV_21)
    return installed


WRONG_ORDERS = {
    "reordered": (
        lambda log: [*log[:3], log[10], *log[4:10], log[3], *log[11:]],
        "entry 10, aggregateversion of 'player/b3': expected 3, found '1': an event was repeated or reordered",
    ),
    "duplicated": (
        lambda log: [*log[:9], log[8], *log[9:]],
        "entry 9, aggregateversion of 'player/b1': expected 3, found '2': an event was repeated or reordered",
    ),
    "dropped": (
        lambda log: [*log[:8], *log[9:]],
        "entry 14, aggregateversion of 'player/b1': expected 2, found '3': an event is missing or out of order",
    ),
    "the first one dropped": (
        lambda log: log[1:],
        "entry 6, aggregateversion of 'player/b0': expected 1, found '2': an event is missing or out of order",
    ),
    "inserted": (
        lambda log: [*log[:5], event(5, id="player.b5.1", data={"amount": 1_000_000}), *log[5:]],
        "entry 6, aggregateversion of 'player/b5': expected 2, found '1': an event was repeated or reordered",
    ),
    "one id with two bodies": (
        lambda log: [*log[:9], event(8, aggregateversion=3, id="player.b1.2"), *log[9:]],
        "entry 9, id: expected player/b1 3 with dots, found 'player.b1.2'",
    ),
}


@pytest.mark.parametrize("case", WRONG_ORDERS)
def test_events_that_an_operator_rearranged_before_signing_are_named(tmp_path, case):
    change, message = WRONG_ORDERS[case]
    installed = published(tmp_path, change(events(0, 30)))

    with pytest.raises(EventRefused) as found:
        installed.audit()

    assert str(found.value) == message


def test_a_dropped_event_is_found_in_a_later_bundle_and_by_two_processes(tmp_path):
    log = [event(number, subjects=400) for number in range(900)]
    installed = published(tmp_path, [*log[:100], *log[101:]])

    for jobs in (1, 2):
        with pytest.raises(EventRefused, match="entry 499, aggregateversion of 'player/b100': expected 1, found '2'"):
            installed.audit(jobs=jobs)


TWO_ENCODINGS = {
    "a float": (b'"amount":4', b'"amount":4.0', "expected JSON without floats"),
    "an exponent": (b'"amount":4', b'"amount":4e0', "expected JSON without floats"),
    "a key twice": (b'"amount":4', b'"amount":5,"amount":4', "without duplicate keys"),
    "a negative zero": (b'"amount":4', b'"amount":-0', "another encoding"),
    "a composed letter written as an escape": ("é".encode(), b"\\u00e9", "another encoding"),
    "a capital in an escape": (b"\\n", b"\\u000A", "another encoding"),
}


@pytest.mark.parametrize("case", TWO_ENCODINGS)
def test_another_encoding_of_the_same_event_is_named(tmp_path, case):
    good, bad, message = TWO_ENCODINGS[case]
    odd = event(4).replace(good, bad)
    assert odd != event(4)

    with pytest.raises(LedgerError, match=f"entry 4: .*{message}"):
        published(tmp_path, [*events(0, 4), odd]).audit()


def test_an_integer_of_any_length_is_one_encoding_and_keeps_its_value(tmp_path):
    big = event(4, data={"amount": 2**300})

    assert published(tmp_path, [*events(0, 4), big]).audit().checkpoint.checkpoint.tree_size == 5


def test_letters_composed_in_two_ways_are_two_texts_not_two_encodings_of_one(tmp_path):
    composed, apart = event(0, type="é"), event(1, type="e\u0301")

    installed = published(tmp_path, [composed, apart])

    assert installed.audit().checkpoint.checkpoint.tree_size == 2
    assert composed.count("é".encode()) == 2
    assert "e\u0301".encode() in apart


def recorded(number, at):
    return event(number, recordedtime=at)


def at_two_times(tmp_path, second):
    """Seven events signed on November 21, then one more, signed on December 2."""
    installed = Installation(tmp_path)
    writer = installed.open()
    writer.append(events(0, SUBJECTS))
    writer.sign(NOV_21)
    writer.close(NOV_21)
    writer = installed.open(DEC_1 + DAY_MS)
    writer.append([second])
    writer.close(DEC_1 + DAY_MS)
    return installed


def test_an_event_recorded_before_an_earlier_checkpoint_is_backdated(tmp_path):
    installed = at_two_times(tmp_path, recorded(7, "2026-11-20T12:00:00.000Z"))

    with pytest.raises(EventRefused) as found:
        installed.audit(clock_skew_s=300)

    assert str(found.value) == (
        "entry 7, recordedtime: backdated: expected 2026-11-21T09:55:00.000Z or later, as it came after a checkpoint "
        "of that time, found 2026-11-20T12:00:00.000Z"
    )


def test_an_event_recorded_after_the_checkpoint_that_covers_it_came_from_a_clock_that_was_ahead(tmp_path):
    installed = at_two_times(tmp_path, recorded(7, "2026-12-02T00:06:00.000Z"))

    with pytest.raises(EventRefused, match="entry 7, recordedtime: ahead of the clock: expected 2026-12-02T00:05"):
        installed.audit(clock_skew_s=300)


@pytest.mark.parametrize(
    "at",
    ["2026-11-21T09:55:00.000Z", "2026-11-21T23:00:00.000Z", "2026-12-01T23:59:59.999Z", "2026-12-02T00:04:59.999Z"],
)
def test_an_event_recorded_between_its_checkpoints_passes_whatever_month_it_names(tmp_path, at):
    installed = at_two_times(tmp_path, recorded(7, at))

    assert installed.audit(clock_skew_s=300).checkpoint.checkpoint.tree_size == 8


def test_the_checkpoint_of_an_earlier_audit_bounds_the_time_of_what_came_after_it(tmp_path):
    installed = Installation(tmp_path)
    installed.publish(4, now_ms=NOV_21)
    writer = installed.open(NOV_21 + DAY_MS)
    writer.append([recorded(4, "2026-11-22T09:59:00.000Z")])
    writer.sign(NOV_21 + DAY_MS)
    known = installed.policy().open("known", installed.folder.read("checkpoint"))
    writer.append([recorded(5, "2026-11-21T23:00:00.000Z")])
    writer.close(NOV_21 + 2 * DAY_MS)

    assert installed.audit(clock_skew_s=300)
    with pytest.raises(EventRefused, match="entry 5, recordedtime: backdated"):
        installed.audit(clock_skew_s=300, known=known)


def test_a_log_whose_signer_started_late_has_older_events(tmp_path):
    installed = Installation(tmp_path)
    installed.publish(7, now_ms=DEC_1 + 20 * DAY_MS)

    assert installed.audit(clock_skew_s=300).checkpoint.checkpoint.tree_size == 7
    assert installed.audit(clock_skew_s=ANY_TIME_S).months[0].month == "2026-12"


@pytest.mark.parametrize("at", ["2026-11-21", "2026-11-21T10:00:00Z", "2026-11-21T10:00:00.000+00:00", "", 5])
def test_a_time_of_recording_in_another_form_is_named(tmp_path, at):
    with pytest.raises(EventRefused, match=r"entry 1, recordedtime: expected like 2026-11-21T10:00:00.000Z"):
        published(tmp_path, [event(0), event(1, recordedtime=at)]).audit()


def test_an_event_later_than_the_time_stamp_over_it_is_named_also_where_no_checkpoint_has_a_time(
    tmp_path, ed25519_alone
):
    installed = published(tmp_path, [*events(0, 4), event(4, recordedtime="2026-12-01T12:00:00.000Z"), *events(5, 9)])
    installed.publish(10, now_ms=DEC_1)
    authority = Authority(tmp_path / "one")
    at = dt.datetime(2026, 12, 1, 11, 0, 0, tzinfo=dt.UTC)
    stamp = authority.forge(installed.folder.read("roots/2026-11.checkpoint"), at=at)
    lines = f"# tally-timestamp one {encode_base64(authority.root_der)}\n"
    policy = parse_policy("p", installed.policy_path.read_bytes() + lines.encode())
    audit_log(installed.folder, installed.policy())

    installed.folder.replace("roots/2026-11.one.tsr", stamp)

    with pytest.raises(EventRefused) as found:
        audit_log(installed.folder, policy)
    assert str(found.value) == (
        "entry 4, recordedtime: ahead of the clock: expected 2026-12-01T11:05:01.000Z or earlier, as a checkpoint of "
        "that time covers it, found 2026-12-01T12:00:00.000Z"
    )
    assert audit_log(installed.folder, policy, clock_skew_s=3_600)
