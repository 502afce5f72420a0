"""A log that publishes what its quorum of witnesses has cosigned, and nothing else."""

import itertools
import shutil
import threading

import pytest
from log_samples import DAY_MS, NOV_21, events
from rotation_samples import Rotating
from witness_samples import NOW, Puppet, RunningWitness, WitnessedLog, grow, wait_for

from ledger import witness_setup, writer
from ledger.checkpoint import parse_checkpoint
from ledger.errors import NotWitnessed, SignatureFailed, WrongUse
from ledger.files import Folder
from ledger.keyring import load_keyring
from ledger.primitives import has_ml_dsa_44
from ledger.witness import parse_request


def test_what_is_published_bears_the_cosignatures_of_the_quorum_and_passes_the_audit(witnessed, witnesses):
    witnessed.require(2, *witnesses)
    writer = witnessed.open()
    for size in (3, 256, 300, 700):
        grow(writer, size)
        opened = witnessed.policy().open("checkpoint", witnessed.published)
        assert (opened.checkpoint.tree_size, len(opened.witnessed_by) >= 2) == (size, True)
    writer.close(NOV_21 + 10 * DAY_MS)

    assert witnessed.audit().checkpoint.checkpoint.tree_size == 700


def test_a_log_begins_and_its_months_close_under_checkpoints_that_are_cosigned(witnessed, witnesses):
    witnessed.require("all", *witnesses)
    writer = witnessed.open()
    grow(writer, 5)
    for witness in witnesses:
        witness.now += 20 * 86_400
    writer.append(events(5, 9))
    wait_for(writer, 9, now_ms=NOV_21 + 20 * DAY_MS)
    writer.close(NOV_21 + 20 * DAY_MS)

    report = witnessed.audit()
    assert [month.month for month in report.months] == ["2026-11", "2026-12"]
    assert report.months[0].closing.tree_size == 5
    opening = witnessed.policy().open("opening", report.months[0].opening.checkpoint)
    assert len(opening.witnessed_by) == 3


def test_nothing_is_published_before_the_quorum_has_cosigned_and_events_are_integrated_meanwhile(witnessed, witnesses):
    witnessed.require(2, *witnesses)
    writer = witnessed.open()
    grow(writer, 300)
    for witness in witnesses[1:]:
        witness.stop()
    before = witnessed.published

    for size in (301, 600, 1_100, 1_300):
        writer.append(events(writer.tree_size, size))
        assert writer.sign(NOV_21) is None
    assert witnessed.published.startswith(before)  # behind it the third witness's line may stand by now
    assert (witnessed.published_size(), writer.pending.tree_size, writer.tree_size) == (300, 301, 1_300)
    assert witnessed.audit().checkpoint.checkpoint.tree_size == 300

    witnesses[2].start()
    wait_for(writer, 1_300)
    writer.close(NOV_21)
    assert witnessed.audit().checkpoint.checkpoint.tree_size == 1_300
    assert witnessed.policy().open("c", witnessed.published).witnessed_by == ("w0", "w2")


def test_a_witness_that_the_quorum_does_not_need_holds_nobody_up(witnessed, witnesses):
    with Puppet(lambda handler, _body: handler.server.go_on.wait(60)) as silent:
        witnessed.require(2, silent, *witnesses[:2])
        writer = witnessed.open()
        for size in range(1, 6):
            grow(writer, size)
        assert len(silent.asked) == 1
        assert {at.name: at.tree_size for at in writer.witnesses()} == {"w0": None, "w1": 5, "w2": 5}
        writer.close(NOV_21)


def test_signing_never_waits_for_a_witness(witnessed):
    witnessed.publish(1)
    inside = threading.Event()

    def hold(handler, _body):
        inside.set()
        handler.server.go_on.wait(60)

    with Puppet(hold) as silent:
        witnessed.require("any", silent, first_size=2)
        log = witnessed.open()
        log.append(events(1, 300))
        assert log.sign(NOV_21) is None
        assert inside.wait(30)
        log.append(events(300, 600))
        assert log.sign(NOV_21) is None, "the witness still holds its answer"
        assert not silent.go_on.is_set()
        log.abandon()


def test_a_log_whose_policy_asks_for_witnesses_later_names_the_size_from_which_on(witnessed, witnesses):
    witnessed.publish(300)
    witnessed.require(2, *witnesses)
    with pytest.raises(SignatureFailed, match="checkpoint of size 300, witnesses: expected the quorum g, from size 0"):
        witnessed.open()

    witnessed.require(2, *witnesses, first_size=301)
    writer = witnessed.open()
    grow(writer, 400)
    writer.close(NOV_21)

    assert len(witnessed.policy().open("c", witnessed.published).witnessed_by) >= 2
    assert witnessed.audit().checkpoint.checkpoint.tree_size == 400


def test_a_policy_that_does_not_say_where_enough_witnesses_answer_is_refused(witnessed, witnesses):
    witnessed.require(2, *witnesses)
    policy = witnessed.policy_path
    policy.write_text("\n".join(line.removesuffix(f" {witnesses[1].url}") for line in policy.read_text().split("\n")))
    witnessed.keyring = load_keyring(witnessed.keyring.folder)
    witnessed.open().abandon()

    policy.write_text("\n".join(line.removesuffix(f" {witnesses[0].url}") for line in policy.read_text().split("\n")))
    witnessed.keyring = load_keyring(witnessed.keyring.folder)
    with pytest.raises(WrongUse, match=r"policy: quorum g: expected a URL at the end of the line .*, found w2"):
        witnessed.open()


