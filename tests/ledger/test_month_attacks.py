"""Each attack on monthly certificates of LEDGER.md 5 D and G by its name, with what the audit says of it.

The operator itself signs the lies here: no key helps, only that certificates must fit each other and the log.
"""

import dataclasses
import json
import os
import shutil
import time

import pytest
from log_samples import DAY_MS, NOV_21, Installation, events

from ledger.checkpoint import Checkpoint
from ledger.encoding import decode_base64, encode_base64, encode_json
from ledger.errors import LedgerError, Malformed, MonthFailed, SignatureFailed
from ledger.files import Folder
from ledger.keys import SigningKey, format_private_key, public_key
from ledger.months import TreeState, certificate_path, month_of, open_month, pre_authentication, provisional_path, seal
from ledger.reader import LogReader

DEC_1 = 1_796_083_200_000  # 2026-12-01T00:00:00Z
JAN_1 = DEC_1 + 31 * DAY_MS
FEB_1 = JAN_1 + 31 * DAY_MS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """November with 100 events, December with 150, January open with 150."""
    installed = Installation(tmp_path_factory.mktemp("three"))
    for size, now_ms in ((100, NOV_21), (250, DEC_1), (400, JAN_1)):
        installed.publish(size, now_ms=now_ms)
    assert [month.closing.tree_size for month in installed.audit().months] == [100, 250, 400]
    return installed


@pytest.fixture
def three(made, scratch):
    """A copy to lie in."""
    shutil.copytree(made.log_dir, scratch / "log")
    copy = Installation.__new__(Installation)
    copy.log_dir, copy.keyring, copy.folder = scratch / "log", made.keyring, Folder(scratch / "log")
    return copy


def read(installed, month):
    return open_month(month, installed.folder.read(certificate_path(month)), installed.policy())


