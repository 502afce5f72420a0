"""Keys are rotated under one origin: the log tells of it, the signer obeys, and only when it is approved."""

import json
import shutil
from pathlib import Path

import pytest
from log_samples import DAY_MS
from rotation_samples import DEC_21, JAN_21, ORIGIN, Rotating, rotate, told
from witness_samples import RunningWitness, WitnessedLog

from bus.examples import records
from bus.owners import Owner, advance
from bus.snapshots import decode, encode
from domain.catalogue import AGGREGATES, aggregates_of
from ledger.encoding import encode_base64
from ledger.errors import HistoryForked, KeyRefused, SignatureFailed, WrongUse
from ledger.files import Folder
from ledger.keyevents import KeyHistory
from ledger.keyfolder import CERTIFICATE, LOG, list_keys, name_of
from ledger.keyring import load_keyring
from ledger.keys import new_key, public_key
from ledger.months import certificate_path, seal, unseal
from ledger.note import ED25519
from ledger.policy import LogKey

RFC_8032_SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"


@pytest.fixture
def rotating(tmp_path):
    return Rotating(tmp_path)


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


def test_the_last_checkpoint_of_a_retired_key_is_kept(rotating):
    rotate(rotating)
    kept = (rotating.keyring.folder / "log-ed25519.last-checkpoint").read_bytes()

    opened = rotating.policy().open("kept", kept)

    assert opened.checkpoint.tree_size == 21
    assert rotating.key("log-ed25519").key.label in opened.signed_by


def test_a_key_that_only_itself_approves_is_not_obeyed_and_its_event_counts_for_nothing(rotating):
    key = rotating.stage("log-ed25519-2")

    rotating.run([*rotating.players(3), rotating.add("log-ed25519-2"), *rotating.players(3)])

    assert key.label not in rotating.signers_of()
    assert "an entry that counts for nothing: entry 3, key-added/1 of" in told(rotating.audit())


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


def test_the_example_of_the_formats_page_is_that_of_the_story():
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    shown = page.split("```key-added\n")[1].split("\n```")[0].replace("\n", "")

    assert f'"data":{shown}}}'.encode() in b"".join(record.body for record in records())


def test_the_example_of_the_documents_is_approved():
    first, second = (public_key(ORIGIN, ED25519, seed) for seed in (b"\x01" * 32, bytes.fromhex(RFC_8032_SEED)))
    history = KeyHistory(ORIGIN, [(LOG, LogKey(first))])
    told = [record.body for record in records() if b'"type":"key-' in record.body]

    added, retired = (history.take(leaf_index, entry) for leaf_index, entry in enumerate(told, 10))

    assert (added.ranged.key, added.ranged.first_size) == (second, 11)
    assert (retired.ranged.key, retired.ranged.last_size) == (first, 11)


class WitnessedRotating(Rotating, WitnessedLog):
    """A log whose keys turn while a witness must cosign."""


def test_a_log_that_needs_witnesses_goes_on_when_they_know_the_new_key(tmp_path):
    rotating = WitnessedRotating(tmp_path / "log")
    second = rotating.stage("log-ed25519-2")
    rotating.run([rotating.add("log-ed25519-2", "log-ed25519"), *rotating.players(3)])
    both = f"log {rotating.key('log-ed25519').key}\nlog {second}\nquorum none\n"
    with RunningWitness(tmp_path / "witness", both) as witness:
        rotating.require("all", witness, first_size=5)

        rotating.run([*rotating.players(1), rotating.retire("log-ed25519", "log-ed25519-2")], rotating.players(2))

        opened = rotating.policy().open("checkpoint", rotating.published)
    assert (opened.checkpoint.tree_size, opened.witnessed_by) == (8, ("w0",))
    assert rotating.key("log-ed25519").key.label not in opened.signed_by
    assert rotating.audit().checkpoint.checkpoint.tree_size == 8


def test_the_keys_of_a_log_are_looked_for_at_their_own_owner_only():
    assert "ledger" not in aggregates_of("keys-of-ada")
    assert aggregates_of("keys") == AGGREGATES


def test_the_owner_of_the_keys_is_restored_from_history():
    owner = advance(Owner(), [record for record in records() if b'"type":"key-' in record.body])

    assert owner.actors["ledger"].version == 2
    assert decode(encode(owner)) is None


class Dying(Folder):
    """Dies at one replacement of a file, before it or after it."""

    left = 10**9
    is_after = False

    def replace(self, path, data, **options):
        type(self).left -= 1
        if self.left == 0 and not self.is_after:
            raise OSError("killed")
        super().replace(path, data, **options)
        if self.left == 0:
            raise OSError("killed")


@pytest.mark.parametrize("is_after", [False, True])
def test_a_signer_killed_at_any_replacement_of_a_file_turns_its_keys_once(tmp_path, monkeypatch, is_after):
    monkeypatch.setattr("ledger.keyring.has_ml_dsa_44", lambda: False)  # Ed25519 alone: many lives are lived here
    rotating = Rotating(tmp_path)
    rotating.stage("log-ed25519-2")
    rotating.run(rotating.players(2))
    entries = [
        rotating.add("log-ed25519-2", "log-ed25519"),
        *rotating.players(2),
        rotating.retire("log-ed25519", "log-ed25519-2"),
    ]
    saved = tmp_path / "saved"
    for part in ("log", "keys"):
        shutil.copytree(tmp_path / part, saved / part)
    for module in ("writer", "rotation"):
        monkeypatch.setattr(f"ledger.{module}.Folder", Dying)
    monkeypatch.setattr(Dying, "is_after", is_after)
    deaths = 0
    for number in range(1, 40):
        for part in ("log", "keys"):
            shutil.rmtree(tmp_path / part)
            shutil.copytree(saved / part, tmp_path / part)
        Dying.left = number

        has_died = live(rotating, entries)
        Dying.left = 10**9
        live(rotating, entries)

        deaths += has_died
        rotating.audit()
        rows = {row.name: (row.first_size, row.last_size) for row in list_keys(rotating.keyring.folder)}
        assert (rows["log-ed25519"], rows["log-ed25519-2"]) == ((0, 5), (3, None))
        assert rotating.key("log-ed25519").key.label not in rotating.signers_of()
        if not has_died:
            break
    assert 5 <= deaths < 39


def live(rotating, entries):
    """A signer's life: it takes what its log lacks and signs twice; whether it was killed."""
    rotating.keyring = load_keyring(rotating.keyring.folder)
    folder = Dying(rotating.log_dir)
    try:
        writer = rotating.open(rotating.now_ms, folder)
    except OSError:
        return True
    try:
        for end in (4, 6):
            writer.append(entries[writer.tree_size - 2 : end - 2])
            writer.sign(rotating.now_ms)
        writer.close(rotating.now_ms)
    except OSError:
        return True
    finally:
        writer.abandon()
    return False
