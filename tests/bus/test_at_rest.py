"""Snapshots are written while a partition waits for commands, not because nobody had time to look for them."""

import asyncio
import time

import pytest
from harness import PARTITIONS, town_with

from bus import partition as partitions
from bus.subjects import partition_of

IDLE_S = 0.1


async def for_so_long(seconds, burst_s, pause_s):
    """Keep the process busy as other partitions would: a burst of computing, a pause, again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        until = time.monotonic() + burst_s
        while time.monotonic() < until:
            pass
        await asyncio.sleep(pause_s)


async def with_a_waiting_partition(meanwhile):
    """Snapshots that are there when `meanwhile` is over, and when the process was at rest after it."""
    town = await town_with("p1")
    mine = town.partitions[partition_of("p1", PARTITIONS)]
    running = asyncio.create_task(mine.run())
    await meanwhile()
    then = dict(town.snapshots.bodies)
    async with asyncio.timeout(20):
        while not town.snapshots.bodies:  # noqa: ASYNC110 - a dict says nothing
            await asyncio.sleep(0.01)
    mine.stop()
    await running
    return then


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(partitions, "IDLE_S", IDLE_S)
    monkeypatch.setattr(partitions, "BUSY_CORE", 0.1)  # other tests run on the same cores


def test_a_process_that_others_keep_busy_is_not_at_rest():
    then = asyncio.run(with_a_waiting_partition(lambda: for_so_long(8 * IDLE_S, burst_s=0.02, pause_s=0.001)))

    assert then == {}


def test_a_process_that_stood_still_looks_for_commands_first():
    async def stand_still():
        await asyncio.sleep(IDLE_S / 2)
        time.sleep(3 * IDLE_S)  # noqa: ASYNC251 - as SIGSTOP does
        await asyncio.sleep(IDLE_S / 2)

    assert asyncio.run(with_a_waiting_partition(stand_still)) == {}


def test_who_waits_long_enough_is_written_however_busy_the_process_is(monkeypatch):
    monkeypatch.setattr(partitions, "IDLE_LOOKS_MAX", 3)

    then = asyncio.run(with_a_waiting_partition(lambda: for_so_long(8 * IDLE_S, burst_s=0.02, pause_s=0.001)))

    assert then


def test_a_command_that_comes_while_snapshots_are_written_does_not_wait_for_all_of_them(monkeypatch):
    monkeypatch.setattr(partitions, "SNAPSHOTS_A_FEW", 1)
    number = partition_of("p1", PARTITIONS)
    players = [name for at in range(200) if partition_of(name := f"p{at}", PARTITIONS) == number][:20]

    async def story():
        town = await town_with(*players)
        write, send, late, kept_when_answered = town.snapshots.write, town.outbox.send, [], []

        async def write_and_send(partition, bodies, watermark, fence_seq):
            found = await write(partition, bodies, watermark, fence_seq)
            if len(town.snapshots.bodies) == 3 and not late:
                late.append(await town.send("MintTokens", players[0], {"amount": 1}, "late"))
            await asyncio.sleep(0.01)
            return found

        async def note_and_send(outcomes):
            kept_when_answered.append(len(town.snapshots.bodies))
            await send(outcomes)

        mine = town.partitions[number]
        running = asyncio.create_task(mine.run())
        await asyncio.sleep(0)
        town.snapshots.write, town.outbox.send = write_and_send, note_and_send
        async with asyncio.timeout(20):
            while len(town.snapshots.bodies) < len(players):  # noqa: ASYNC110 - a dict says nothing
                await asyncio.sleep(0.01)
        mine.stop()
        await running
        return kept_when_answered, town.outcome("late")[0], set(town.snapshots.bodies)

    kept_when_answered, outcome, kept = asyncio.run(story())

    assert outcome == "accepted"
    assert len(kept_when_answered) == 1
    assert 3 <= kept_when_answered[0] <= 5
    assert {(number, player) for player in players} <= kept


def test_partitions_at_rest_write_their_snapshots_one_after_the_other(monkeypatch):
    monkeypatch.setattr(partitions, "SNAPSHOTS_A_FEW", 1)
    players = [f"p{at}" for at in range(24)]

    async def story():
        town = await town_with(*players)
        write, writing, together = town.snapshots.write, set(), []

        async def noted(partition, bodies, *fence):
            if bodies:  # a partition that is taken over writes its watermark alone
                writing.add(partition)
                together.append(len(writing))
            await asyncio.sleep(0.01)
            found = await write(partition, bodies, *fence)
            writing.discard(partition)
            return found

        town.snapshots.write = noted
        running = [asyncio.create_task(one.run()) for one in town.partitions]
        async with asyncio.timeout(20):
            while not {owner for _, owner in town.snapshots.bodies} >= set(players):  # noqa: ASYNC110 - a dict says nothing
                await asyncio.sleep(0.01)
        for one in town.partitions:
            one.stop()
        await asyncio.gather(*running)
        return together[: len(players)]

    assert set(asyncio.run(story())) == {1}
