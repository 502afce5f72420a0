"""Alarms, crashes and stale signers of a log with witnesses: two histories are never published, nor signed on."""

import json
import random
import shutil
import time
import urllib.request
from types import SimpleNamespace

import pytest
from log_samples import NOV_21, event, events
from test_crashes import Crash, Disk
from witness_samples import Puppet, RunningWitness, WitnessedLog, grow, served, wait_for

from ledger.checkpoint import parse_checkpoint
from ledger.errors import HistoryForked
from ledger.files import Folder
from ledger.proofs import verify_consistency
from ledger.reader import LogReader
from ledger.witness import checkpoint_path


def notes_of(witness):
    """What a witness has recorded last, opened."""
    return next((known for _, known in witness.witness.logs.values()), None)


# Alarms


def twin_of(witnessed, scratch):
    """The same log and keys in a second place, as a restored machine has them."""
    shutil.copytree(scratch / "log", scratch / "twin")
    return WitnessedLog(scratch / "twin")


def evidence_of(witnessed):
    paths = sorted(witnessed.keyring.folder.glob("last-signed.evidence-*.json"))
    return [json.loads(path.read_bytes()) for path in paths]


def require_stopped(witnessed, known_size, found):
    """One evidence file with both notes; nothing is signed until it is moved away."""
    (evidence,) = evidence_of(witnessed)
    assert parse_checkpoint("known", evidence["remembered"].encode())[0].tree_size == known_size
    assert evidence["found"].encode() == found
    with pytest.raises(HistoryForked, match=r"evidence-1\.json says that another history was signed under these keys"):
        witnessed.open()


def test_a_machine_that_was_set_back_is_stopped_by_a_witness_that_knows_more(witnessed, witnesses, scratch):
    """Log, keys and memory are old copies of themselves: nothing on this disk can tell."""
    witnessed.require("any", witnesses[0])
    witnessed.publish(300)
    old = twin_of(witnessed, scratch)
    witnessed.publish(400)
    writer = old.open()
    writer.append(events(300, 350))

    with pytest.raises(HistoryForked, match=r"has recorded size 400, more than was ever signed.*looked at and moved"):
        wait_for(writer, 350)
    writer.abandon()

    assert old.published_size() == 300
    require_stopped(old, 350, witnessed.published)
    with pytest.raises(HistoryForked):
        old.open()
    assert len(evidence_of(old)) == 1


def test_two_signers_with_the_same_keys_on_two_machines_never_publish_two_histories(witnessed, witnesses, scratch):
    witnessed.require("any", witnesses[0])
    witnessed.publish(300)
    other = twin_of(witnessed, scratch)
    writer = witnessed.open()
    grow(writer, 400)
    second = other.open()
    second.append([event(300, actor="someone else"), *events(301, 500)])

    with pytest.raises(HistoryForked, match="was shown another history, size 400"):
        wait_for(second, 500)
    second.abandon()
    writer.close(NOV_21)

    assert (witnessed.published_size(), other.published_size()) == (400, 300)
    require_stopped(other, 500, witnessed.published)


def test_a_second_root_of_one_size_is_an_alarm(witnessed, witnesses, scratch):
    witnessed.require("any", witnesses[0])
    witnessed.publish(300)
    other = twin_of(witnessed, scratch)
    witnessed.publish(400)
    second = other.open()
    second.append([event(300, actor="someone else"), *events(301, 400)])

    with pytest.raises(HistoryForked, match="was shown another history, size 400"):
        wait_for(second, 400)
    second.abandon()
    assert other.published_size() == 300
    assert list((witnesses[0].base / "state").glob("*/checkpoint.evidence-1.json"))


def test_a_witness_that_only_claims_to_know_more_stops_the_signer_too_and_the_evidence_says_what_it_showed(
    witnessed, witnesses
):
    def claim(handler, body):
        if body is None:
            handler.say(404, b"")
        else:
            handler.say(409, b"999\n", "text/x.tlog.size")

    with Puppet(claim) as liar:
        witnessed.require("any", witnesses[0])
        witnessed.publish(300)
        witnessed.require("any", witnesses[0], liar)
        writer = witnessed.open()
        writer.append(events(300, 301))
        with pytest.raises(HistoryForked, match="recorded size 999"):
            for size in range(302, 900):
                grow(writer, size)
        writer.abandon()
        assert len(liar.asked) == 1, "an alarm is no reason to try again"
        assert "nothing that the log signed" in evidence_of(witnessed)[0]["found"]


def test_after_somebody_has_looked_the_signer_goes_on(witnessed, witnesses):
    (witnessed.keyring.folder / "last-signed.evidence-1.json").write_text("{}")
    witnessed.require("any", witnesses[0])
    with pytest.raises(HistoryForked, match="find out who did, then move the file away"):
        witnessed.open()

    (witnessed.keyring.folder / "last-signed.evidence-1.json").rename(witnessed.keyring.folder / "looked-at.json")
    witnessed.publish(3)
    assert witnessed.published_size() == 3


# Crashes, stale signers


def test_a_checkpoint_signed_before_a_crash_is_the_one_that_is_cosigned_after_it(witnessed, witnesses):
    witnessed.require("all", *witnesses)
    witnessed.publish(300)
    witnesses[0].stop()
    writer = witnessed.open()
    writer.append(events(300, 520))
    assert writer.sign(NOV_21) is None
    writer.append(events(520, 900))
    signed = Folder(witnessed.keyring.folder).read("last-signed")
    writer.abandon()
    witnesses[0].start()

    writer = witnessed.open()
    assert (writer.tree_size, writer.signed.tree_size) == (300, 300)
    writer.append(events(300, 510))
    assert writer.sign(NOV_21) is None
    writer.append(events(510, 900))
    assert writer.pending.tree_size == 520
    wait_for(writer, 520)
    if writer.signed.tree_size == 520:
        assert witnessed.published.startswith(signed)
    wait_for(writer, 900)
    writer.close(NOV_21)
    assert witnessed.audit().checkpoint.checkpoint.tree_size == 900


