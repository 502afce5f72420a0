"""What a partition may rely on when it parks commands, in memory and on a real server."""

import asyncio
import contextlib

import pytest

from adapters.jetstream.connection import connect
from adapters.jetstream.dead_letters import JetStreamDeadLetters
from adapters.jetstream.streams import create_tenant
from bus.memory import MemoryDeadLetters
from bus.ports import Delivery
from domain.catalogue import Key

ADA, BOB = Key("player", "ada"), Key("token", "bob")


@pytest.fixture(params=["memory", "jetstream"])
def dead(request, settings, tenant):
    @contextlib.asynccontextmanager
    async def opened():
        if request.param == "memory":
            yield MemoryDeadLetters()
            return
        client = await connect(settings.nats_url, "test")
        try:
            await create_tenant(client, tenant)
            yield JetStreamDeadLetters(client, tenant)
        finally:
            await client.close()

    return opened


def delivery(seq: int, name: str = "AcceptQuest") -> Delivery:
    return Delivery(seq, f"tally.cmd.t.3.player.ada.{name}", b'{"id":"c"}', "_INBOX.x")


def test_what_is_parked_is_told_by_aggregate_and_kept_once(dead):
    async def story():
        async with dead() as letters:
            before = await letters.parked()
            for seq, target in ((7, ADA), (7, ADA), (9, BOB)):
                await letters.park(target, delivery(seq), f"c{seq}", "Ünreadable\n")
            held = [
                await letters.holds(*asked)
                for asked in ((ADA, 1, "c7"), (ADA, 1, "c9"), (BOB, 1, "c7"), (BOB, 2, "c9"))
            ]
            return before, await letters.parked(), held, await letters.holds(ADA, 99, "c7")

    assert asyncio.run(story()) == (set(), {ADA, BOB}, [True, False, False, True], False)


def test_a_dead_letter_tells_everything_that_an_operator_needs(settings, tenant):
    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            await create_tenant(client, tenant)
            dead = JetStreamDeadLetters(client, tenant)
            await dead.park(ADA, delivery(7), "c7", "ValueError: x: y")
            await dead.park(ADA, delivery(8), "c8", "behind")
            found = await dead.letters()
            await dead.remove(found[0].dead_seq)
            return found, [one.command_id for one in await dead.letters()], await dead.get(found[0].dead_seq)
        finally:
            await client.close()

    found, left, gone = asyncio.run(story())

    first = found[0]
    assert (first.aggregate, first.owner, first.command, first.command_id) == ("player", "ada", "AcceptQuest", "c7")
    assert (first.reason, first.reply_to, first.body) == ("ValueError: x: y", "_INBOX.x", b'{"id":"c"}')
    assert left == ["c8"]
    assert gone is None
