"""What a partition may rely on, asked of the ports in memory and of the ones over a real server alike."""

import asyncio
import contextlib
import json
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.commands import JetStreamCommands
from adapters.jetstream.connection import connect
from adapters.jetstream.snapshots import JetStreamSnapshots, SharedTail
from adapters.jetstream.store import JetStreamEventStore
from adapters.jetstream.streams import create_tenant
from bus import subjects
from bus.envelope import CommandsDecided, EventEnvelope, encode_data, encode_event
from bus.errors import Conflict
from bus.joining import GroupCommit
from bus.memory import MemoryCommands, MemoryEventStore, MemorySnapshots
from bus.ports import CommandStream, EventStore, Message, SnapshotStore, Tail
from domain.catalogue import Key

PARTITIONS = 8


@pytest.fixture(params=["memory", "jetstream", "joined"])
def ports(request, settings, tenant):
    """A context manager that gives (event store, command stream, publish)."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[tuple[EventStore, CommandStream, object]]:
        if request.param == "memory":
            commands = MemoryCommands(tenant, PARTITIONS)
            yield MemoryEventStore(tenant), commands, commands.publish
            return
        client = await connect(settings.nats_url, "test")
        try:
            await create_tenant(client, tenant, partitions=PARTITIONS)

            async def publish(aggregate, owner, name, body, reply_to=None):
                headers = {"Tally-Reply-To": reply_to} if reply_to else None
                subject = subjects.command(tenant, aggregate, owner, name)
                await client.jetstream().publish(subject, body, headers=headers)

            batches = BatchPublisher(client)
            writer = GroupCommit(batches.append, batches.new_id) if request.param == "joined" else batches
            store = JetStreamEventStore(client, tenant, writer)
            yield store, JetStreamCommands(client, tenant), publish
        finally:
            await client.close()

    return opened


def event(tenant: str, aggregate: str, owner: str, version: int, cause: str = "c", data: object = None) -> bytes:
    kind = "commands-decided/1" if aggregate == "inbox" else "tokens-minted/1"
    return encode_event(
        EventEnvelope(
            specversion="1.0",
            id=f"{aggregate}.{owner}.{version}",
            source="//test",
            type=kind,
            subject=f"{aggregate}/{owner}",
            time="2026-01-01T00:00:00.000Z",
            recordedtime="2026-01-01T00:00:00.000Z",
            datacontenttype="application/json",
            dataschema="urn:x",
            tenantid=tenant,
            aggregateversion=version,
            causationid=cause,
            data=encode_data(data or {"amount": 1, "balance": version, "reason": ""}),
        )
    )


def message(tenant, aggregate, owner, version, expected, fence=None, **more) -> Message:
    subject = subjects.event(tenant, aggregate, owner)
    return Message(subject, event(tenant, aggregate, owner, version, **more), expected, fence)


def test_a_batch_is_stored_whole_and_in_order(ports, tenant):
    async def story():
        async with ports() as (store, _, _):
            first = await store.append("b1", [message(tenant, "token", "a", 1, 0), message(tenant, "token", "b", 1, 0)])
            then = await store.append(
                "b2", [message(tenant, "token", "a", 2, 1), message(tenant, "token", "a", 3, None)]
            )
            records = await store.events_from(1, 10)
            return first, then, [(record.stream_seq, record.event.id) for record in records]

    assert asyncio.run(story()) == (1, 3, [(1, "token.a.1"), (2, "token.b.1"), (3, "token.a.2"), (4, "token.a.3")])


def test_a_single_message_is_stored_like_a_batch(ports, tenant):
    async def story():
        async with ports() as (store, _, _):
            first = await store.append("b1", [message(tenant, "token", "a", 1, 0)])
            with pytest.raises(Conflict):
                await store.append("b2", [message(tenant, "token", "a", 1, 0)])
            return first

    assert asyncio.run(story()) == 1


@pytest.mark.parametrize("stale", ["own", "fence", "last"])
def test_a_batch_with_one_stale_expectation_leaves_nothing(ports, tenant, stale):
    async def story():
        async with ports() as (store, _, _):
            await store.append("b1", [message(tenant, "token", "a", 1, 0), message(tenant, "quest", "q", 1, 0)])
            quest = subjects.event(tenant, "quest", "q")
            batch = [
                message(tenant, "token", "a", 2, 0 if stale == "own" else 1),
                message(tenant, "token", "a", 3, 1 if stale == "fence" else 2, fence=quest),
                message(tenant, "token", "b", 1, 9 if stale == "last" else 0),
            ]
            with pytest.raises(Conflict):
                await store.append("b2", batch)
            return len(await store.events_from(1, 10))

    assert asyncio.run(story()) == 2


def test_a_fence_that_holds_lets_the_batch_pass(ports, tenant):
    async def story():
        async with ports() as (store, _, _):
            await store.append("b1", [message(tenant, "quest", "q", 1, 0)])
            quest = subjects.event(tenant, "quest", "q")
            batch = [message(tenant, "token", "a", 1, 0), message(tenant, "token", "a", 2, 1, fence=quest)]
            return await store.append("b2", batch)

    assert asyncio.run(story()) == 2


@pytest.mark.parametrize("is_fence", [False, True])
def test_what_a_batch_itself_has_written_before_conflicts_with_an_expectation(ports, tenant, is_fence):
    async def story():
        async with ports() as (store, _, _):
            await store.append("b1", [message(tenant, "quest", "q", 1, 0)])
            quest = subjects.event(tenant, "quest", "q")
            fenced = message(tenant, "token", "a", 1, 1, fence=quest)
            batch = [message(tenant, "quest", "q", 2, 1), fenced if is_fence else message(tenant, "quest", "q", 2, 1)]
            with pytest.raises(Conflict):
                await store.append("b2", batch)
            return len(await store.events_from(1, 10))

    assert asyncio.run(story()) == 1


def test_a_fence_may_stand_before_a_write_of_its_subject_and_twice_in_a_batch(ports, tenant):
    async def story():
        async with ports() as (store, _, _):
            await store.append("b1", [message(tenant, "quest", "q", 1, 0)])
            quest = subjects.event(tenant, "quest", "q")
            fenced = [message(tenant, "token", owner, 1, 1, fence=quest) for owner in "ab"]
            return await store.append("b2", [*fenced, message(tenant, "quest", "q", 2, 1)])

    assert asyncio.run(story()) == 2


def test_of_a_history_that_is_known_up_to_a_sequence_the_rest_is_told(ports, tenant):
    async def story():
        async with ports() as (store, _, _):
            await store.append("b1", [message(tenant, "token", "a", 1, 0), message(tenant, "player", "a", 1, 0)])
            await store.append("b2", [message(tenant, "token", "a", 2, 1), message(tenant, "token", "a", 3, None)])
            told = []
            for seq in (0, 1, 3, 4):
                histories = await store.histories(["a"], {Key("token", "a"): seq, Key("token", "b"): 9})
                told.append([record.stream_seq for record in histories["a"]])
            return told

    assert asyncio.run(story()) == [[1, 2, 3, 4], [2, 3, 4], [2, 4], [2]]


def test_last_sequences_histories_and_owners_are_told(ports, tenant):
    async def story():
        async with ports() as (store, _, _):
            await store.append("b1", [message(tenant, "token", "a", 1, 0), message(tenant, "player", "a", 1, 0)])
            await store.append("b2", [message(tenant, "token", "b", 1, 0), message(tenant, "token", "a", 2, 1)])
            names = [subjects.event(tenant, "token", owner) for owner in ("a", "b", "nobody")]
            histories = await store.histories(["a", "nobody"], {})
            ids = {owner: [record.event.id for record in found] for owner, found in histories.items()}
            return await store.last_seqs(names), ids

    seqs, ids = asyncio.run(story())

    assert sorted(seqs.values()) == [3, 4]
    assert ids == {"a": ["token.a.1", "player.a.1", "token.a.2"], "nobody": []}


def test_an_inbox_tells_where_a_partition_stands(ports, tenant):
    def decided(number, refused=()):
        return CommandsDecided(partition=3, first_seq=number, last_seq=number, accepted=0, batch="b", refused=refused)

    async def story():
        async with ports() as (store, _, _):
            before = await store.inbox_head(3)
            refused = ((1, "c1", "some-code", "a line"),)
            await store.append("b1", [message(tenant, "inbox", "3", 1, 0, data=decided(1, refused))])
            await store.append("b2", [message(tenant, "inbox", "3", 2, 1, data=decided(2))])
            since = [one async for one in store.inbox_since(3, 0)]
            return before, await store.inbox_head(3), since, await store.histories(["3"], {})

    before, head, since, histories = asyncio.run(story())

    assert before is None
    assert (head.stream_seq, head.version, head.decided) == (2, 2, decided(2))
    assert [one.refused for one in since] == [((1, "c1", "some-code", "a line"),), ()]
    assert histories == {"3": []}


def test_many_inbox_events_are_told_whole_and_in_order_and_not_held_in_memory(ports, tenant):
    line, count = "x" * 20_000, 600

    def decided(number):
        refused = ((number, f"c{number}", "some-code", line),)
        return CommandsDecided(partition=3, first_seq=number, last_seq=number, accepted=0, batch="b", refused=refused)

    async def story():
        async with ports() as (store, _, _):
            for first in range(1, count + 1, 100):
                versions = range(first, first + 100)
                batch = [
                    message(tenant, "inbox", "3", n, n - 1 if n == first else None, data=decided(n)) for n in versions
                ]
                await store.append(f"b{first}", batch)
            await store.inbox_head(3)
            tracemalloc.start()
            try:
                told = [one.first_seq async for one in store.inbox_since(3, 0)]
                return told, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    told, peak = asyncio.run(story())

    assert told == list(range(1, count + 1))
    assert peak < count * len(line) * 0.75


def test_commands_come_in_order_from_where_one_left_off_and_only_those_of_the_partition(ports, tenant):
    owners = [f"p{number}" for number in range(40)]
    mine = subjects.partition_of("p0", PARTITIONS)

    async def story():
        async with ports() as (_, commands, publish):
            for owner in owners:
                await publish("player", owner, "RegisterPlayer", json.dumps({"id": owner}).encode(), "_INBOX.x")
            source = await commands.open(mine, 0, 0)
            taken = []
            expected = [owner for owner in owners if subjects.partition_of(owner, PARTITIONS) == mine]
            more = []
            while len(taken) < len(expected):
                taken += await source.take(3)
                more.append(source.has_more())
            await source.close()
            again = await commands.open(mine, taken[1].stream_seq, taken[1].received_ns)
            rest = await again.take(1)
            await again.close()
            return expected, taken, rest, more

    expected, taken, rest, more = asyncio.run(story())

    assert more[-1] is False
    assert [subjects.split_command(delivery.subject)[1] for delivery in taken] == expected
    assert {delivery.reply_to for delivery in taken} == {"_INBOX.x"}
    assert json.loads(taken[0].body) == {"id": expected[0]}
    assert rest[0].stream_seq == taken[2].stream_seq


@pytest.fixture(params=["memory", "jetstream"])
def caches(request, settings, tenant):
    """A context manager that gives (snapshot store, tail, event store)."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[tuple[SnapshotStore, Tail, EventStore]]:
        if request.param == "memory":
            store = MemoryEventStore(tenant)
            yield MemorySnapshots(), store, store
            return
        client = await connect(settings.nats_url, "test")
        try:
            await create_tenant(client, tenant, partitions=PARTITIONS)
            batches = BatchPublisher(client)
            store = JetStreamEventStore(client, tenant, batches)
            yield JetStreamSnapshots(client, tenant, batches), SharedTail(client, tenant), store
        finally:
            await client.close()

    return opened


