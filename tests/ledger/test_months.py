"""Months close by the signer's clock, each certificate fits the one before, and no altered one passes the audit."""

import dataclasses
import json

import pytest
from log_samples import DAY_MS, NOV_21, Installation, events

from ledger.errors import LedgerError, MonthFailed, SignatureFailed, WrongUse
from ledger.keys import SigningKey, format_private_key, public_key
from ledger.months import (
    certificate_path,
    month_bounds,
    month_of,
    next_month,
    open_month,
    parse_month,
    pre_authentication,
    provisional_path,
    seal,
    unseal,
)

DEC_1 = 1_796_083_200_000  # 2026-12-01T00:00:00Z
JAN_1 = DEC_1 + 31 * DAY_MS


@pytest.fixture
def installed(tmp_path):
    return Installation(tmp_path)


def month(installed, name, *, is_provisional=False):
    path = provisional_path(name) if is_provisional else certificate_path(name)
    return open_month(path, installed.folder.read(path), installed.policy())


@pytest.mark.parametrize(
    ("at_ms", "name"),
    [(DEC_1 - 1, "2026-11"), (DEC_1, "2026-12"), (JAN_1 - 1, "2026-12"), (JAN_1, "2027-01"), (0, "1970-01")],
)
def test_a_month_begins_at_midnight_utc(at_ms, name):
    assert month_of(at_ms) == name


def test_months_follow_each_other_over_the_turn_of_the_year():
    assert next_month("2026-12") == "2027-01"
    assert month_bounds("2026-12") == ("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z")


@pytest.mark.parametrize("text", ["2026-13", "2026-00", "2026-1", "26-01", "2026-11-01", "\u0662\u0660\u0662\u0666-11"])
def test_what_is_no_month_is_refused(text):
    with pytest.raises(WrongUse, match="YYYY-MM"):
        parse_month(text)


def test_a_month_closes_at_the_last_checkpoint_signed_before_it_ended(installed):
    writer = installed.open(DEC_1 - 10_000)
    writer.append(events(0, 300))
    writer.sign(DEC_1 - 1)
    closing = installed.folder.read("checkpoint")
    writer.append(events(300, 350))
    writer.sign(DEC_1)
    writer.close(DEC_1)

    november = month(installed, "2026-11")

    assert november.closing.checkpoint == closing
    assert (november.opening.tree_size, november.closing.tree_size) == (0, 300)
    assert november.counts == {"quest-completed/1": 100, "xp-awarded/1": 200}
    december = month(installed, "2026-12", is_provisional=True)
    assert december.opening == november.closing
    assert sum(december.counts.values()) == 50
    assert installed.folder.names("roots") == [
        "2026-11.checkpoint",
        "2026-11.dsse.json",
        "2026-12.provisional.dsse.json",
    ]
    assert installed.folder.read("roots/2026-11.checkpoint") == closing
    assert len(installed.audit().months) == 2


def test_what_was_integrated_but_not_signed_before_midnight_belongs_to_the_next_month(installed):
    writer = installed.open(DEC_1 - 10_000)
    writer.append(events(0, 10))
    writer.sign(DEC_1 - 5_000)
    writer.append(events(10, 600))
    writer.sign(DEC_1 + 5)
    writer.close(DEC_1 + 5)

    assert month(installed, "2026-11").closing.tree_size == 10
    assert sum(month(installed, "2026-12", is_provisional=True).counts.values()) == 590
    assert len(installed.audit().months) == 2


def test_empty_months_are_certified_too(installed):
    installed.publish(5, now_ms=NOV_21)
    installed.open(JAN_1 + 40 * DAY_MS).close(JAN_1 + 40 * DAY_MS)

    december = month(installed, "2026-12")

    assert december.counts == {}
    assert december.opening == december.closing
    assert december.previous_digest == month(installed, "2026-11").digest
    assert [found.month for found in installed.audit().months] == ["2026-11", "2026-12", "2027-01", "2027-02"]


def test_a_log_that_was_empty_all_month_is_certified(installed):
    installed.publish(now_ms=NOV_21)
    installed.publish(7, now_ms=DEC_1 + 1)

    assert month(installed, "2026-11").closing.tree_size == 0
    assert [found.month for found in installed.audit().months] == ["2026-11", "2026-12"]


def test_after_downtime_the_month_closes_before_anything_new_is_integrated(installed):
    installed.publish(100, now_ms=NOV_21)
    writer = installed.open(DEC_1 + 3 * DAY_MS)

    assert installed.folder.read(certificate_path("2026-11")) is not None
    writer.append(events(100, 200))
    writer.close(DEC_1 + 3 * DAY_MS)
    assert month(installed, "2026-11").closing.tree_size == 100


