"""A snapshot whose acknowledgement is lost leaves the partition with an old fence: it takes itself over anew."""

import asyncio

import pytest
from harness import PARTITIONS, town_with

from bus import partition as partitions
from bus import restoring
from bus.errors import OutcomeUnknown
from bus.subjects import partition_of


def lose_answers(snapshots, count):
    """So many writes are stored without an answer; returns those that were."""
    write, lost = snapshots.write, []

    async def losing(*arguments):
        found = await write(*arguments)
        if len(lost) < count:
            lost.append(found)
            raise OutcomeUnknown("no acknowledgement came")
        return found

    snapshots.write = losing
    return lost


def test_without_a_fence_a_worker_would_keep_everybody_in_memory_so_it_asks_to_be_taken_over_after_a_while():
    async def story():
        town = await town_with(*(f"p{number}" for number in range(40)), owners_max=8)
        lose_answers(town.snapshots, PARTITIONS)
        for number in range(40):
            await town.send("MintTokens", f"p{number}", {"amount": 1})
        await town.drain()
        await town.snapshot()
        before = town.room.live_owners
        town.clock_ms += restoring.FENCED_OFF_AFTER_MS + 1
        for partition in town.partitions:
            with pytest.raises(partitions.Overtaken):
                await partition.snapshot()
            await partition.take_over()
        for number in range(40):
            await town.send("SpendTokens", f"p{number}", {"amount": 1}, f"s{number}")
        await town.drain()
        await town.snapshot()
        return before, town.room.live_owners, {town.outcome(f"s{number}")[0] for number in range(40)}

    before, after, told = asyncio.run(story())

    assert before > 8 >= after
    assert told == {"accepted"}


def test_a_partition_that_waits_for_commands_takes_itself_over_and_goes_on(monkeypatch):
    monkeypatch.setattr(partitions, "IDLE_S", 0.01)

    async def story():
        town = await town_with("p1")
        mine = town.partitions[partition_of("p1", PARTITIONS)]
        running = asyncio.create_task(mine.run())
        async with asyncio.timeout(20):
            while True:
                await asyncio.sleep(0.01)
                if mine.number in town.snapshots.watermarks:
                    break
            lost = lose_answers(town.snapshots, 1)
            while not lost or town.snapshots.watermarks[mine.number][0] < lost[0] + 3:
                town.clock_ms += restoring.FENCED_OFF_AFTER_MS
                await town.send("MintTokens", "p1", {"amount": 1})
                await asyncio.sleep(0.02)
            mine.stop()
            await running
        return town

    town = asyncio.run(story())

    sent = town.types().count("tokens-minted/1")
    assert sent > 1
    assert len(town.outbox.sent) == sent + 2
