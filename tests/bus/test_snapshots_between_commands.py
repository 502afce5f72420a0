"""While commands keep coming, snapshots are written in parts: nobody waits for those of all players."""

import asyncio

import pytest
from harness import PARTITIONS, town_with

from bus import partition as partitions
from bus.snapshots import decode_watermark
from bus.subjects import partition_of

NUMBER = 0
MINE = [name for at in range(400) if partition_of(name := f"p{at}", PARTITIONS) == NUMBER][:30]


@pytest.fixture(autouse=True)
def _a_tail_is_soon_long(monkeypatch):
    monkeypatch.setattr(partitions, "BEHIND_SOON", 10)
    monkeypatch.setattr(partitions, "SNAPSHOTS_A_FEW", 4)


async def gone_on():
    """A town whose players all registered while no tail was too long, and the parts that it writes from now on."""
    partitions.BEHIND_SOON, short = 10**6, partitions.BEHIND_SOON
    town = await town_with(*MINE)
    partitions.BEHIND_SOON = short
    write, parts = town.snapshots.write, []

    async def noted(partition, bodies, watermark, fence_seq):
        if bodies:
            parts.append((partition, len(bodies)))
        await asyncio.sleep(0)
        return await write(partition, bodies, watermark, fence_seq)

    town.snapshots.write = noted
    return town, parts


async def mint(town, *players):
    for player in players:
        await town.send("MintTokens", player, {"amount": 1})
    await town.drain()


def complete_to(town, number=NUMBER):
    return decode_watermark(number, town.snapshots.watermarks[number][1]).stream_seq


def test_each_batch_writes_a_part_until_all_is_written_and_the_tail_is_short():
    async def story():
        town, parts = await gone_on()
        seen = []
        for _ in range(12):
            await mint(town, MINE[0])
            seen.append(complete_to(town) > 0)
        return [count for _, count in parts], seen

    parts, is_complete = asyncio.run(story())

    assert parts[:8] == [4] * 7 + [3], "each once, the one who mints as well"
    assert is_complete.index(True) == 7


def test_behind_a_large_batch_all_are_written_at_once_and_later(monkeypatch):
    monkeypatch.setattr(partitions, "FEW_COMMANDS", 3)

    async def story():
        town, parts = await gone_on()
        monkeypatch.setattr(partitions, "BEHIND_MAX", len(town.store.events) + 7)
        await mint(town, *MINE[:4])
        await mint(town, *MINE[4:8])
        return [count for _, count in parts]

    assert asyncio.run(story()) == [31]


def test_where_few_commands_come_one_partition_writes_at_a_time():
    async def story():
        town, parts = await gone_on()
        others = [f"q{at}" for at in range(40)]
        partitions.BEHIND_SOON = 10**6
        for other in others:
            await town.send("RegisterPlayer", other)
        await town.drain()
        partitions.BEHIND_SOON = 10
        del parts[:]
        for name in (*MINE[:1], *others[:12]):
            await town.send("MintTokens", name, {"amount": 1})
        await town.drain()
        return parts

    parts = asyncio.run(story())

    assert len(parts) == 1, "all of them had commands in one turn and a tail that is too long"


def test_what_was_written_in_parts_is_restored_as_if_it_had_been_written_at_once():
    async def story():
        town, _ = await gone_on()
        for _ in range(5):
            await mint(town, MINE[0])
        await town.restart()
        for player in MINE:
            await town.send("SpendTokens", player, {"amount": 5}, f"spend-{player}")
        await town.drain()
        first = town.outcome(f"spend-{MINE[0]}")[0], town.outcome(f"spend-{MINE[1]}")[0]
        await town.send("SpendTokens", MINE[0], {"amount": 1}, "too-much")
        await town.drain()
        return first, town.outcome("too-much")[0]

    assert asyncio.run(story()) == (("accepted", "refused"), "refused")


def test_who_takes_over_brings_in_the_tail_in_parts_though_commands_keep_coming():
    async def story():
        town, parts = await gone_on()
        town.store.stretch = len(town.store.events)
        await town.restart()
        del parts[:]
        batches = 0
        while not complete_to(town):
            await mint(town, MINE[0])
            batches += 1
        return max(count for _, count in parts), batches, {owner for at, owner in town.snapshots.bodies if at == NUMBER}

    largest, batches, kept = asyncio.run(story())

    assert largest == 4, "who goes on, and as many of the tail as there is room for"
    assert batches <= 12
    assert kept >= set(MINE)


def test_who_left_the_tail_while_a_round_was_on_its_way_is_not_taken_for_written():
    async def story():
        town, _ = await gone_on()
        town.store.stretch = len(town.store.events)
        await town.restart()
        await mint(town, *MINE[:10])  # a round of ten begins
        for player in MINE[10:]:  # their past is read from the tail, and nothing comes after it
            await town.send("SpendTokens", player, {"amount": 1})
        await town.drain()
        for _ in range(3):
            await mint(town, MINE[0])
        told = complete_to(town)
        await town.restart()
        for player in MINE:
            await town.send("RegisterPlayer", player, {}, f"again-{player}")
        await town.drain()
        return told, {town.outcome(f"again-{player}") for player in MINE}

    told, outcomes = asyncio.run(story())

    assert {outcome for outcome, _ in outcomes} == {"refused"}
    assert told == 0, "twenty of the tail are not written yet"
