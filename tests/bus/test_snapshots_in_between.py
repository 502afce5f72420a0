"""Snapshots are written a transaction at a time: a command that comes waits for one of them, not for all."""

import asyncio

import pytest
from harness import PARTITIONS, town_with

from bus import partition as partitions
from bus import restoring, snapshots
from bus.subjects import partition_of

PLAYERS = [f"p{number}" for number in range(80)]
MINE = [player for player in PLAYERS if partition_of(player, PARTITIONS) == partition_of("p0", PARTITIONS)]


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch):
    monkeypatch.setattr(restoring, "SNAPSHOTS_AT_ONCE", 2)
    monkeypatch.setattr(partitions, "IDLE_S", 0.01)


async def crowd():
    """A town whose players have all gone on since the last snapshot, and the partition of the first of them."""
    town = await town_with(*PLAYERS)
    return town, town.partitions[partition_of("p0", PARTITIONS)]


def kept(town, partition):
    """Whose snapshots are written."""
    return {owner for number, owner in town.snapshots.bodies if number == partition.number}


def complete_to(town, partition):
    """Up to where its snapshots tell everything."""
    return snapshots.decode_watermark(partition.number, town.snapshots.watermarks[partition.number][1]).stream_seq


def test_a_command_is_decided_while_others_have_yet_to_be_written():
    async def story():
        town, mine = await crowd()
        write, send = town.snapshots.write, town.outbox.send
        written, written_when_told = [], []

        async def writing(partition, bodies, *more):
            if town.types().count("tokens-minted/1") >= len(MINE):
                if bodies and not written:
                    await town.send("MintTokens", "p0", {"amount": 1}, "last")
                written.extend(owner for owner, _ in bodies)
            return await write(partition, bodies, *more)

        async def sending(outcomes):
            await send(outcomes)
            if any(b'"last"' in body for _, body in outcomes):
                written_when_told.append(len(set(written)))
                mine.stop()

        town.snapshots.write, town.outbox.send = writing, sending
        running = asyncio.create_task(mine.run())
        for player in MINE:
            await town.send("MintTokens", player, {"amount": 1}, f"m-{player}")
        async with asyncio.timeout(20):
            await running
        return town.outcome("last")[0], written_when_told, set(written)

    told, written_when_told, written_at_last = asyncio.run(story())

    assert told == "accepted"
    assert 0 < written_when_told[0] < len(MINE)
    assert written_at_last == set(MINE)


def test_what_was_begun_goes_on_under_commands_and_the_tail_becomes_short():
    async def story():
        town, mine = await crowd()
        await mine.snapshot_some()
        begun = len(kept(town, mine))
        tails = []
        for number in range(len(MINE)):
            town.clock_ms += restoring.NEXT_AFTER_MS + 1
            await town.send("MintTokens", "p0", {"amount": 1}, f"m{number}")
            await town.drain(mine.number)
            tails.append(len(kept(town, mine)))
        await town.restart()
        await town.send("SpendTokens", "p0", {"amount": len(MINE)}, "spend")
        await town.drain()
        return begun, tails[-1], town.outcome("spend")[0]

    begun, kept_at_last, told = asyncio.run(story())

    assert begun == 2
    assert kept_at_last == len(MINE)
    assert told == "accepted"


def test_who_stops_finishes_the_snapshots_that_were_begun_if_few_are_missing(monkeypatch):
    monkeypatch.setattr(partitions, "DIRTY_AT_STOP_MAX", 2)

    async def story():
        town, mine = await crowd()
        while len(kept(town, mine)) < len(MINE) - 2:
            await mine.snapshot_some()
        for player in MINE:
            await town.send("MintTokens", player, {"amount": 1})
        await town.drain(mine.number)
        before = complete_to(town, mine)
        mine.stop()
        await mine.run()
        return before, complete_to(town, mine)

    before, after = asyncio.run(story())

    assert before < after
