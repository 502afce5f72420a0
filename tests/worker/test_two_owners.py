"""Two workers that both believe they own a partition, forced: nothing of the stale one's batch is stored or told."""

import asyncio

from test_worker_on_nats import Service, code_of, events_of

from adapters.jetstream import streams
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.commands import JetStreamCommands
from adapters.jetstream.connection import connect
from adapters.jetstream.dead_letters import JetStreamDeadLetters
from adapters.jetstream.snapshots import JetStreamSnapshots, SharedTail
from adapters.jetstream.store import JetStreamEventStore, JetStreamOutbox
from adapters.worker import now_ms
from bus.memory import MemoryTurns
from bus.neighbours import Neighbours
from bus.owners import Room
from bus.partition import Overtaken, Partition
from bus.restoring import Restorer


class Listened(JetStreamOutbox):
    """The real outbox, which remembers what went through it."""

    def __init__(self, client):
        super().__init__(client)
        self.sent = []

    async def send(self, outcomes):
        self.sent += outcomes
        await super().send(outcomes)


def a_partition(client, tenant, outbox):
    batches = BatchPublisher(client)
    store = JetStreamEventStore(client, tenant, batches)
    return Partition(
        tenant=tenant,
        partition=0,
        partitions=1,
        store=store,
        commands=JetStreamCommands(client, tenant),
        outbox=outbox,
        dead=JetStreamDeadLetters(client, tenant),
        restorer=Restorer(0, store, JetStreamSnapshots(client, tenant, batches), SharedTail(client, tenant)),
        neighbours=Neighbours(MemoryTurns()),
        room=Room(1_000),
        now_ms=now_ms,
        new_id=batches.new_id,
    )


async def decide_all(client, tenant, partition):
    """Take what is undecided and decide it, as `run` would; returns how many."""
    source = await JetStreamCommands(client, tenant).open(0, partition.decided_seq, partition.decided_ns)
    try:
        deliveries, tasks = await partition.prepare(await source.take(999))
        count = 0
        while deliveries:
            done = await partition.process(deliveries, tasks)
            del deliveries[:done], tasks[:done]
            count += done
        return count
    finally:
        await source.close()


def test_the_stale_one_of_two_owners_stores_nothing_and_tells_nobody_refusals_included(settings, tenant):
    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            await streams.create_tenant(client, tenant, partitions=1)
            service = Service(client, tenant)
            await service.listen()
            stale_outbox, outbox = Listened(client), Listened(client)
            stale, fresh = a_partition(client, tenant, stale_outbox), a_partition(client, tenant, outbox)
            await service.publish("RegisterPlayer", "p", service.command("RegisterPlayer", "p", {}, "r"))
            await stale.take_over()
            await decide_all(client, tenant, stale)
            told_before = len(stale_outbox.sent)
            await fresh.take_over()  # both believe that the partition is theirs
            for number in range(3):
                body = service.command("MintTokens", "p", {"amount": 1}, f"mint{number}")
                await service.publish("MintTokens", "p", body)
                body = service.command("SpendTokens", "p", {"amount": 100}, f"spend{number}")
                await service.publish("SpendTokens", "p", body)
            await decide_all(client, tenant, fresh)
            before = await events_of(service)
            overtaken = False
            try:
                await decide_all(client, tenant, stale)
            except Overtaken:
                overtaken = True
            await stale.snapshot()
            told = {name: [code_of(each) for each in found] for name, found in service.outcomes.items()}
            return overtaken, len(stale_outbox.sent) - told_before, before == await events_of(service), told
        finally:
            await client.close()

    overtaken, sent_by_stale, is_unchanged, told = asyncio.run(story())

    assert overtaken
    assert sent_by_stale == 0
    assert is_unchanged
    assert told == {
        "r": ["accepted"],
        **{f"mint{number}": ["accepted"] for number in range(3)},
        **{f"spend{number}": ["insufficient-tokens"] for number in range(3)},
    }


def test_the_stale_one_that_refuses_everything_is_refused_as_a_whole_too(settings, tenant):
    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            await streams.create_tenant(client, tenant, partitions=1)
            service = Service(client, tenant)
            await service.listen()
            stale_outbox, outbox = Listened(client), Listened(client)
            stale, fresh = a_partition(client, tenant, stale_outbox), a_partition(client, tenant, outbox)
            await stale.take_over()
            await fresh.take_over()
            await service.publish("SpendTokens", "p", service.command("SpendTokens", "p", {"amount": 1}, "s"))
            source = await JetStreamCommands(client, tenant).open(0, 0, 0)
            deliveries, tasks = await stale.prepare(await source.take(1))
            await source.close()
            await decide_all(client, tenant, fresh)
            overtaken = False
            try:
                await stale.process(deliveries, tasks)
            except Overtaken:
                overtaken = True
            return overtaken, stale_outbox.sent, len(await events_of(service)), len(outbox.sent)
        finally:
            await client.close()

    assert asyncio.run(story()) == (True, [], 1, 1)
