"""Partitions that have few commands decide when the batch before them is stored, and are stored as one."""

import asyncio
import json

import pytest
from harness import PARTITIONS, Town

from bus import partition as partitions
from bus.memory import MemoryEventStore
from bus.subjects import partition_of
from domain import catalogue

TENANT = "t"


class HeldBack(MemoryEventStore):
    """Remembers whose inbox events each append has; stores nothing until it may."""

    def __init__(self):
        super().__init__(TENANT)
        self.appends = []
        self.may_store = asyncio.Semaphore(0)

    async def append(self, batch_id, messages):
        inboxes = [message.subject.rpartition(".")[2] for message in messages if ".inbox." in message.subject]
        self.appends.append((sorted(map(int, inboxes)), len(messages) - len(inboxes)))
        await self.may_store.acquire()
        return await super().append(batch_id, messages)


def players(number, count):
    """So many players of a partition."""
    return [name for at in range(400) if partition_of(name := f"p{at}", PARTITIONS) == number][:count]


def together(send, log):
    """Outcomes of one turn of the loop in one go: who is the first to say something comes back a turn later."""
    waiting = []

    async def send_together(outcomes):
        waiting.extend(outcomes)
        if len(waiting) == len(outcomes):
            await asyncio.sleep(0)
            found = list(waiting)
            waiting.clear()
            log.extend(["said"] * len(found))
            await send(found)

    return send_together


async def town_at_work(*rounds, log=None):
    """Let all partitions run; while a batch is on its way, come so many commands for each of them, round after round.

    The first batch has one command, of partition 0. Returns what was appended before the first was stored, and in all.
    """
    town = Town(store=HeldBack())
    town.outbox.send = together(town.outbox.send, [] if log is None else log)
    running = [asyncio.create_task(one.run()) for one in town.partitions]
    await asyncio.sleep(0.01)
    await town.send("RegisterPlayer", players(0, 1)[0])
    await asyncio.sleep(0.01)
    sent, before = [1, 0, 0, 0], []
    for counts in rounds:
        for number, count in enumerate(counts):
            for player in players(number, sent[number] + count)[sent[number] :]:
                await town.send("RegisterPlayer", player)
                await asyncio.sleep(0)
            sent[number] += count
        await asyncio.sleep(0.02)
        before = before or list(town.store.appends)
        town.store.may_store.release()
        await asyncio.sleep(0.02)
    for _ in range(100):
        town.store.may_store.release()
    async with asyncio.timeout(10):
        while len(town.outbox.sent) < sum(sent):  # noqa: ASYNC110 - a list says nothing
            await asyncio.sleep(0)
    for one in town.partitions:
        one.stop()
    await asyncio.gather(*running)
    outcomes = [json.loads(body)["type"] for _, body in town.outbox.sent]
    assert outcomes == ["command-accepted/1"] * sum(sent)
    return before, town.store.appends


def test_what_comes_while_a_batch_is_on_its_way_leaves_as_one_when_it_is_stored():
    before, appends = asyncio.run(town_at_work([2, 1, 3, 1], [1, 0, 1, 2], [0, 3, 1, 1]))

    assert before == [([0], 1)]
    assert appends == [([0], 1), ([0, 1, 2, 3], 7), ([0, 2, 3], 4), ([1, 2, 3], 5)]


def test_all_say_what_was_stored_before_any_decides_anew(monkeypatch):
    log, decide = [], catalogue.decide

    def noted(*what):
        log.append("decided")
        return decide(*what)

    monkeypatch.setattr(catalogue, "decide", noted)
    asyncio.run(town_at_work([2, 1, 3, 1], [1, 1, 1, 1], log=log))

    assert log == [word for count in (1, 7, 4) for word in ["decided"] * count + ["said"] * count]


def test_who_has_many_commands_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(partitions, "FEW_COMMANDS", 1)

    before, _ = asyncio.run(town_at_work([0, 1, 0, 0]))

    assert before == [([0], 1), ([1], 1)]


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_who_waits_for_a_batch_to_be_stored_can_be_stopped(is_cancelled):
    async def story():
        town = Town(store=HeldBack())
        running = [asyncio.create_task(one.run()) for one in town.partitions[:2]]
        await asyncio.sleep(0.01)
        for number in range(2):
            await town.send("RegisterPlayer", players(number, 1)[0])
            await asyncio.sleep(0.01)
        if is_cancelled:
            running[1].cancel()
            await asyncio.wait({running[1]}, timeout=10)
        else:
            town.partitions[1].stop()
        for _ in range(10):
            town.store.may_store.release()
        town.partitions[0].stop()
        async with asyncio.timeout(10):
            await asyncio.gather(*running, return_exceptions=True)
        return running[1].cancelled(), [inboxes for inboxes, _ in town.store.appends]

    # who was stopped still decides what it had taken; who was cancelled has left nothing behind
    assert asyncio.run(story()) == ((True, [[0]]) if is_cancelled else (False, [[0], [1]]))
