"""The tail of the event stream is read once for all partitions of a process, and no further than it was asked for."""

import asyncio

from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import connect
from adapters.jetstream.reader import PullReader
from adapters.jetstream.snapshots import SharedTail
from adapters.jetstream.store import JetStreamEventStore
from adapters.jetstream.streams import create_tenant
from bus import subjects
from bus.ports import Message

PARTITIONS = 8


def note(tenant, owner) -> Message:
    """An event of an account; the tail looks at its subject only."""
    return Message(subjects.event(tenant, "token", owner), b"{}", None, None)


def test_whoever_waits_for_the_tail_does_not_read_what_was_committed_while_he_waited(settings, tenant, monkeypatch):
    came = []

    class Writing(PullReader):
        """The first partition that has its tail commits while the others wait."""

        async def take(self, *arguments, **options):
            taken = await super().take(*arguments, **options)
            came.extend(seq for seq, _ in taken)
            if len(came) <= 2:
                await commit("b2")
            return taken

    monkeypatch.setattr("adapters.jetstream.snapshots.PullReader", Writing)

    async def commit(batch_id):
        await store.append(batch_id, [note(tenant, owner) for owner in "ab"])

    async def story():
        nonlocal store
        client = await connect(settings.nats_url, "test")
        try:
            await create_tenant(client, tenant, partitions=PARTITIONS)
            store = JetStreamEventStore(client, tenant, BatchPublisher(client))
            await store.append("b1", [note(tenant, owner) for owner in "ab"])
            tail = SharedTail(client, tenant)
            asked = [tail.since(0, partition, lambda _: True) for partition in range(PARTITIONS)]
            return [(one.end_seq, one.is_last) for one in await asyncio.gather(*asked)]
        finally:
            await client.close()

    store = None
    told = asyncio.run(story())

    assert told == [(2, True)] * PARTITIONS
    assert came == [1, 2]


def test_partitions_that_ask_from_different_places_share_one_read_of_the_tail(settings, tenant, monkeypatch):
    came = []

    class Counting(PullReader):
        async def take(self, *arguments, **options):
            taken = await super().take(*arguments, **options)
            came.extend(seq for seq, _ in taken)
            return taken

    monkeypatch.setattr("adapters.jetstream.snapshots.PullReader", Counting)

    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            await create_tenant(client, tenant, partitions=PARTITIONS)
            batches = BatchPublisher(client)
            store = JetStreamEventStore(client, tenant, batches)
            await store.append("b1", [note(tenant, owner) for owner in 30 * "ab"])
            tail = SharedTail(client, tenant)
            stretches = [await tail.since(after_seq, 3, lambda _: True) for after_seq in (40, 20, 55, 5)]
            return [
                sorted(record.stream_seq for records in stretch.by_owner.values() for record in records)
                for stretch in stretches
            ]
        finally:
            await client.close()

    told = asyncio.run(story())

    assert told == [list(range(after_seq + 1, 61)) for after_seq in (40, 20, 55, 5)]
    assert sorted(came) == list(range(6, 61))
