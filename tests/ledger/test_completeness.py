"""All events of a player in a month, or none: proved to outsiders; leaving one out is found."""

import dataclasses
import json
import random
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import NOV_21, Installation, event, events

from ledger import closing
from ledger.cli import main
from ledger.completeness import parse_completeness, prove_completeness, verify_completeness
from ledger.errors import LedgerError, Malformed, MonthFailed, NotYetSigned, ProofFailed
from ledger.hashing import EMPTY_ROOT
from ledger.index import IndexHead, index_head, index_leaves, split_index_leaf, subject_key

DEC_1 = 1_796_083_200_000
JAN_1 = DEC_1 + 31 * 86_400_000
PLAYERS = [f"player/b{number}" for number in range(7)]
STRANGERS = [f"player/stranger{number}" for number in range(40)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """November with 301 events, December with 239, January empty, February open."""
    installed = Installation(tmp_path_factory.mktemp("complete"))
    installed.publish(120, 301, now_ms=NOV_21)
    installed.publish(540, now_ms=DEC_1 + 1)
    installed.open(JAN_1 + 1).close(JAN_1 + 1)
    installed.open(JAN_1 + 32 * 86_400_000).close(JAN_1 + 32 * 86_400_000)
    return installed


def prove(installed, month, *subjects):
    return prove_completeness(installed.folder, installed.policy(), month, subjects)


def details(installed, proof):
    return [claim.detail for claim in verify_completeness("proof", proof, installed.policy())]


@pytest.mark.parametrize("player", PLAYERS)
def test_all_events_of_a_player_are_proved_month_by_month_without_a_gap_between_them(installed, player):
    shown = []
    for month in ("2026-11", "2026-12"):
        proof = parse_completeness("proof", bytes(prove(installed, month, player)))
        shown += [json.loads(entry.entry) for entry in proof.subjects[0].entries]
        assert (
            f"{player} has exactly {len(proof.subjects[0].entries)} events in {month}" in details(installed, proof)[1]
        )

    assert [found["aggregateversion"] for found in shown] == list(range(1, len(shown) + 1))
    assert len(shown) == sum(number % 7 == int(player[-1]) for number in range(540))


@pytest.mark.parametrize("month", ["2026-11", "2026-12", "2027-01"])
def test_that_somebody_has_no_events_is_proved_wherever_the_name_would_stand(installed, month):
    proof = prove(installed, month, *STRANGERS)

    assert details(installed, proof)[1:] == [f"{stranger} has no events in {month}" for stranger in STRANGERS]
    assert {len(subject.leaves) for subject in proof.subjects} == ({0} if month == "2027-01" else {1, 2})


def test_a_month_that_is_open_or_before_the_log_has_no_proof(installed):
    for month in ("2027-02", "2026-10"):
        with pytest.raises(NotYetSigned, match=f"{month} has no certificate"):
            prove(installed, month, "player/b1")


def without(items, at):
    return items[:at] + items[at + 1 :]


@pytest.mark.parametrize("at", [0, 1, 21, 42])
def test_a_proof_that_leaves_an_event_out_is_refused(installed, at):
    good = prove(installed, "2026-11", "player/b3")
    subject = good.subjects[0]
    leaf = subject.leaves[0]
    key, indexes = split_index_leaf(leaf.leaf)
    cut = key + b"".join(index.to_bytes(8, "big") for index in without(indexes, at))
    shorter = dataclasses.replace(subject, entries=without(subject.entries, at))
    forged = dataclasses.replace(shorter, leaves=(dataclasses.replace(leaf, leaf=cut),))

    assert len(subject.entries) == 43
    for lie in (shorter, forged):
        with pytest.raises(ProofFailed):
            details(installed, dataclasses.replace(good, subjects=(lie,)))


def test_a_proof_with_another_players_events_or_another_month_is_refused(installed):
    mine, other = prove(installed, "2026-11", "player/b3"), prove(installed, "2026-11", "player/b4")
    later = prove(installed, "2026-12", "player/b3")
    absent = prove(installed, "2026-11", "player/stranger1")

    for lie in (
        dataclasses.replace(mine, subjects=(dataclasses.replace(other.subjects[0], subject="player/b3"),)),
        dataclasses.replace(mine, subjects=(dataclasses.replace(mine.subjects[0], subject="player/b4"),)),
        dataclasses.replace(mine, subjects=later.subjects),
        dataclasses.replace(mine, certificate=later.certificate),
        dataclasses.replace(mine, subjects=(dataclasses.replace(absent.subjects[0], subject="player/b3"),)),
        dataclasses.replace(mine, subjects=(dataclasses.replace(mine.subjects[0], leaves=(), entries=()),)),
        dataclasses.replace(mine, subjects=()),
    ):
        with pytest.raises(ProofFailed):
            details(installed, lie)


def test_absence_needs_true_neighbours(installed):
    subject = prove(installed, "2026-11", "player/b3").subjects[0]
    everyone = sorted(
        (prove(installed, "2026-11", player).subjects[0].leaves[0] for player in PLAYERS),
        key=lambda leaf: leaf.position,
    )
    whole = prove(installed, "2026-11", "player/b3")

    assert [leaf.position for leaf in everyone] == list(range(7))
    for left in range(7):
        for right in range(7):
            lie = dataclasses.replace(subject, leaves=(everyone[left], everyone[right]), entries=())
            with pytest.raises(ProofFailed):
                details(installed, dataclasses.replace(whole, subjects=(lie,)))


def test_a_flipped_bit_anywhere_in_a_proof_of_completeness_is_refused(installed):
    good = bytes(prove(installed, "2026-11", "player/b3", "player/stranger1"))
    dice = random.Random(8)

    for bit in dice.sample(range(len(good) * 8), 600):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(LedgerError):
            details(installed, parse_completeness("proof", bytes(bad)))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"format":1}', b'{"format": "https://tallyroot.example/completeness/v1"}', b"\xff"]
)
def test_what_is_no_proof_of_completeness_is_refused(data):
    with pytest.raises(Malformed):
        parse_completeness("proof", data)


