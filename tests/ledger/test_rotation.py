"""Keys are rotated under one origin: the log tells of it, the signer obeys, auditors compare, old months stay good."""

import json
from dataclasses import replace
from hashlib import sha256
from itertools import count

import pytest
from log_samples import DAY_MS, NOV_21, Installation, event, events

from domain.values import to_time
from ledger.audit import audit_log
from ledger.checkpoint import parse_checkpoint
from ledger.encoding import encode_base64
from ledger.errors import EventRefused, HistoryForked, KeyRefused, MonthFailed, SignatureFailed, WrongUse
from ledger.files import Folder
from ledger.keyevents import KEY_ADDED, KEY_RETIRED, approval_message
from ledger.keyfolder import CERTIFICATE, LOG, list_keys, name_of
from ledger.keyring import load_keyring
from ledger.keys import KeyOpener, new_key, write_key
from ledger.months import certificate_path, open_month, parse_statement, seal, unseal
from ledger.note import ED25519
from ledger.policy import parse_policy
from ledger.rotation import turn_keys

ORIGIN = "tallyroot.example/ledger/boston"
DEC_21, JAN_21 = NOV_21 + 30 * DAY_MS, NOV_21 + 61 * DAY_MS


class Rotating(Installation):
    """An installation that writes key events among others; `key` finds a private key by its name in the folder."""

    def __init__(self, base):
        super().__init__(base)
        self.versions = count(1)
        self.now_ms = NOV_21
        self.size = 0

    def key(self, name):
        return KeyOpener().open(self.keyring.folder, name)

    def stage(self, name, role=LOG):
        """A new key in the folder that the policy does not know."""
        owner = ORIGIN if role == LOG else f"{ORIGIN}/certificates"
        key, seed = new_key(owner, ED25519)
        write_key(self.keyring_files, name, key, seed, None)
        return key

    @property
    def keyring_files(self):
        return Folder(self.keyring.folder)

    def key_event(self, kind, key, signers, role=LOG, **changes):
        message = approval_message(kind, ORIGIN, role, key)
        approvals = [
            {"key": signer.key.label, "signature": encode_base64(signer.secret.sign(message))} for signer in signers
        ]
        data = {"role": role, "vkey": str(key), "approvals": approvals}
        return self.event_of_keys(**{"type": kind, "data": data} | changes)

    def event_of_keys(self, **changes):
        version = next(self.versions)
        attributes = {
            "id": f"ledger.keys.{version}",
            "subject": "ledger/keys",
            "aggregateversion": version,
            "causationid": f"k{version}",
            "recordedtime": to_time(self.now_ms),
        }
        return event(0, **attributes | changes)

    def add(self, name, *approvers, role=LOG, **changes):
        """An event that adds a key of the folder, approved by these and by itself."""
        signers = [self.key(one) for one in (*approvers, name)]
        return self.key_event(KEY_ADDED, self.key(name).key, signers, role, **changes)

    def retire(self, name, *approvers, role=LOG):
        return self.key_event(KEY_RETIRED, self.key(name).key, [self.key(one) for one in approvers], role)

    def run(self, *batches):
        """Start anew, append each batch and sign after it."""
        self.keyring = load_keyring(self.keyring.folder)
        writer = self.open(self.now_ms)
        try:
            for batch in batches:
                writer.append(batch)
                writer.sign(self.now_ms)
            writer.close(self.now_ms)
        finally:
            writer.abandon()

    def players(self, n):
        """The next n events of players."""
        self.size += n
        return [event(number, recordedtime=to_time(self.now_ms)) for number in range(self.size - n, self.size)]

    def signers_of(self, path="checkpoint"):
        policy = self.policy()
        return set(policy.open(path, self.folder.read(path)).signed_by)


@pytest.fixture
def rotating(tmp_path):
    return Rotating(tmp_path)


def told(report):
    """What an audit says about the keys."""
    return next(claim.detail for claim in report.claims if claim.name == "keys")


def rotate(rotating):
    """Ten events, a second key from size 11 on, ten more, the first key retired at entry 21, ten more."""
    rotating.stage("log-ed25519-2")
    rotating.run(rotating.players(10))
    rotating.now_ms = DEC_21
    rotating.run([rotating.add("log-ed25519-2", "log-ed25519"), *rotating.players(10)])
    rotating.now_ms = JAN_21
    rotating.run([rotating.retire("log-ed25519", "log-ed25519-2"), *rotating.players(10)])
    return rotating


