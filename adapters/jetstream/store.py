"""The ports of `bus/` over JetStream: event store and outbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from nats.aio.client import Client

from adapters.jetstream.append import BatchPublisher, publish_all
from adapters.jetstream.messages import direct_get, history, last_message
from adapters.jetstream.replicas import Replicas, abreast
from bus import subjects
from bus.envelope import CommandsDecided, Recorded
from bus.joining import GroupCommit
from bus.ports import InboxHead, Message
from domain.catalogue import Key, aggregates_of
from domain.values import to_ms

READS_AT_ONCE: Final = 64
#: An inbox event that refuses a whole batch has 64 kB.
INBOX_EVENTS_AT_ONCE: Final = 100


class JetStreamEventStore:
    """`bus.ports.EventStore` over one tenant's event stream."""

    def __init__(self, client: Client, tenant: str, publisher: BatchPublisher | GroupCommit) -> None:
        self._client = client
        self._tenant = tenant
        self._stream = subjects.events_stream(tenant)
        self._publisher = publisher
        self._replicas = Replicas(client, self._stream)
        self._head_ms = 0

    async def append(self, batch_id: str, messages: Sequence[Message]) -> int:
        """Store all messages or none; see the port."""
        first_seq = await self._publisher.append(batch_id, messages)
        self._replicas.saw(messages[-1].subject, first_seq + len(messages) - 1)
        return first_seq

    async def landed(self) -> None:
        """Wait until nothing is on its way; see the port."""
        if isinstance(self._publisher, GroupCommit):
            await self._publisher.landed()

    async def last_seqs(self, wanted: Collection[str]) -> dict[str, int]:
        """The last sequence of each subject that has one."""
        return await self._replicas.last_seqs(wanted)

    async def histories(self, owners: Collection[str], after: Mapping[Key, int]) -> dict[str, list[Recorded]]:
        """The events of each owner's aggregates, several owners at once; see the port."""
        gate = asyncio.Semaphore(READS_AT_ONCE)
        found: dict[str, list[Recorded]] = {owner: [] for owner in owners}
        ends: dict[str, int] = {}
        if await self._replicas.is_replicated():
            pairs = [(aggregate, owner) for owner in owners for aggregate in aggregates_of(owner)]
            every = [subjects.event(self._tenant, *pair) for pair in pairs]
            ends = await self._replicas.last_seqs(every)

        async def read(owner: str, aggregate: str) -> None:
            # A subject with a wildcard would let the server look through the whole stream.
            subject = subjects.event(self._tenant, aggregate, owner)
            after_seq = after.get(Key(aggregate, owner), 0)

            async def look() -> list[Recorded] | None:
                messages = await history(self._client, self._stream, subject, after_seq)
                is_whole = not ends or (messages[-1][0] if messages else after_seq) >= ends.get(subject, 0)
                return [Recorded(seq, body) for seq, _, body in messages] if is_whole else None

            async with gate:
                found[owner] += await abreast(self._stream, look)

        try:
            async with asyncio.TaskGroup() as group:
                for owner in owners:
                    for aggregate in aggregates_of(owner):
                        group.create_task(read(owner, aggregate))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        for records in found.values():
            records.sort(key=lambda record: record.stream_seq)
        return found

    async def inbox_head(self, partition: int) -> InboxHead | None:
        """The last inbox event of a partition, from the leader."""
        found = await last_message(self._client, self._stream, subjects.inbox(self._tenant, partition))
        self._replicas.look_anew()
        if found is None:
            return None
        record = Recorded(*found)
        self._replicas.saw(subjects.inbox(self._tenant, partition), record.stream_seq)
        self._head_ms = to_ms(record.event.recordedtime)
        return InboxHead(record.stream_seq, record.event.aggregateversion, record.data)

    async def inbox_since(self, partition: int, since_ms: int) -> AsyncIterator[CommandsDecided]:
        """What a partition's inbox events say that the stream took since a moment, a page at a time; see the port."""
        start_time = datetime.fromtimestamp(since_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        begins: dict[str, object] = {"start_time": start_time}
        end_seq = 0
        while True:
            page = await self._inbox_page(partition, begins, end_seq, may_end=self._head_ms < since_ms)
            for seq, body in page:
                end_seq = seq
                yield Recorded(seq, body).data
            if len(page) < INBOX_EVENTS_AT_ONCE:
                return
            begins = {"seq": end_seq + 1}

    async def _inbox_page(
        self, partition: int, begins: dict[str, object], end_seq: int, *, may_end: bool
    ) -> list[tuple[int, bytes]]:
        """The next inbox events; a replica may say that there are no more only where it has what we know of."""
        request = {**begins, "batch": INBOX_EVENTS_AT_ONCE, "next_by_subj": subjects.inbox(self._tenant, partition)}

        async def look() -> list[tuple[int, bytes]] | None:
            page = [(seq, body) for seq, _, body in await direct_get(self._client, self._stream, request)]
            is_there_more = len(page) == INBOX_EVENTS_AT_ONCE
            is_whole = is_there_more or may_end or self._replicas.reaches(page[-1][0] if page else end_seq)
            return page if is_whole else None

        return await abreast(self._stream, look)

    async def events_from(self, stream_seq: int, count_max: int) -> list[Recorded]:
        """Up to so many events, from a sequence on."""
        request = {"seq": stream_seq, "batch": count_max, "next_by_subj": subjects.all_events(self._tenant)}

        async def look() -> list[Recorded] | None:
            found = [Recorded(seq, body) for seq, _, body in await direct_get(self._client, self._stream, request)]
            end_seq = found[-1].stream_seq if found else 0
            return found if len(found) == count_max or self._replicas.reaches(end_seq) else None

        return await abreast(self._stream, look)


class JetStreamOutbox:
    """`bus.ports.Outbox` over core NATS, for all partitions of a process."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: list[tuple[str, bytes]] = []

    async def send(self, outcomes: Sequence[tuple[str, bytes]]) -> None:
        """Publish outcomes, in one write with those that others have at this moment; who is gone does not hear them."""
        is_first = not self._waiting
        self._waiting += outcomes
        if is_first:
            try:
                await asyncio.sleep(0)  # whose batches were stored as one have their outcomes in this turn of the loop
            finally:
                waiting, self._waiting = self._waiting, []
                await publish_all(self._client, waiting)