def test_a_signer_that_leaves_an_event_out_of_its_index_is_caught_by_the_audit(tmp_path, monkeypatch):
    installed = Installation(tmp_path)
    installed.publish(100, now_ms=NOV_21)
    with monkeypatch.context() as dishonest:
        dishonest.setattr(
            closing,
            "index_head",
            lambda read, count: index_head(lambda: [item for item in read() if item[0] != 99], count),
        )
        installed.publish(101, now_ms=DEC_1)

    with pytest.raises(MonthFailed, match=r"certificate of 2026-11, index: expected root .* over 7 subjects"):
        installed.audit()


def test_verify_says_what_is_complete(installed, tmp_path, capsys):
    path = tmp_path / "all.receipt"
    path.write_bytes(bytes(prove(installed, "2026-11", "player/b3", "player/nobody")))

    assert main(["verify", str(path), "--policy", str(installed.policy_path)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "ok      complete    player/b3 has exactly 43 events in 2026-11, versions 1 to 43"
    assert lines[2] == "ok      complete    player/nobody has no events in 2026-11"


def slow_index(entries):
    """The specification read aloud."""
    subjects = {}
    for leaf_index, entry in entries:
        subjects.setdefault(json.loads(entry)["subject"], []).append(leaf_index)
    hashed = sorted((sha256(subject.encode()).digest(), indexes) for subject, indexes in subjects.items())
    return [key + b"".join(index.to_bytes(8, "big") for index in indexes) for key, indexes in hashed]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(1, 60), st.integers(1, 80))
def test_the_index_is_that_of_the_reference_in_any_number_of_passes(count, subjects, at_once):
    entries = list(enumerate((event(number, subjects=subjects) for number in range(count)), 1_000))

    assert list(index_leaves(lambda: entries, count, events_at_once_max=at_once)) == slow_index(entries)


def test_the_index_of_nothing_is_the_empty_tree():
    assert index_head(list, 0) == IndexHead(EMPTY_ROOT, 0)


@pytest.mark.parametrize(
    "tail", [b"", b"\0" * 7, b"\0" * 9, b"\0" * 16, (5).to_bytes(8, "big") + (4).to_bytes(8, "big")]
)
def test_an_index_leaf_that_is_cut_off_or_out_of_order_is_refused(tail):
    with pytest.raises(ProofFailed):
        split_index_leaf(subject_key("player/b1") + tail)


def test_events_with_escapes_in_their_attributes_are_indexed_by_what_they_say(tmp_path):
    installed = Installation(tmp_path)
    odd = event(0, id='player."odd".1', subject='player/"odd"')
    writer = installed.open()
    writer.append([odd, *events(0, 9)])
    writer.sign(NOV_21)
    writer.close(DEC_1)

    proof = prove(installed, "2026-11", 'player/"odd"')

    assert [entry.entry for entry in proof.subjects[0].entries] == [odd]
    assert installed.audit().counts["quest-completed/1"] == 4
