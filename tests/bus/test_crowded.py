"""A partition whose aggregates others write all the time gets its turn."""

import asyncio
import json

from harness import PARTITIONS, TENANT, town_with

from bus import subjects
from bus.memory import MemoryEventStore
from bus.subjects import partition_of

ATTEMPTS_MAX = 20
MINE, THEIRS = 0, 1


class Crowded(MemoryEventStore):
    """A store in which others write before a batch of the first partition comes; `tried` says what each expected."""

    def __init__(self):
        super().__init__(TENANT)
        self.tried = []
        self.others_write = None

    async def append(self, batch_id, messages):
        if self.others_write and messages[-1].subject == subjects.inbox(TENANT, MINE):
            self.tried.append({message.subject: message.expected for message in messages})
            assert len(self.tried) < ATTEMPTS_MAX, "it never gets its turn"
            await self.others_write(self.tried[-1])
        return await super().append(batch_id, messages)


def players(partition, count):
    names = (f"p{number}" for number in range(1_000))
    return [name for name in names if partition_of(name, PARTITIONS) == partition][:count]


def account(owner):
    return subjects.event(TENANT, "token", owner)


async def crowded_town(*names):
    town = await town_with(*names, store=Crowded())
    for name in names:
        await town.send("MintTokens", name, {"amount": 100})
    await town.drain()
    return town


async def decide_elsewhere(town, owner, name, data):
    """A command that another partition decides at once."""
    await town.send(name, owner, data)
    partition = town.partitions[THEIRS]
    source = await town.commands.open(THEIRS, partition.decided_seq, partition.decided_ns)
    await partition.process(*await partition.prepare(await source.take(1)))


def balance(town, owner):
    return [json.loads(body)["data"]["balance"] for subject, body in town.store.events if subject == account(owner)][-1]


def test_what_is_ours_is_read_anew_though_what_others_write_changes_at_every_attempt():
    (mine,), (theirs, giver) = players(MINE, 1), players(THEIRS, 2)

    async def story():
        town = await crowded_town(mine, theirs, giver)

        async def others_write(expected):
            if len(town.store.tried) == 1:
                await decide_elsewhere(town, giver, "TransferTokens", {"recipient": mine, "amount": 7})
            if (await town.store.last_seqs([account(mine)]))[account(mine)] != expected[account(mine)]:
                await decide_elsewhere(town, theirs, "MintTokens", {"amount": 1})

        town.store.others_write = others_write
        await town.send("TransferTokens", mine, {"recipient": theirs, "amount": 50})
        await town.drain(MINE)
        return town

    town = asyncio.run(story())

    assert balance(town, mine) == 100 + 7 - 50
    assert len(town.store.tried) == 4


def test_a_batch_that_is_too_large_to_find_everybody_at_rest_becomes_smaller():
    mine, theirs = players(MINE, 8), players(THEIRS, 8)

    async def story():
        town = await crowded_town(*mine, *theirs)

        async def others_write(expected):
            if account(theirs[-1]) in expected and len(expected) > 3:
                await decide_elsewhere(town, theirs[-1], "MintTokens", {"amount": 1})

        town.store.others_write = others_write
        for giver, taker in zip(mine, theirs, strict=True):
            await town.send("TransferTokens", giver, {"recipient": taker, "amount": 10})
        await town.drain(MINE)
        return town

    town = asyncio.run(story())

    sizes = [len(expected) // 2 for expected in town.store.tried]
    assert sizes == [8, 8, 8, 4, 4, 4, 4, 2, 2, 2, 2, 1, 1]
    assert [balance(town, name) for name in mine] == [90] * 8
    assert [balance(town, name) for name in theirs] >= [110] * 8
