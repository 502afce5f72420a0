"""Snapshots in a stream with one message a subject, and the tail of the event stream, read once for a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

from nats.aio.client import Client

from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.reader import (
    MULTI_LAST_MAX,
    PullReader,
    direct_get,
    last_message,
    stream_info,
    subjects_of,
)
from bus import subjects
from bus.envelope import Recorded
from bus.ports import Message

#: Events of the tail that are kept in memory at most; owners of older ones are restored from their history.
TAIL_RECORDS_MAX: Final = 400_000
#: The tail is shared by partitions that are taken over within so many seconds.
TAIL_KEPT_S: Final = 5.0


class JetStreamSnapshots:
    """`bus.ports.SnapshotStore` over one tenant's snapshot stream."""

    def __init__(self, client: Client, tenant: str, publisher: BatchPublisher) -> None:
        self._client = client
        self._tenant = tenant
        self._stream = subjects.snapshots_stream(tenant)
        self._publisher = publisher

    async def watermark(self, partition: int) -> tuple[int, bytes] | None:
        """Sequence and body of a partition's watermark, from the leader."""
        return await last_message(self._client, self._stream, subjects.watermark(self._tenant, partition))

    async def owners(self, partition: int) -> Collection[str]:
        """Everybody of a partition who has a snapshot."""
        wanted = subjects.snapshot(self._tenant, partition, "*")
        return [subject.rpartition(".")[2] for subject in await subjects_of(self._client, self._stream, wanted)]

    async def load(self, partition: int, owners: Collection[str]) -> dict[str, bytes]:
        """The snapshots of these owners, as far as there are any."""
        wanted = [subjects.snapshot(self._tenant, partition, owner) for owner in owners]
        pages = [
            await direct_get(self._client, self._stream, {"multi_last": wanted[at : at + MULTI_LAST_MAX]})
            for at in range(0, len(wanted), MULTI_LAST_MAX)
        ]
        return {subject.rpartition(".")[2]: body for page in pages for _, subject, body in page}

    async def write(self, partition: int, bodies: Sequence[tuple[str, bytes]], watermark: bytes, fence_seq: int) -> int:
        """Store all or nothing, the watermark's sequence being `fence_seq`; returns its new one, else `Conflict`."""
        messages = [
            Message(subjects.snapshot(self._tenant, partition, owner), body, None, None) for owner, body in bodies
        ]
        messages.append(Message(subjects.watermark(self._tenant, partition), watermark, fence_seq, None))
        first_seq = await self._publisher.append(self._publisher.new_id(), messages)
        return first_seq + len(messages) - 1


class SharedTail:
    """`bus.ports.Tail` over one tenant's event stream."""

    def __init__(self, client: Client, tenant: str) -> None:
        self._client = client
        self._tenant = tenant
        self._stream = subjects.events_stream(tenant)
        self._lock = asyncio.Lock()
        self._after_seq = 0
        self._end_seq = 0
        self._read: list[tuple[str, Recorded | None]] = []
        self._forgetting: asyncio.TimerHandle | None = None

    async def since(self, after_seq: int, is_own: Callable[[str], bool]) -> dict[str, list[Recorded] | None]:
        """Events after a sequence by owner, for the owners asked for; None for one with more than can be kept."""
        async with self._lock:
            if self._forgetting is not None:
                self._forgetting.cancel()
            await self._extend(after_seq)
            found: dict[str, list[Recorded] | None] = {}
            for owner, record in self._read[after_seq - self._after_seq :]:
                if not owner or not is_own(owner):
                    continue
                if record is None:
                    found[owner] = None
                elif (records := found.setdefault(owner, [])) is not None:
                    records.append(record)
            self._forgetting = asyncio.get_running_loop().call_later(TAIL_KEPT_S, self._forget)
            return found

    async def _extend(self, after_seq: int) -> None:
        """Read on to the end of the stream, from `after_seq` on or from what is there already."""
        last_seq = int((await stream_info(self._client, self._stream))["state"]["last_seq"])
        if not self._read or after_seq < self._after_seq:
            self._forget()
            self._after_seq = self._end_seq = after_seq
        inbox = f"tally.evt.{self._tenant}.{subjects.INBOX}."
        reader = PullReader(self._client, self._stream, self._end_seq)
        try:
            while self._end_seq < last_seq:
                for seq, message in await reader.take(4_000):
                    is_kept = not message.subject.startswith(inbox) and last_seq - seq < TAIL_RECORDS_MAX
                    owner = "" if message.subject.startswith(inbox) else message.subject.rpartition(".")[2]
                    self._read.append((owner, Recorded(seq, message.data) if is_kept else None))
                    self._end_seq = seq
        finally:
            await reader.close()

    def _forget(self) -> None:
        self._read = []