def test_a_new_key_signs_beside_the_old_one_from_its_event_on_and_alone_after_its_retirement(rotating):
    first = rotating.key("log-ed25519").key.label
    second = rotating.stage("log-ed25519-2").label

    rotating.run(rotating.players(10))
    before = rotating.signers_of()
    rotating.run([rotating.add("log-ed25519-2", "log-ed25519"), *rotating.players(10)])
    overlap = rotating.signers_of()
    rotating.run([rotating.retire("log-ed25519", "log-ed25519-2")])
    after = rotating.signers_of()

    assert [first in signers for signers in (before, overlap, after)] == [True, True, False]
    assert [second in signers for signers in (before, overlap, after)] == [False, True, True]
    assert {(row.name, row.first_size, row.last_size) for row in list_keys(rotating.keyring.folder)} >= {
        ("log-ed25519", 0, 21),
        ("log-ed25519-2", 11, None),
    }


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


def test_the_last_checkpoint_of_a_retired_key_is_kept(rotating):
    rotate(rotating)
    kept = (rotating.keyring.folder / "log-ed25519.last-checkpoint").read_bytes()

    opened = rotating.policy().open("kept", kept)

    assert opened.checkpoint.tree_size == 21
    assert rotating.key("log-ed25519").key.label in opened.signed_by


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


def test_a_key_that_only_itself_approves_is_not_obeyed_and_its_event_counts_for_nothing(rotating):
    key = rotating.stage("log-ed25519-2")

    rotating.run([*rotating.players(3), rotating.add("log-ed25519-2"), *rotating.players(3)])

    assert key.label not in rotating.signers_of()
    assert "an entry that counts for nothing: entry 3, key-added/1 of" in told(rotating.audit())


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


@pytest.mark.parametrize("case", ["bad signature of the old key", "bad signature of the new key", "old key alone"])
def test_an_addition_with_a_bad_or_missing_signature_counts_for_nothing(rotating, case):
    key = rotating.stage("log-ed25519-2")
    addition = json.loads(rotating.add("log-ed25519-2", "log-ed25519"))
    approvals = addition["data"]["approvals"]
    if case == "old key alone":
        approvals.pop()
    else:
        approvals["new" in case]["signature"] = encode_base64(bytes(64))

    rotating.run([json.dumps(addition, ensure_ascii=False, separators=(",", ":")).encode()])

    assert key.label not in rotating.signers_of()
    expected = {"bad signature of the old key": "good signature", "bad signature of the new key": "good signature"}
    assert expected.get(case, "itself") in told(rotating.audit())


def test_an_addition_by_a_retired_key_counts_for_nothing(rotating):
    rotate(rotating)
    key = rotating.stage("log-ed25519-3")

    rotating.now_ms = JAN_21
    rotating.run([rotating.add("log-ed25519-3", "log-ed25519")])

    assert key.label not in rotating.signers_of()


def test_a_key_may_not_approve_its_own_retirement_nor_the_last_ed25519_key_go(rotating):
    rotating.stage("log-ed25519-2")
    others = [name for name in ("log-mldsa44",) if name_exists(rotating, name)]

    rotating.run([rotating.retire("log-ed25519", "log-ed25519"), rotating.retire("log-ed25519", *others)])

    assert rotating.key("log-ed25519").key.label in rotating.signers_of()
    assert "last" not in rotating.policy_path.read_text()
    rotating.audit()


def name_exists(rotating, name):
    return (rotating.keyring.folder / f"{name}.key").exists()


def test_a_retired_key_does_not_come_back(rotating):
    rotate(rotating)

    rotating.now_ms = JAN_21
    rotating.run([rotating.add("log-ed25519", "log-ed25519-2")])

    assert rotating.key("log-ed25519").key.label not in rotating.signers_of()
    assert "expected a key that was not there before, found sizes 0 to 21" in told(rotating.audit())


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


def test_a_certificate_key_is_rotated_too_and_ends_with_its_range(rotating):
    rotating.stage("certificate-ed25519-2", CERTIFICATE)
    rotating.run(rotating.players(5))
    rotating.now_ms = DEC_21
    rotating.run([rotating.add("certificate-ed25519-2", "log-ed25519", role=CERTIFICATE)])
    rotating.now_ms = JAN_21
    rotating.run([rotating.retire("certificate-ed25519", "log-ed25519", role=CERTIFICATE)])
    rotating.now_ms = JAN_21 + 30 * DAY_MS
    rotating.run(rotating.players(5))
    by_month = {
        month: json.loads(rotating.folder.read(certificate_path(month)))["signatures"][0]["keyid"]
        for month in ("2026-11", "2026-12", "2027-01")
    }
    first, second = (rotating.key(name).key.label for name in ("certificate-ed25519", "certificate-ed25519-2"))

    rotating.audit()

    assert by_month == {"2026-11": first, "2026-12": second, "2027-01": second}
    path = certificate_path("2027-01")
    payload, _ = unseal(path, rotating.folder.read(path), rotating.policy().certificate_keys)
    rotating.folder.replace(path, seal(payload, rotating.key("certificate-ed25519")))
    with pytest.raises(SignatureFailed, match=r"expected a closing size from 0 to 6, found 7"):
        rotating.audit()


