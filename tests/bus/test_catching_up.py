"""An owner to whom others write is caught up with from where he is known; his history is not read again."""

import asyncio
import re

import pytest
from harness import PARTITIONS, town_with

from bus.subjects import partition_of


def apart():
    """Two owners of different partitions."""
    names = [f"p{n}" for n in range(9)]
    return names[0], next(
        name for name in names if partition_of(name, PARTITIONS) != partition_of(names[0], PARTITIONS)
    )


def counted(store):
    """How many events were read of histories, one number for each time."""
    counts, histories = [], store.histories

    async def counting(owners, after):
        found = await histories(owners, after)
        counts.append(sum(map(len, found.values())))
        return found

    store.histories = counting
    return counts


async def a_merchant(payments=20):
    """A town in which a player pays a merchant of another partition again and again."""
    player, merchant = apart()
    town = await town_with(player, merchant)
    await town.send("MintTokens", player, {"amount": 1_000})
    counts = counted(town.store)
    for number in range(payments):
        await town.send("TransferTokens", player, {"recipient": merchant, "amount": 2}, f"pay-{number}")
        await town.drain()
        await town.send("SpendTokens", merchant, {"amount": 1})
        await town.drain()
    return town, counts, player, merchant


def test_both_sides_of_many_transfers_are_caught_up_with_and_not_read_again():
    async def story():
        town, counts, _, merchant = await a_merchant()
        await town.send("SpendTokens", merchant, {"amount": 20}, "all")
        await town.send("SpendTokens", merchant, {"amount": 1}, "too-much")
        await town.drain()
        return town, counts

    town, counts = asyncio.run(story())

    assert town.outcome("all")[0] == "accepted"
    assert town.outcome("too-much") == ("refused", "insufficient-tokens")
    assert town.types().count("tokens-received/1") == town.types().count("tokens-spent/1") - 1 == 20
    assert len(counts) >= 20
    assert max(counts) <= 4


def test_who_takes_over_reads_a_foreign_owner_from_the_snapshot_of_the_other_partition():
    async def story():
        town, _, player, merchant = await a_merchant()
        await town.snapshot()
        await town.send("TransferTokens", player, {"recipient": merchant, "amount": 2}, "tail")
        await town.drain()
        await town.restart()
        counts = counted(town.store)
        await town.send("TransferTokens", player, {"recipient": merchant, "amount": 2}, "then")
        await town.drain()
        return town.outcome("then")[0], counts

    outcome, counts = asyncio.run(story())

    assert outcome == "accepted"
    assert sum(counts) <= 6


@pytest.mark.parametrize("spoil", ["cut", "of another version", "ahead of the stream"])
def test_a_foreign_snapshot_that_does_not_fit_the_stream_is_passed_over(spoil):
    async def story():
        town, _, player, merchant = await a_merchant(payments=3)
        await town.snapshot()
        key = partition_of(merchant, PARTITIONS), merchant
        body = town.snapshots.bodies[key]
        spoilt = {
            "cut": body[:-1],
            "of another version": body.replace(b'"token":[', b'"token":[1'),
            "ahead of the stream": re.sub(rb'("token":.\d+,)', rb"\g<1>9", body),
        }[spoil]
        assert spoilt != body
        town.snapshots.bodies[key] = spoilt
        await town.restart()
        await town.send("TransferTokens", player, {"recipient": merchant, "amount": 2}, "then")
        await town.drain()
        return town.outcome("then")[0]

    assert asyncio.run(story()) == "accepted"


@pytest.mark.parametrize("is_restarted", [False, True], ids=["in one run", "after a take-over"])
def test_a_command_to_the_recipient_with_the_id_of_the_transfer_is_a_command_of_its_own(is_restarted):
    async def story():
        town, _, _, merchant = await a_merchant(payments=3)
        if is_restarted:
            await town.restart()
        await town.send("SpendTokens", merchant, {"amount": 1}, "pay-1")
        await town.drain()
        return [outcome["subject"].partition("/")[2] for outcome in town.outcomes("pay-1")], town.types(), merchant

    subjects, types, merchant = asyncio.run(story())

    assert subjects[-1] == merchant
    assert types.count("tokens-spent/1") == 4