@pytest.mark.parametrize("sizes", [(10, 20), (256, 300), (255, 257), (300, 900)])
def test_counts_are_right_however_often_the_signer_restarts_within_a_month(installed, sizes):
    for size in sizes:
        installed.publish(size, now_ms=NOV_21)
    installed.publish(1_000, now_ms=DEC_1 + 1)
    installed.publish(1_001, now_ms=JAN_1 + 1)

    counts = [month(installed, name).counts for name in ("2026-11", "2026-12")]

    assert sum(counts[0].values()) == sizes[-1]
    assert sum(counts[1].values()) == 1_000 - sizes[-1]
    assert len(installed.audit().months) == 3


def test_counts_are_made_again_when_the_provisional_root_is_lost_after_the_first_month(installed):
    installed.publish(30, now_ms=NOV_21)
    installed.publish(300, now_ms=DEC_1)
    installed.folder.remove(provisional_path("2026-12"))
    installed.publish(310, now_ms=JAN_1)

    assert sum(month(installed, "2026-12").counts.values()) == 270
    assert len(installed.audit().months) == 3


def test_a_clock_that_goes_backwards_over_the_boundary_reopens_nothing(installed):
    installed.publish(10, now_ms=DEC_1 + 5)
    installed.publish(20, now_ms=DEC_1 - 5)

    assert installed.folder.names("roots") == ["2026-12.provisional.dsse.json"]
    assert sum(month(installed, "2026-12", is_provisional=True).counts.values()) == 20


def test_a_certificate_is_an_in_toto_statement_in_a_dsse_envelope(installed):
    installed.publish(10, now_ms=NOV_21)
    installed.publish(11, now_ms=DEC_1)
    envelope = json.loads(installed.folder.read(certificate_path("2026-11")))
    payload, _ = unseal(
        "certificate", installed.folder.read(certificate_path("2026-11")), installed.policy().certificate_keys
    )
    statement = json.loads(payload)

    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"][0]["name"] == "tallyroot.example/ledger/boston/2026-11"
    assert list(statement["predicate"]) == [
        "period", "previousCertificate", "opening", "closing", "consistencyProof", "counts", "chain", "index", "keys",
        "policy",
    ]  # fmt: skip
    assert statement["predicate"]["period"] == {"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"}


def test_the_bytes_under_a_certificate_are_those_of_dsse():
    assert pre_authentication(b"{}") == b"DSSEv1 28 application/vnd.in-toto+json 2 {}"


@pytest.fixture
def three_months(installed):
    installed.publish(100, now_ms=NOV_21)
    installed.publish(250, now_ms=DEC_1)
    installed.publish(400, now_ms=JAN_1)
    assert len(installed.audit().months) == 3
    return installed


def replace_state(state, **changes):
    return dataclasses.replace(state, **changes)


def lie(installed, name, *, is_last=False, **changes):
    """A root that the operator itself signs, saying something else."""
    statement = month(installed, name, is_provisional=is_last)
    changes = {key: change(statement) if callable(change) else change for key, change in changes.items()}
    altered = dataclasses.replace(statement, **changes)
    path = provisional_path(name) if is_last else certificate_path(name)
    installed.folder.replace(path, seal(altered.payload(), installed.keyring.certificate_keys[-1]))


LIES = {
    "gap": ({"opening": lambda s: replace_state(s.closing, link=s.opening.link), "counts": {}}, "consistency|opening"),
    "overlap": (
        {"opening": lambda s: replace_state(s.opening, tree_size=50)},
        "opening checkpoint, size: expected 100, found 50",
    ),
    "opening link": ({"opening": lambda s: replace_state(s.opening, link=bytes(32))}, "opening link: expected"),
    "closing link": ({"closing": lambda s: replace_state(s.closing, link=bytes(32))}, "opening link: expected 0000"),
    "closing root": ({"closing_root": bytes(32)}, "subject: expected the closing root"),
    "closing size": ({"closing": lambda s: replace_state(s.closing, tree_size=249)}, "size: expected 250, found 249"),
    "counts of a type": ({"counts": {"quest-completed/1": 150}}, "previousCertificate: expected"),
    "number of events": ({"counts": {"quest-completed/1": 1}}, "counts: expected 150 events, found 1"),
    "consistency proof": ({"consistency_proof": ()}, "expected a proof, found none"),
    "previous certificate": ({"previous_digest": "ab" * 32}, "previousCertificate: expected"),
    "no previous certificate": ({"previous_digest": None}, "previousCertificate: expected"),
    "another month": ({"month": "2027-02"}, "statement of 2026-12, found certificate of 2027-02"),
    "another origin": ({"origin": "tallyroot.example/ledger/berlin"}, "origin: expected"),
    "provisional": ({"is_provisional": True, "index": None}, "expected a statement of 2026-12"),
    "no index": ({"index": None}, "index: expected one in a certificate"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_certificate_with_a_lie_is_refused_though_its_signature_is_good(three_months, case):
    changes, message = LIES[case]
    lie(three_months, "2026-12", **changes)

    with pytest.raises(LedgerError, match=message):
        three_months.audit()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": {"quest-completed/1": 150}}, "counts of quest-completed/1: expected 50 in the entries, found 150"),
        ({"closing": lambda s: replace_state(s.closing, link=bytes(32))}, "chain: expected .* from the entries"),
    ],
)
def test_a_lie_that_no_later_month_contradicts_is_found_in_the_entries(three_months, changes, message):
    lie(three_months, "2027-01", is_last=True, **changes)

    with pytest.raises(MonthFailed, match=message):
        three_months.audit()