def tree(installed, size, at_ms, root=None):
    """A checkpoint over any size, signed by the operator, with its link: (state, root)."""
    reader = LogReader(installed.folder, 400)
    root = root or reader.root(size)
    origin = installed.keyring.origin
    note = installed.keyring.sign(Checkpoint(origin, size, root), at_ms // 1000)
    return TreeState(tree_size=size, checkpoint=note, link=reader.link(size)), root


def lie(installed, month, **changes):
    """Put another certificate in a month's place, with a good signature."""
    statement = dataclasses.replace(read(installed, month), **changes)
    write(installed, month, statement.payload())


def write(installed, month, payload):
    installed.folder.replace(certificate_path(month), seal(payload, installed.keyring.certificate_keys[-1]))


def proof(installed, old, new):
    return tuple(LogReader(installed.folder, 400).consistency_proof(old, new))


def test_a_gap_between_two_months_is_refused(three):
    opening, _ = tree(three, 150, DEC_1)
    lie(three, "2026-12", opening=opening, consistency_proof=proof(three, 150, 250), counts={"xp-awarded/1": 100})

    with pytest.raises(MonthFailed, match=r"opening size: expected 100 as certificate of 2026-11 has it, found 150"):
        three.audit()


def test_an_overlap_of_two_months_is_refused(three):
    opening, _ = tree(three, 50, NOV_21)
    lie(three, "2026-12", opening=opening, consistency_proof=proof(three, 50, 250), counts={"xp-awarded/1": 200})

    with pytest.raises(MonthFailed, match=r"opening size: expected 100 as certificate of 2026-11 has it, found 50"):
        three.audit()


def test_the_same_size_with_another_root_is_refused(three):
    forked, root = tree(three, 100, DEC_1 - 1000, root=bytes(32))
    forked = dataclasses.replace(forked, link=read(three, "2026-11").closing.link)
    lie(three, "2026-12", opening=forked, closing=forked, closing_root=root, consistency_proof=(), counts={})

    with pytest.raises(MonthFailed, match=r"opening checkpoint: expected .* as certificate of 2026-11 has it, found"):
        three.audit()


def test_the_same_checkpoint_signed_again_is_not_the_closing_one(three):
    again, _ = tree(three, 100, DEC_1 - 1000)
    lie(three, "2026-12", opening=again)

    with pytest.raises(MonthFailed, match=r"2026-12.dsse.json, opening checkpoint: expected"):
        three.audit()


def test_a_missing_month_is_refused(three):
    three.folder.remove(certificate_path("2026-12"))

    with pytest.raises(
        MonthFailed, match=r"2027-01.*, month: expected 2026-12 as certificate of 2026-11 has it, found"
    ):
        three.audit()


def test_a_month_certified_twice_is_refused(three):
    lie(three, "2026-11", counts={"quest-completed/1": 100})

    with pytest.raises(MonthFailed, match=r"2026-12.dsse.json, previousCertificate: expected .* found"):
        three.audit()
    three.folder.replace(certificate_path("2026-12"), three.folder.read(certificate_path("2026-11")))
    with pytest.raises(MonthFailed, match=r"expected a statement of 2026-12, found certificate of 2026-11"):
        three.audit()


def test_an_empty_month_that_is_left_out_is_refused(scratch):
    installed = Installation(scratch)
    installed.publish(100, now_ms=NOV_21)
    installed.publish(400, now_ms=JAN_1)
    assert [m.month for m in installed.audit().months] == ["2026-11", "2026-12", "2027-01"]
    installed.publish(401, now_ms=FEB_1)
    installed.folder.remove(certificate_path("2026-12"))
    installed.folder.remove("roots/2026-12.checkpoint")
    lie(installed, "2027-01", previous_digest=read(installed, "2026-11").digest)

    with pytest.raises(MonthFailed, match=r"2027-01.dsse.json, month: expected 2026-12 as certificate of 2026-11"):
        installed.audit()


def test_months_in_the_wrong_order_are_refused(three):
    november, december = (three.folder.read(certificate_path(month)) for month in ("2026-11", "2026-12"))
    three.folder.replace(certificate_path("2026-11"), december)
    three.folder.replace(certificate_path("2026-12"), november)

    with pytest.raises(MonthFailed, match=r"2026-11.dsse.json: expected a statement of 2026-11, found .* of 2026-12"):
        three.audit()


def test_a_broken_link_to_the_previous_certificate_is_refused(three):
    lie(three, "2026-12", previous_digest="ab" * 32)

    digest = read(three, "2026-11").digest
    with pytest.raises(MonthFailed, match=f"previousCertificate: expected {digest} as certificate of 2026-11 has it"):
        three.audit()


def test_an_event_outside_its_months_bounds_belongs_to_the_month_of_its_index_and_is_named(three):
    """All sample events say that they were recorded on 21 November; December holds 150 of them, by their index."""
    december = three.audit().claims
    details = [claim.detail for claim in december if claim.name == "month"]

    assert details[1].startswith(
        "certificate of 2026-12: 150 events (150 say that they were recorded in another month)"
    )


@pytest.mark.parametrize("counts", [{"quest-completed/1": 50, "xp-awarded/1": 99}, {"quest-completed/1": 151}, {}])
def test_a_number_of_events_that_the_sizes_contradict_is_refused(three, counts):
    lie(three, "2026-12", counts=counts)

    with pytest.raises(MonthFailed, match=f"2026-12.*, counts: expected 150 events, found {sum(counts.values())}"):
        three.audit()


def test_counts_that_the_entries_contradict_are_refused(three):
    statement = open_month("p", three.folder.read(provisional_path("2027-01")), three.policy())
    wrong = dataclasses.replace(statement, counts={"quest-completed/1": 49, "xp-awarded/1": 101})
    three.folder.replace(provisional_path("2027-01"), seal(wrong.payload(), three.keyring.certificate_keys[-1]))

    with pytest.raises(MonthFailed, match=r"counts of quest-completed/1: expected 50 in the entries, found 49"):
        three.audit()


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Niue", "America/New_York", "Europe/Berlin"])
def test_no_time_zone_and_no_summer_time_moves_the_boundary(scratch, monkeypatch, zone):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        installed = Installation(scratch)
        writer = installed.open(DEC_1 - 3_600_000)
        writer.append(events(0, 10))
        writer.sign(DEC_1 - 1)
        before = writer.month
        writer.append(events(10, 11))
        writer.sign(DEC_1)
        writer.close(DEC_1)
        # 29 March 2026 01:00 UTC and 25 October: where the clocks of Berlin change
        summer = [month_of(at) for at in (1_774_746_000_000, 1_792_890_000_000)]
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()

    assert (before, writer.month) == ("2026-11", "2026-12")
    assert read(installed, "2026-11").closing.tree_size == 10
    assert summer == ["2026-03", "2026-10"]
    assert "TZ" not in os.environ or os.environ["TZ"] != zone


@pytest.mark.parametrize(
    ("at", "month"),
    [
        (1_835_481_599_999, "2028-02"),  # 2028-02-29T23:59:59.999Z
        (1_835_481_600_000, "2028-03"),
        (1_803_859_199_999, "2027-02"),  # 2027-02-28T23:59:59.999Z
        (1_803_859_200_000, "2027-03"),
        (4_107_542_399_999, "2100-02"),  # 2100 is no leap year
        (4_107_542_400_000, "2100-03"),
        (1_483_228_799_999, "2016-12"),  # the leap second 23:59:60 has the number of 00:00:00: it is the next month's
        (1_483_228_800_000, "2017-01"),
    ],
)
def test_leap_days_and_leap_seconds_do_not_move_the_boundary(at, month):
    assert month_of(at) == month


# DSSE


def envelope(installed):
    return json.loads(installed.folder.read(certificate_path("2026-12")))


def put(installed, value):
    installed.folder.replace(certificate_path("2026-12"), encode_json(value) + b"\n")


def test_another_payload_type_is_refused(three):
    put(three, envelope(three) | {"payloadType": "application/vnd.cyclonedx+json"})

    with pytest.raises(Malformed, match=r"2026-12.dsse.json, payloadType: expected application/vnd.in-toto\+json"):
        three.audit()


def test_another_payload_under_the_old_signature_is_refused(three):
    value = envelope(three)
    payload = decode_base64("p", value["payload"]).replace(b'"events":150', b'"events":151')
    put(three, value | {"payload": encode_base64(payload)})

    with pytest.raises(SignatureFailed, match=r"2026-12.dsse.json: expected a good signature by .*, found a bad one"):
        three.audit()


def test_a_signature_over_the_payload_without_its_type_is_refused(three):
    value = envelope(three)
    bare = three.keyring.certificate_keys[-1].secret.sign(decode_base64("p", value["payload"]))
    put(three, value | {"signatures": [value["signatures"][0] | {"sig": encode_base64(bare)}]})

    with pytest.raises(SignatureFailed, match="expected a good signature"):
        three.audit()


def test_a_signature_by_a_key_that_is_not_listed_is_refused(three):
    seed = b"7" * 32
    stranger = SigningKey.parse(format_private_key(public_key("stranger.example", 1, seed), seed))
    payload = read(three, "2026-12").payload()
    three.folder.replace(certificate_path("2026-12"), seal(payload, stranger))

    with pytest.raises(SignatureFailed, match=r"expected a signature by .*certificates\+.*, found 'stranger.example"):
        three.audit()


def test_the_same_key_twice_is_not_two_signers(three):
    """Our form has one signature, so there is no threshold to reach; a verifier that has one is not deceived either."""
    dsse = pytest.importorskip("securesystemslib.dsse", reason="securesystemslib is not installed")
    signers = pytest.importorskip("securesystemslib.signer")
    exceptions = pytest.importorskip("securesystemslib.exceptions")
    value = envelope(three)
    twice = value | {"signatures": value["signatures"] * 2}
    key = three.keyring.certificate_keys[-1].key
    theirs = signers.SSlibKey(key.label, "ed25519", "ed25519", {"public": key.public.hex()})
    put(three, twice)

    with pytest.raises(Malformed, match=r"2026-12.dsse.json: expected a DSSE envelope with one signature"):
        three.audit()
    assert list(dsse.Envelope.from_dict(json.loads(json.dumps(value))).verify([theirs], 1)) == [key.label]
    for doubled in (twice, value):
        with pytest.raises((exceptions.VerificationError, ValueError)):
            dsse.Envelope.from_dict(json.loads(json.dumps(doubled))).verify([theirs], 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b"in-toto.io/Statement/v1",
            b"in-toto.io/Statement/v0",
            r"json, _type: expected https://in-toto.io/Statement/v1",
        ),
        (b"monthly-root/v1", b"monthly-root/v2", r"json, predicateType: expected .*monthly-root/v1, found .*v2"),
        (b"monthly-root/v1", b"provisional-root/v1", r"index: expected one in a certificate, none in a provisional"),
    ],
)
def test_another_type_of_statement_is_refused(three, old, new, message):
    write(three, "2026-12", read(three, "2026-12").payload().replace(old, new))

    with pytest.raises(LedgerError, match=message):
        three.audit()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"events":150', b'"events": 150', "compact JSON without duplicate keys, found another encoding from byte"),
        (b'"events":150', b'"events":1,"events":150', "compact JSON without duplicate keys"),
        (b'"events":150', b'"events":150.0', "JSON without floats"),
        (b'"lastSize":null', b'"lastSize":1e3', "JSON without floats"),
        (b'"lastSize":null', b'"lastSize":"\\ud800"', "UnicodeEncodeError"),
        (b'"lastSize":null', b'"lastSize":' + b"[" * 900 + b"]" * 900, "of 2026-12|RecursionError|JSON"),
        (b'"events":150', b'"more":1,"events":150', "a monthly root's statement, found other keys, values or order"),
        (b'"2026-12-01T', b'"2026-12-02T', "a monthly root's statement, found other keys, values or order"),
    ],
)
def test_a_signed_statement_in_another_form_is_refused_and_what_is_wrong_with_it_told(three, old, new, message):
    payload = read(three, "2026-12").payload()
    assert old in payload
    write(three, "2026-12", payload.replace(old, new, 1))

    with pytest.raises(LedgerError, match=message):
        three.audit()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b'"payloadType":',
            b'"payloadType": ',
            "compact JSON without duplicate keys, found another encoding from byte",
        ),
        (b'"payloadType":', b'"payloadType":"a","payloadType":', "compact JSON without duplicate keys"),
        (b'{"payload":', b'{"payload":"","payload":', "compact JSON without duplicate keys"),
        (b'"signatures":', b'"more":1,"signatures":', "a DSSE envelope with one signature, found other keys or order"),
        (b'"keyid":', b'"more":1,"keyid":', "a DSSE envelope with one signature, found other keys or order"),
        (b'"keyid":"', b'"keyid":"\\ud800', r"expected a signature by .*, found '\\ud800"),
        (b'"keyid":"t', b'"keyid":"\\u0074', "compact JSON without duplicate keys"),
        (b'"payloadType":', b'"n":1.0,"payloadType":', "JSON without floats"),
    ],
)
def test_an_envelope_in_another_form_is_refused_and_what_is_wrong_with_it_told(three, old, new, message):
    path = certificate_path("2026-12")
    data = three.folder.read(path)
    assert data.count(old) == 1
    three.folder.replace(path, data.replace(old, new))

    with pytest.raises(LedgerError, match=message):
        three.audit()


def test_a_subject_that_is_not_the_closing_root_is_refused(three):
    lie(three, "2026-12", closing_root=bytes(32))

    root = LogReader(three.folder, 400).root(250).hex()
    with pytest.raises(MonthFailed, match=f"json, subject: expected the closing root {root}, found {'00' * 32}"):
        three.audit()


def test_what_is_signed_is_the_pre_authentication_encoding():
    assert pre_authentication(b"abc") == b"DSSEv1 28 application/vnd.in-toto+json 3 abc"
