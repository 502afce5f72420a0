"""An auditor compares the ranges of the keys with what the log tells, and refuses every other story."""

from dataclasses import replace
from hashlib import sha256

import pytest
from log_samples import NOV_21, events
from rotation_samples import ORIGIN, Rotating, rotate, told

from ledger.audit import audit_log
from ledger.checkpoint import parse_checkpoint
from ledger.encoding import encode_base64
from ledger.errors import EventRefused, HistoryForked, MonthFailed, SignatureFailed
from ledger.keyevents import KEY_ADDED
from ledger.keys import new_key
from ledger.months import certificate_path, open_month, parse_statement, seal, unseal
from ledger.note import ED25519
from ledger.policy import parse_policy
from ledger.receipt import parse_receipt, prove_entry, verify_receipt
from ledger.rotation import turn_keys


@pytest.fixture
def rotating(tmp_path):
    return Rotating(tmp_path)


def test_a_rotated_log_is_audited_with_its_new_policy_and_its_old_months_stay_good(rotating):
    rotate(rotating)

    report = rotating.audit()
    keys = {statement.month: [(first, last) for _, first, last in statement.keys] for statement in report.months}

    assert told(report).endswith("as the log's events tell them")
    assert list(keys) == ["2026-11", "2026-12", "2027-01"]
    assert ((11, None) in keys["2026-11"], (11, None) in keys["2026-12"]) == (False, True)
    assert (0, 21) in keys["2027-01"]
    november = certificate_path("2026-11")
    assert open_month(november, rotating.folder.read(november), rotating.policy()).closing.tree_size == 10


def test_a_receipt_from_before_the_rotation_verifies_with_the_new_policy_for_ever(rotating):
    rotating.stage("log-ed25519-2")
    rotating.run(rotating.players(10))
    receipt = bytes(prove_entry(rotating.folder, rotating.policy(), 3))

    rotating.run([rotating.add("log-ed25519-2", "log-ed25519")])
    rotating.run([rotating.retire("log-ed25519", "log-ed25519-2")])

    claims = list(verify_receipt("receipt", parse_receipt("receipt", receipt), rotating.policy()))
    assert any("size 10" in claim.detail for claim in claims)


def test_an_old_policy_is_good_until_the_old_key_is_retired_and_then_refused(rotating):
    rotating.stage("log-ed25519-2")
    rotating.run(rotating.players(10))
    old = rotating.policy()
    rotating.run([rotating.add("log-ed25519-2", "log-ed25519")])

    during = audit_log(rotating.folder, old)
    rotating.run([rotating.retire("log-ed25519", "log-ed25519-2")])

    assert "signs from size 11 on: this policy is older" in told(during)
    with pytest.raises(SignatureFailed, match=r"a signature by .*, found none"):
        audit_log(rotating.folder, old)