def test_a_missing_month_is_noticed(three_months):
    three_months.folder.remove(certificate_path("2026-12"))

    with pytest.raises(MonthFailed, match="month: expected 2026-12"):
        three_months.audit()


def test_a_missing_first_month_is_noticed(three_months):
    three_months.folder.remove(certificate_path("2026-11"))

    with pytest.raises(MonthFailed, match="first month to open at size 0"):
        three_months.audit()


def test_a_missing_last_month_is_noticed(three_months):
    three_months.folder.remove(provisional_path("2027-01"))

    with pytest.raises(LedgerError, match="provisional root of the open month"):
        three_months.audit()


def test_a_month_certified_twice_is_noticed(three_months):
    three_months.folder.replace(certificate_path("2027-01"), three_months.folder.read(certificate_path("2026-12")))

    with pytest.raises(MonthFailed, match="a statement of 2027-01, found certificate of 2026-12"):
        three_months.audit()


def test_a_closing_checkpoint_signed_after_the_month_ended_is_noticed(three_months):
    november = month(three_months, "2026-11")
    late = three_months.keyring.sign(
        three_months.policy().open("c", november.closing.checkpoint).checkpoint, DEC_1 // 1000 + 1
    )
    lie(three_months, "2026-11", closing=lambda s: replace_state(s.closing, checkpoint=late))

    with pytest.raises(MonthFailed, match="signed before 2026-12-01T00:00:00Z"):
        three_months.audit()


def test_a_second_certificate_for_a_month_is_not_signed(installed):
    installed.publish(10, now_ms=NOV_21)
    writer = installed.open(NOV_21)
    installed.folder.replace(certificate_path("2026-11"), b"there already\n")

    with pytest.raises(MonthFailed, match="no second certificate is signed"):
        writer.sign(DEC_1)
    writer.abandon()


def test_a_certificate_by_a_key_that_the_policy_does_not_list_is_refused(three_months):
    seed = b"7" * 32
    stranger = SigningKey.parse(format_private_key(public_key("stranger.example", 1, seed), seed))
    payload = month(three_months, "2026-12").payload()
    three_months.folder.replace(certificate_path("2026-12"), seal(payload, stranger))

    with pytest.raises(SignatureFailed, match="stranger"):
        three_months.audit()


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e | {"payloadType": "application/json"},
        lambda e: e | {"payload": e["payload"][:-4]},
        lambda e: e | {"signatures": e["signatures"] * 2},
        lambda e: e | {"signatures": []},
        lambda e: e | {"more": 1},
        lambda e: dict(reversed(e.items())),
    ],
)
def test_an_altered_envelope_is_refused(three_months, change):
    envelope = json.loads(three_months.folder.read(certificate_path("2026-12")))
    altered = json.dumps(change(envelope), separators=(",", ":")).encode() + b"\n"
    three_months.folder.replace(certificate_path("2026-12"), altered)

    with pytest.raises(LedgerError, match="2026-12"):
        three_months.audit()


def test_events_that_were_recorded_in_another_month_are_named_not_hidden(installed):
    installed.publish(10, now_ms=NOV_21)
    installed.publish(14, now_ms=DEC_1 + 1)

    details = [claim.detail for claim in installed.audit().claims if claim.name == "month"]

    assert details[0].startswith("certificate of 2026-11: 10 events, size 10")
    assert details[1].startswith(
        "provisional root of 2026-12: 4 events (4 say that they were recorded in another month)"
    )


def test_a_clock_that_is_years_ahead_certifies_nothing(installed):
    installed.publish(10, now_ms=NOV_21)

    with pytest.raises(MonthFailed, match="set the clock right"):
        installed.open(NOV_21 + 11 * 366 * DAY_MS)
    assert installed.folder.names("roots") == ["2026-11.provisional.dsse.json"]