def test_a_certificate_key_that_no_log_key_approved_is_not_obeyed(rotating):
    rotating.stage("certificate-ed25519-2", CERTIFICATE)

    rotating.run([rotating.add("certificate-ed25519-2", "certificate-ed25519", role=CERTIFICATE)])

    assert len(load_keyring(rotating.keyring.folder).certificate_keys) == 1


def test_a_key_whose_private_half_is_elsewhere_stops_the_signer_before_it_signs(rotating):
    rotating.stage("log-ed25519-2")
    rotating.run(rotating.players(10))
    addition = rotating.add("log-ed25519-2", "log-ed25519")
    before = rotating.folder.read("checkpoint")
    for path in rotating.keyring.folder.glob("log-ed25519-2.*"):
        path.rename(path.with_name(f"elsewhere{path.suffix}"))

    with pytest.raises(WrongUse, match=r"adds the key .* from size 11 on, and it is not here"):
        rotating.run([addition])

    assert rotating.folder.read("checkpoint") == before
    for path in rotating.keyring.folder.glob("elsewhere.*"):
        path.rename(path.with_name(f"log-ed25519-2{path.suffix}"))
    rotating.run([addition])
    assert rotating.key("log-ed25519-2").key.label in rotating.signers_of()


def test_a_crash_after_the_policy_was_turned_repeats_nothing(rotating, monkeypatch):
    rotating.stage("log-ed25519-2")
    rotating.run(rotating.players(10))
    batch = [rotating.add("log-ed25519-2", "log-ed25519"), *rotating.players(3)]
    monkeypatch.setattr(type(rotating.keyring), "sign", crash)
    with pytest.raises(OSError, match="killed"):
        rotating.run(batch)
    monkeypatch.undo()
    policy = rotating.policy_path.read_bytes()

    rotating.run(batch)

    assert b" 11 -\n" in policy
    assert rotating.policy_path.read_bytes() == policy
    rotating.audit()


def crash(*_):
    raise OSError("killed")


def test_a_policy_that_was_turned_by_an_event_which_the_stream_lost_is_not_signed_under(rotating, monkeypatch):
    rotating.stage("log-ed25519-2")
    rotating.run(rotating.players(10))
    monkeypatch.setattr(type(rotating.keyring), "sign", crash)
    with pytest.raises(OSError, match="killed"):
        rotating.run([rotating.add("log-ed25519-2", "log-ed25519")])
    monkeypatch.undo()

    with pytest.raises(HistoryForked, match=r"entry 10: nothing was signed: expected the event that added or retired"):
        rotating.run(rotating.players(3))


def test_a_policy_from_before_the_rotation_is_refused_by_the_signer(rotating):
    rotating.stage("log-ed25519-2")
    rotating.run(rotating.players(10))
    old = rotating.policy_path.read_bytes()
    rotating.run([rotating.add("log-ed25519-2", "log-ed25519")])
    rotating.policy_path.write_bytes(old)

    with pytest.raises(WrongUse, match="restore the newer one: expected a log line for"):
        rotating.run(rotating.players(3))


def test_what_others_wrote_into_the_policy_stays(rotating):
    text = rotating.policy_path.read_text().replace("quorum none", "# by hand\n\nquorum   none")
    rotating.policy_path.write_text(text)

    rotate(rotating)

    assert "# by hand\n\nquorum   none\n" in rotating.policy_path.read_text()


def test_a_destroyed_private_key_is_not_asked_for_once_it_is_retired(rotating):
    rotate(rotating)
    (rotating.keyring.folder / "log-ed25519.key").unlink()

    rotating.now_ms = JAN_21
    rotating.run(rotating.players(2))

    rotating.audit()
    assert {row.name: row.kept for row in list_keys(rotating.keyring.folder)}["log-ed25519"] == "destroyed"


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


def test_a_public_half_that_belongs_to_another_private_key_is_refused(rotating):
    (rotating.keyring.folder / "log-ed25519.key").write_bytes(
        (rotating.keyring.folder / "certificate-ed25519.key").read_bytes()
    )

    with pytest.raises(KeyRefused, match=r"as in log-ed25519\.vkey"):
        load_keyring(rotating.keyring.folder)


def test_the_name_of_a_key_is_found_by_its_public_half(rotating):
    key = rotating.stage("log-ed25519-2")

    assert name_of(rotating.keyring.folder, key) == "log-ed25519-2"
    assert name_of(rotating.keyring.folder, new_key(ORIGIN, ED25519)[0]) is None