def test_a_checkpoint_by_a_retired_key_beyond_its_last_size_is_refused(rotating):
    rotate(rotating)
    checkpoint, note = parse_checkpoint("checkpoint", rotating.folder.read("checkpoint"))
    line = rotating.key("log-ed25519").sign_checkpoint(checkpoint, NOV_21 // 1000)

    with pytest.raises(SignatureFailed, match=r"key .*expected sizes from 0 to 21, found 32"):
        rotating.policy().open("checkpoint", bytes(note) + str(line).encode())


def test_a_new_key_before_its_event_is_refused(rotating):
    rotating.stage("log-ed25519-2")
    rotating.run(rotating.players(10))
    early = rotating.folder.read("checkpoint")
    rotating.run([rotating.add("log-ed25519-2", "log-ed25519")])
    line = rotating.key("log-ed25519-2").sign_checkpoint(parse_checkpoint("checkpoint", early)[0], 0)

    with pytest.raises(SignatureFailed, match=r"expected sizes from 11 to .*, found 10"):
        rotating.policy().open("checkpoint", early + str(line).encode())


def with_ranges(rotating, *changes):
    """The policy as an auditor would have it who believed other ranges."""
    text = rotating.policy_path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_policy("policy", text.encode())


def obey(monkeypatch, rotating, key, first_size):
    """From now on the signer takes a key for good, whatever approves it."""
    text = rotating.policy_path.read_text()
    lines = f"# tally-range {key.key_id.hex()} {first_size} -\nlog {key}\n"
    rotating.policy_path.write_text(text.replace("quorum none", f"{lines}quorum none"))
    monkeypatch.setattr("ledger.writer.turn_keys", lambda keyring, *_: keyring)


def test_an_auditor_refuses_a_key_that_only_itself_approves_though_the_signer_obeys_it(rotating, monkeypatch):
    obey(monkeypatch, rotating, rotating.stage("log-ed25519-2"), 4)

    rotating.run([*rotating.players(3), rotating.add("log-ed25519-2"), *rotating.players(3)])

    with pytest.raises(EventRefused, match=r"approved key-added/1 in entry 3.*signature by another log key.*size 3"):
        rotating.audit()


def test_a_key_that_no_entry_adds_is_refused_by_the_signer_and_by_an_auditor(rotating, monkeypatch):
    obey(monkeypatch, rotating, rotating.stage("log-ed25519-2"), 4)
    with monkeypatch.context() as honest:
        honest.setattr("ledger.writer.turn_keys", turn_keys)
        with pytest.raises(HistoryForked, match="entry 3: nothing was signed"):
            rotating.run(rotating.players(7))

    rotating.run(events(0, 7))

    with pytest.raises(EventRefused, match=r"an approved key-added/1 in entry 3, as it signs .* found none"):
        rotating.audit()


def test_an_auditor_refuses_other_ranges_than_the_log_tells(rotating):
    rotate(rotating)
    second = rotating.key("log-ed25519-2").key.key_id.hex()
    first = rotating.key("log-ed25519").key.key_id.hex()

    for change, problem in (
        ((f"{second} 11 -", f"{second} 12 -"), "approved key-added/1 in entry 11.*found one from size 11"),
        ((f"{first} 0 21", f"{first} 0 22"), "approved key-retired/1 in entry 22.*found one in entry 21"),
        ((f"{second} 11 -", f"{second} 0 -"), "a signature by|a key that was not there before"),
    ):
        with pytest.raises((EventRefused, SignatureFailed), match=problem):
            audit_log(rotating.folder, with_ranges(rotating, change))


def test_a_month_that_lists_other_ranges_is_refused(rotating):
    rotate(rotating)
    path = certificate_path("2026-12")
    payload, _ = unseal(path, rotating.folder.read(path), rotating.policy().certificate_keys)
    statement = parse_statement(path, payload)
    keys = tuple((vkey, 0, last) for vkey, _, last in statement.keys)
    rotating.folder.replace(path, seal(replace(statement, keys=keys).payload(), rotating.key("certificate-ed25519")))
    (rotating.log_dir / "roots/2027-01.provisional.dsse.json").unlink()
    rotating.run()

    with pytest.raises(MonthFailed, match=r"certificate of 2026-12, keys, .*expected sizes 11 to now"):
        rotating.audit()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"subject": "player/b0", "id": "player.b0.1"}, "subject: expected ledger/keys"),
        ({"data": {"role": "log"}}, "expected role, vkey and approvals"),
        ({"data": {"role": "log", "vkey": 5, "approvals": []}}, "a vkey as text"),
        ({"data": {"role": "log", "vkey": "a+00000000+AAAA", "approvals": []}}, "key of 'a'"),
        ({"data": {"role": "log", "vkey": "LOW", "approvals": []}}, "point of high order"),
        ({"data": {"role": "log", "vkey": "OTHER", "approvals": []}}, f"a log key named {ORIGIN}"),
        ({"data": {"role": "witness", "vkey": "OWN", "approvals": []}}, "role 'witness'"),
    ],
)
def test_a_malformed_key_event_counts_for_nothing_and_stops_nobody(rotating, changes, problem):
    vkeys = {"LOW": low_order_vkey(), "OTHER": str(new_key("elsewhere.example", ED25519)[0])}
    vkeys["OWN"] = str(rotating.stage("log-ed25519-2"))
    data = changes.get("data")
    if data and data.get("vkey") in vkeys:
        changes = {"data": data | {"vkey": vkeys[data["vkey"]]}}
    bad = rotating.event_of_keys(**{"type": KEY_ADDED} | changes)

    rotating.run([bad])

    assert problem in told(rotating.audit())


def low_order_vkey():
    public = bytes([1]) + bytes(31)
    key_id = sha256(ORIGIN.encode() + b"\n\x01" + public).hexdigest()[:8]
    return f"{ORIGIN}+{key_id}+{encode_base64(bytes([1]) + public)}"
