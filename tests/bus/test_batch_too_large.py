"""An event that the log cannot take is refused, and what the batch had drafted before stands as it was."""

import pytest

from bus import batch as batches
from bus.batch import Batch, TooLarge
from bus.envelope import BODY_BYTES_MAX, decode_command
from bus.owners import Owner
from domain.catalogue import plan
from tests.bus.harness import body_of

QUESTS = {"title": "Q", "steps": [], "rewards": {"xp": 1, "tokens": 1, "badge": "b"}, "divisions": []}


def decide(batch, name, owner, data, command_id):
    aggregate, body = body_of(name, owner, data, command_id)
    request = decode_command("t", 1, (aggregate, owner, name), body)
    batch.decide(request, f"{aggregate}/{owner}", plan(request.target, request.command))


def batch_of(owners):
    return Batch("t", "2026-01-01T00:00:00.000Z", lambda name: owners.setdefault(name, Owner()), lambda _: False)


def prepared(owners):
    batch = batch_of(owners)
    decide(batch, "PublishQuest", "q", QUESTS, "c1")
    decide(batch, "RegisterPlayer", "p", {}, "c2")
    decide(batch, "AcceptQuest", "p", {"quest": "q"}, "c3")
    return batch


def bodies(batch):
    return [message.body for message in batch.messages]


class Swollen:
    """The batch's writer, but what it writes of badges is larger than the log takes."""

    def __init__(self, writer):
        self._writer = writer

    def body(self, *arguments):
        name, body = self._writer.body(*arguments)
        return name, body + b" " * BODY_BYTES_MAX * (name == "badge-awarded/1")


def test_a_later_event_of_a_command_being_too_large_takes_the_earlier_ones_back():
    batch, other = prepared({}), prepared({})
    decide(other, "CompleteQuest", "p", {"quest": "q", "elapsed_ms": 5}, "c4")
    before = bodies(batch)

    batch._writer = Swollen(writer := batch._writer)
    with pytest.raises(TooLarge, match="badge-awarded/1"):
        decide(batch, "CompleteQuest", "p", {"quest": "q", "elapsed_ms": 5}, "c4")

    assert bodies(batch) == before
    batch._writer = writer
    decide(batch, "CompleteQuest", "p", {"quest": "q", "elapsed_ms": 5}, "c4")
    assert bodies(batch) == bodies(other)
    assert [m.expected for m in batch.messages] == [m.expected for m in other.messages]


def test_the_first_event_of_a_new_player_being_too_large_leaves_no_trace_of_the_player(monkeypatch):
    owners = {}
    batch = batch_of(owners)
    monkeypatch.setattr(batches, "BODY_BYTES_MAX", 100)

    with pytest.raises(TooLarge):
        decide(batch, "RegisterPlayer", "p", {}, "c1")

    assert batch.messages == []
    assert batch.own_written == set()
