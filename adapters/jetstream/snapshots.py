"""Snapshots in a stream with one message a subject, and the tail of the event stream, read once for a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

from nats.aio.client import Client

from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.messages import MULTI_LAST_MAX, direct_get, last_message, stream_info, subjects_of
from adapters.jetstream.reader import PullReader
from adapters.jetstream.replicas import abreast
from bus import subjects
from bus.envelope import Recorded
from bus.ports import Message, Stretch

#: Events that are held in memory at once.
STRETCH_EVENTS: Final = 500_000
#: A stretch is shared by partitions that ask for it within so many seconds.
STRETCH_KEPT_S: Final = 10.0
READ_AT_ONCE: Final = 2_000


class JetStreamSnapshots:
    """`bus.ports.SnapshotStore` over one tenant's snapshot stream."""

    def __init__(self, client: Client, tenant: str, publisher: BatchPublisher) -> None:
        self._client = client
        self._tenant = tenant
        self._stream = subjects.snapshots_stream(tenant)
        self._publisher = publisher
        #: Partition -> sequence of its watermark: a replica that does not have it is behind.
        self._fences: dict[int, int] = {}

    async def watermark(self, partition: int) -> tuple[int, bytes] | None:
        """Sequence and body of a partition's watermark, from the leader."""
        found = await last_message(self._client, self._stream, subjects.watermark(self._tenant, partition))
        self._fences[partition] = 0 if found is None else found[0]
        return found

    async def owners(self, partition: int) -> Collection[str]:
        """Everybody of a partition who has a snapshot."""
        wanted = subjects.snapshot(self._tenant, partition, "*")
        return [subject.rpartition(".")[2] for subject in await subjects_of(self._client, self._stream, wanted)]

    async def load(self, partition: int, owners: Collection[str]) -> dict[str, bytes]:
        """The snapshots of these owners, as far as there are any."""
        wanted = [subjects.snapshot(self._tenant, partition, owner) for owner in owners]
        fence, fence_seq = subjects.watermark(self._tenant, partition), self._fences.get(partition, 0)
        found: dict[str, bytes] = {}
        for at in range(0, len(wanted), MULTI_LAST_MAX - 1):
            request = {"multi_last": [*wanted[at : at + MULTI_LAST_MAX - 1], fence]}

            async def read(request: dict[str, list[str]] = request) -> list[tuple[int, str, bytes]] | None:
                page = await direct_get(self._client, self._stream, request)
                is_current = max((seq for seq, subject, _ in page if subject == fence), default=0) >= fence_seq
                return page if is_current else None

            page = await abreast(self._stream, read)
            found |= {subject.rpartition(".")[2]: body for _, subject, body in page if subject != fence}
        return found

    async def write(self, partition: int, bodies: Sequence[tuple[str, bytes]], watermark: bytes, fence_seq: int) -> int:
        """Store all or nothing, the watermark's sequence being `fence_seq`; returns its new one, else `Conflict`."""
        messages = [
            Message(subjects.snapshot(self._tenant, partition, owner), body, None, None) for owner, body in bodies
        ]
        messages.append(Message(subjects.watermark(self._tenant, partition), watermark, fence_seq, None))
        first_seq = await self._publisher.append(self._publisher.new_id(), messages)
        self._fences[partition] = first_seq + len(messages) - 1
        return self._fences[partition]


class SharedTail:
    """`bus.ports.Tail` over one tenant's event stream: one stretch of it, sorted by owner while it is read.

    Partitions that are taken over together ask for the same stretches one after another, so one read serves them all.
    """

    def __init__(self, client: Client, tenant: str) -> None:
        self._client = client
        self._tenant = tenant
        self._stream = subjects.events_stream(tenant)
        self._lock = asyncio.Lock()
        self._after_seq = self._end_seq = 0
        self._by_owner: dict[str, list[Recorded]] = {}
        #: Partition -> its inbox events.
        self._inboxes: dict[str, list[Recorded]] = {}
        self._forgetting: asyncio.TimerHandle | None = None

    async def last_seq(self) -> int:
        """The sequence of the last event of the stream, 0 without one."""
        return int((await stream_info(self._client, self._stream))["state"]["last_seq"])

    async def since(self, after_seq: int, partition: int, is_own: Callable[[str], bool]) -> Stretch:
        """Events after a sequence, of the partition's inbox and of the owners asked for; at most a stretch of them."""
        # Told before it waits for the others: who comes last must not follow what the first ones commit meanwhile.
        last_seq = await self.last_seq()
        async with self._lock:
            if self._forgetting is not None:
                self._forgetting.cancel()
            if after_seq < self._after_seq < self._end_seq <= after_seq + STRETCH_EVENTS:
                await self._begin_earlier(after_seq)
            elif not self._after_seq <= after_seq < self._end_seq:
                self._forget()
                self._after_seq = self._end_seq = after_seq
            await self._read_to(min(last_seq, self._after_seq + STRETCH_EVENTS))
            self._forgetting = asyncio.get_running_loop().call_later(STRETCH_KEPT_S, self._forget)
            found = {
                owner: [record for record in records if record.stream_seq > after_seq]
                for owner, records in self._by_owner.items()
                if records[-1].stream_seq > after_seq and is_own(owner)
            }
            decided = [record for record in self._inboxes.get(str(partition), ()) if record.stream_seq > after_seq]
            return Stretch(found, decided, self._end_seq, is_last=self._end_seq >= last_seq)

    async def _begin_earlier(self, after_seq: int) -> None:
        """Read what lies before the stretch too: each partition's watermark is another, and all ask at one time."""
        stretch_seq, end_seq = self._after_seq, self._end_seq
        later = self._by_owner, self._inboxes
        self._forget()
        self._after_seq = self._end_seq = after_seq
        await self._read_to(stretch_seq)
        for earlier, more in zip((self._by_owner, self._inboxes), later, strict=True):
            for owner, records in more.items():
                earlier.setdefault(owner, []).extend(records)
        self._end_seq = end_seq

    async def _read_to(self, end_seq: int) -> None:
        if self._end_seq >= end_seq:
            return
        inbox = subjects.inbox(self._tenant, 0).rpartition(".")[0]
        reader = PullReader(self._client, self._stream, self._end_seq)
        try:
            while self._end_seq < end_seq:
                for seq, message in await reader.take(min(READ_AT_ONCE, end_seq - self._end_seq)):
                    self._end_seq = seq
                    aggregate, _, owner = message.subject.rpartition(".")
                    by_owner = self._inboxes if aggregate == inbox else self._by_owner
                    by_owner.setdefault(owner, []).append(Recorded(seq, message.data))
        finally:
            await reader.close()

    def _forget(self) -> None:
        self._by_owner = {}
        self._inboxes = {}
        self._after_seq = self._end_seq = 0