def test_snapshots_are_kept_one_an_owner_and_found_by_partition(caches):
    async def story():
        async with caches() as (snapshots, _, _):
            before = await snapshots.watermark(2), list(await snapshots.owners(2)), await snapshots.load(2, ["a"])
            fence = await snapshots.write(2, [("a", b"a1"), ("b", b"b1")], b"w1", 0)
            fence = await snapshots.write(2, [("a", b"a2")], b"w2", fence)
            await snapshots.write(3, [("c", b"c1")], b"w3", 0)
            found = await snapshots.watermark(2)
            return before, found == (fence, b"w2"), sorted(await snapshots.owners(2)), await snapshots.load(2, "abz")

    before, is_mine, owners, bodies = asyncio.run(story())

    assert before == (None, [], {})
    assert is_mine
    assert owners == ["a", "b"]
    assert bodies == {"a": b"a2", "b": b"b1"}


def test_a_worker_that_was_overtaken_writes_no_snapshot_any_more(caches):
    async def story():
        async with caches() as (snapshots, _, _):
            stale = await snapshots.write(2, [("a", b"old")], b"w1", 0)
            fence = await snapshots.write(2, [], b"taken over", stale)
            for bodies in ([("a", b"stale")], []):
                with pytest.raises(Conflict):
                    await snapshots.write(2, bodies, b"w9", stale)
            return await snapshots.load(2, ["a"]), await snapshots.watermark(2) == (fence, b"taken over")

    assert asyncio.run(story()) == ({"a": b"old"}, True)


def test_the_tail_tells_what_came_after_by_owner(caches, tenant):
    async def story():
        async with caches() as (_, tail, store):
            await store.append("b1", [message(tenant, "token", "a", 1, 0), message(tenant, "token", "b", 1, 0)])
            early = await tail.since(0, 3, lambda owner: owner == "b")
            await store.append("b2", [message(tenant, "token", "a", 2, 1), message(tenant, "inbox", "3", 1, 0)])
            late = await tail.since(1, 3, lambda _: True)
            seqs = [
                {o: [r.stream_seq for r in records] for o, records in one.by_owner.items()} for one in (early, late)
            ]
            inboxes = [[record.stream_seq for record in one.decided] for one in (early, late)]
            others = await tail.since(1, 4, lambda _: False)
            return seqs, inboxes, others[:2], early.is_last, late.end_seq, await tail.last_seq()

    owners = [{"b": [2]}, {"a": [3], "b": [2]}]
    assert asyncio.run(story()) == (owners, [[], [4]], ({}, []), True, 4, 4)