@pytest.mark.skipif(not has_ml_dsa_44(), reason="this build of cryptography has no ML-DSA-44")
def test_one_service_may_cosign_under_two_keys_and_two_names(witnessed, scratch, monkeypatch):
    monkeypatch.setattr(witness_setup, "has_ml_dsa_44", lambda: True)
    with RunningWitness(scratch / "both", witnessed.plain_policy()) as witness:
        lines = [f"witness {name} {key} {witness.url}" for name, key in zip("ab", witness.keys, strict=True)]
        policy = witnessed.plain_policy().replace("quorum none", "\n".join([*lines, "group g all a b", "quorum g"]))
        witnessed.policy_path.write_text(policy)
        witnessed.keyring = load_keyring(witnessed.keyring.folder)
        writer = witnessed.open()
        grow(writer, 5)
        writer.close(NOV_21)

    opened = witnessed.policy().open("c", witnessed.published)
    assert (opened.witnessed_by, opened.at_seconds) == (("a", "b"), NOW)


class RotatingWitnessed(Rotating, WitnessedLog):
    """A log whose keys are rotated before the eyes of a witness."""


def test_keys_are_rotated_before_the_eyes_of_a_witness_that_is_told_of_the_new_one(scratch, ed25519_alone, monkeypatch):
    log = RotatingWitnessed(scratch / "log")
    with RunningWitness(scratch / "w", log.plain_policy()) as witness:
        log.require("all", witness)
        log.stage("log-ed25519-2")
        monkeypatch.setattr(writer, "CLOSE_S", 20)
        log.run(log.players(5), [log.add("log-ed25519-2", "log-ed25519")], log.players(3))
        assert (log.published_size(), len(log.signers_of())) == (9, 2)

        monkeypatch.setattr(writer, "CLOSE_S", 0.3)
        retired = [log.retire("log-ed25519", "log-ed25519-2"), *log.players(3)]
        log.run(retired)
        assert log.published_size() == 9, "the witness does not know the key that signs alone"

        witness.stop()
        witness.trust(log.plain_policy(), "0.policy")
        witness.start()
        monkeypatch.setattr(writer, "CLOSE_S", 20)
        log.run(retired)

    assert log.published_size() == 13
    assert log.signers_of() == {log.key("log-ed25519-2").key.label}
    assert log.audit().checkpoint.witnessed_by == ("w0",)


def test_what_was_recorded_while_a_checkpoint_waited_for_its_witness_is_not_backdated(witnessed, witnesses):
    """Signed without a time, as by a build without ML-DSA: the only times are those of witnesses, an hour later."""
    witnessed.require("all", witnesses[0])
    log = witnessed.open()
    witnesses[0].now += 3_600
    grow(log, 5, now_ms=NOV_21 + 3_600_000)
    grow(log, 9, now_ms=NOV_21 + 3_600_000)
    before = witnessed.policy().open("c", witnessed.published)
    log.close(NOV_21 + 3_600_000)

    assert (before.log_at_seconds, before.at_seconds) == (None, NOW + 3_600)
    assert witnessed.audit(known=before).checkpoint.checkpoint.tree_size == 9


def test_a_month_may_close_at_a_checkpoint_whose_witness_is_ahead_of_midnight(witnessed, witnesses):
    witnessed.require("all", witnesses[0])
    december = 1_796_083_200_000  # 2026-12-01T00:00:00Z
    log = witnessed.open()
    witnesses[0].now = december // 1000 + 200
    grow(log, 5, now_ms=december - 10_000)
    log.close(december + 10_000)

    (november, *_) = witnessed.audit().months
    assert (november.month, november.closing.tree_size) == ("2026-11", 5)


def test_a_new_log_does_not_begin_without_its_quorum(witnessed, witnesses, monkeypatch):
    monkeypatch.setattr(writer, "CREATE_S", 0.3)
    witnessed.require("all", *witnesses)
    witnesses[1].stop()

    with pytest.raises(NotWitnessed, match=r"first checkpoint of .*before the log begins \(.*w1: Connection"):
        witnessed.open()
    assert witnessed.published is None
    remembered = Folder(witnessed.keyring.folder).read("last-signed")

    witnesses[1].start()
    witnessed.publish(3)
    assert witnessed.published_size() == 3
    assert parse_checkpoint("first", remembered)[0].tree_size == 0


def test_a_witness_that_has_recorded_another_size_is_asked_once_more_from_there(witnessed, witnesses):
    witnessed.require("all", witnesses[0])
    witnessed.publish(300)
    witnesses[0].stop()
    shutil.rmtree(witnesses[0].base / "state")
    witnesses[0].start()
    asked = []
    add = witnesses[0].witness.add_checkpoint
    witnesses[0].witness.add_checkpoint = lambda body, now: asked.append(parse_request(body).old_size) or add(body, now)

    writer = witnessed.open()
    grow(writer, 400)
    writer.close(NOV_21)

    assert asked == [300, 0]
    assert witnessed.published_size() == 400


def test_checkpoints_of_one_log_are_numbered_upwards_whoever_cosigned_them(witnessed, witnesses):
    witnessed.require(2, *witnesses)
    writer = witnessed.open()
    heads = []
    for size in (10, 20, 30):
        grow(writer, size)
        heads.append(witnessed.policy().open("c", witnessed.published))
    writer.close(NOV_21)

    for old, new in itertools.pairwise(heads):
        assert old.checkpoint.tree_size < new.checkpoint.tree_size
        assert (old.at_seconds or 0) <= (new.at_seconds or 0)