def test_another_history_after_a_crash_is_never_shown_to_a_witness(witnessed, witnesses):
    witnessed.require("all", *witnesses)
    witnessed.publish(300)
    witnesses[0].stop()
    writer = witnessed.open()
    writer.append(events(300, 400))
    writer.sign(NOV_21)
    writer.abandon()
    witnesses[0].start()
    writer = witnessed.open()

    with pytest.raises(HistoryForked, match="as signed before"):
        writer.append([event(300, actor="someone"), *events(301, 400)])
    writer.abandon()
    assert notes_of(witnesses[0]).tree_size == 300


def test_a_signer_that_slept_over_a_pending_checkpoint_does_not_publish_it_beside_another(witnessed, witnesses):
    witnessed.require("all", witnesses[0])
    witnessed.publish(300)
    witnesses[0].stop()
    sleeper = witnessed.open()
    sleeper.append(events(300, 310))
    sleeper.sign(NOV_21)
    for lock in sleeper._locks:
        lock.release()
    witnesses[0].start()
    other = witnessed.open()
    other.append(events(300, 350))
    wait_for(other, 350)
    other.close(NOV_21)

    with pytest.raises(HistoryForked, match=r"nothing was signed|took over; nothing more is signed here"):
        wait_for(sleeper, 310)
    sleeper.abandon()
    witnessed.publish(360)
    assert (witnessed.published_size(), evidence_of(witnessed)) == (360, [])


def test_a_log_rolled_back_by_its_disk_catches_up_with_what_was_cosigned(witnessed, witnesses, scratch):
    witnessed.require("all", *witnesses)
    witnessed.publish(300)
    shutil.copytree(witnessed.log_dir, scratch / "older")
    witnessed.publish(400)
    cosigned = witnessed.published
    shutil.rmtree(witnessed.log_dir)
    (scratch / "older").rename(witnessed.log_dir)
    writer = witnessed.open()
    writer.append(events(300, 400))
    wait_for(writer, 400)
    writer.close(NOV_21)

    first, again = (parse_checkpoint("c", note)[0] for note in (cosigned, witnessed.published))
    assert first == again


def test_a_signer_that_is_killed_again_and_again_never_shows_its_witness_a_second_history(
    witnessed, scratch, monkeypatch
):
    """The witness is a process of its own, so that only the signer's operations on the disk are counted."""
    witness = RunningWitness(scratch / "w", witnessed.plain_policy())
    disk, dice, seen = Disk(monkeypatch), random.Random(20261125), []
    with served(witness.base) as (url, said):
        witnessed.require("all", SimpleNamespace(keys=witness.keys, url=url))
        for round_number in range(15):
            disk.crash_at(dice.randrange(60))
            try:
                live_with_witness(witnessed, 12 * (round_number + 1))
            except Crash:
                disk.tear(dice)
            disk.left = None
            seen += [witnessed.published, Folder(witnessed.keyring.folder).read("last-signed")]
        live_with_witness(witnessed, 400)
        with urllib.request.urlopen(f"{url}/{checkpoint_path(witnessed.keyring.origin)}", timeout=30) as answer:
            recorded = answer.read()

    assert parse_checkpoint("recorded", recorded)[0].tree_size == 400
    require_one_history(witnessed, [note for note in seen if note])
    assert evidence_of(witnessed) == []
    assert " 422" not in said[1]
    assert said[1].count(" 200") > 5


def live_with_witness(witnessed, size):
    """Open, integrate, sign and wait for the quorum, by the system's clock as the witness has it."""
    now_ms = int(time.time() * 1000)
    writer = witnessed.open(now_ms)
    try:
        if writer.tree_size < size:
            grow(writer, size, now_ms=now_ms)
        writer.close(now_ms)
    finally:
        writer.abandon()


def require_one_history(witnessed, notes, size=400):
    """Every checkpoint that was seen is of the log as it stands; returns their sizes."""
    reader = LogReader(witnessed.folder, size)
    heads = {parse_checkpoint("seen", note)[0] for note in notes}
    for head in heads:
        if head.tree_size:
            proof = reader.consistency_proof(head.tree_size)
            verify_consistency(head.tree_size, size, head.root, reader.root(), proof)
    assert len({head.tree_size for head in heads}) == len(heads)
    assert witnessed.audit().checkpoint.checkpoint.tree_size == size
    return len(heads)


def test_all_that_witnesses_and_readers_ever_saw_is_one_history(witnessed, witnesses):
    """Witnesses come and go, the signer is ended at any moment; every note that was seen is of one log."""
    witnessed.require(2, *witnesses)
    seen = []
    for round_number in range(8):
        witness = witnesses[round_number % 3]
        writer = witnessed.open()
        witness.stop()
        writer.append(events(writer.tree_size, 40 * (round_number + 1)))
        writer.sign(NOV_21)
        if round_number % 2:
            wait_for(writer, 40 * (round_number + 1))
        seen += [witnessed.published, Folder(witnessed.keyring.folder).read("last-signed")]
        seen += [w.witness.checkpoint_at(checkpoint_path(witnessed.keyring.origin)) for w in witnesses if w.server]
        writer.abandon()
        witness.start()
    writer = witnessed.open()
    grow(writer, 400)
    writer.close(NOV_21)

    assert require_one_history(witnessed, [note for note in seen if note]) > 5
