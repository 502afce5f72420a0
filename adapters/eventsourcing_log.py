"""One stream as a store of versioned records: append with version checks, read by subject and in stream order."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Final, NamedTuple

from eventsourcing.persistence import DataError, IntegrityError, NotSupportedError, OperationalError
from nats.aio.client import Client

from adapters.eventsourcing_patience import ANSWER_WITHIN_S, PAUSE_MAX_S, Patience, Unanswered, answered, patiently
from adapters.eventsourcing_records import EVENTS, TRACKING, Names, Record, decode, encode, stream_config
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import api
from adapters.jetstream.messages import direct_get, last_message
from adapters.jetstream.reader import PullReader
from bus.errors import BusError, Conflict, OutcomeUnknown, StoreUnavailable, WrongStream
from bus.ports import Message

#: What a server takes in one atomic batch unless it is configured otherwise.
BATCH_MESSAGES_MAX: Final = 1_000
PAGE_MESSAGES: Final = 1_000
#: The server ends a page early at this size and one message; one shorter than half of it ended as nothing more came.
PAGE_BYTES_MAX: Final = 16 * 1024 * 1024
HEADS_KEPT: Final = 10_000
HEADS_AT_ONCE: Final = 64
#: Room for the headers of a message within the server's limit for its size.
HEADER_BYTES_MAX: Final = 512
BYTES_PER_S_MIN: Final = 10_000_000
STREAM_NOT_FOUND: Final = 10059
#: Settings with which a stream could lose what is recorded.
FORBIDDEN: Final = ("allow_rollup_hdrs", "allow_msg_ttl", "sealed", "mirror", "sources")


class Entry(NamedTuple):
    """One record to append."""

    subject: str
    version: int
    is_uuid: bool
    topic: str
    state: bytes


class Head(NamedTuple):
    """Where a subject stands: its last sequence, the highest version on it."""

    stream_seq: int
    highest: int | None


NOTHING: Final = Head(0, None)
Found = tuple[int, str, Record]


class RecordLog:
    """Append and read; made by `open_log`. Used by coroutines of one event loop only."""

    def __init__(self, client: Client, publisher: BatchPublisher, names: Names, replicas: int) -> None:
        self._client = client
        self._publisher = publisher
        self._stream = names.stream
        self._replicas = replicas
        # Snapshots may be taken of any past version, events are recorded in the order of their versions (ADR 0015).
        self.is_in_order = names.purpose in {EVENTS, TRACKING}
        # Hints, so that a write needs no read before it; what they say is checked by the server.
        self._heads: OrderedDict[str, Head] = OrderedDict()

    async def append(self, entries: Sequence[Entry]) -> int:
        """Store all entries or none, in this order without a gap; returns the sequence of the first.

        Raises `IntegrityError` when a version exists already; `OperationalError` when no answer came within
        `PATIENCE_S`, although the same was sent and looked for again: then it is not known whether it is stored.
        """
        if len(entries) > BATCH_MESSAGES_MAX:
            line = (
                f"{len(entries)} records in one insert, {BATCH_MESSAGES_MAX} at most can be stored as one "
                f"(a tracked position counts as one): save in parts"
            )
            raise NotSupportedError(line)
        attempts = _Attempts()
        is_fresh = False
        while True:
            try:
                return await self._attempt(entries, attempts, is_fresh=is_fresh)
            except IntegrityError:
                if is_fresh:
                    raise
            except (Conflict, OutcomeUnknown) as err:
                attempts.last_error = err  # what it means, the next attempt reads
                await attempts.patience.pause()
            except StoreUnavailable as err:
                if attempts.patience.is_over:
                    raise attempts.failure(err) from err
                await attempts.patience.pause()
            is_fresh = True

    async def _attempt(self, entries: Sequence[Entry], attempts: _Attempts, *, is_fresh: bool) -> int:
        heads = await self._heads_of(entries, is_fresh=is_fresh)
        subject = entries[0].subject
        if attempts.is_unknown:
            # After the heads: what they show of ours is found now, what comes later conflicts with them.
            first_seq = await self._find(subject, attempts.since_seq, attempts.insert_id)
            if first_seq is not None:
                return first_seq
        if attempts.last_error is not None and attempts.patience.is_over:
            raise attempts.failure(attempts.last_error)
        messages, heads_after = await self._plan(entries, heads, attempts.insert_id)
        if not attempts.is_unknown:
            attempts.since_seq = heads[subject].stream_seq
        try:
            first_seq = await self._publish(messages)
        except (OutcomeUnknown, Unanswered):
            attempts.is_unknown = True
            raise
        for changed, (offset, highest) in heads_after.items():
            self._remember(changed, Head(first_seq + offset, highest))
        return first_seq

    async def _publish(self, messages: Sequence[Message]) -> int:
        # To look and send again is safe, so a leader that died is not waited for as long as a slow one might need.
        within_s = ANSWER_WITHIN_S + sum(len(message.body) for message in messages) / BYTES_PER_S_MIN
        return await answered(self._client, self._publisher.append(uuid.uuid4().hex, messages), within_s=within_s)

    async def last(self, subject_filter: str) -> Found | None:
        """The last record under a filter, from the leader."""
        found = await patiently(lambda: self._last_message(subject_filter))
        if found is None:
            return None
        seq, body = found
        return seq, subject_filter, decode(self._stream, seq, body)

    def reader(self, subject_filter: str, after_seq: int) -> RecordReader:
        """The records under a filter after a sequence, and those to come."""
        return RecordReader(self._client, self._stream, subject_filter, after_seq)

    async def select(
        self, subject: str, *, gt: int | None, lte: int | None, is_desc: bool, limit: int | None
    ) -> list[Record]:
        """The records of one subject with `gt < version <= lte`, by version."""
        if is_desc and limit == 1:
            last = await self.last(subject)
            if last is None:
                return []
            record = last[2]
            if record.version == record.highest and (lte is None or record.version <= lte):
                return [record] if gt is None or record.version > gt else []
        head = self._heads.get(subject, NOTHING)
        is_known = gt is not None and head.highest is not None and head.highest <= gt
        found: list[Record] = []
        latest: Head | None = None
        async for page in self._pages(subject, head.stream_seq if is_known else 0, is_complete=True):
            found += [r for _, _, r in page if (gt is None or r.version > gt) and (lte is None or r.version <= lte)]
            latest = Head(page[-1][0], page[-1][2].highest)
            is_enough = not is_desc and limit is not None and len(found) >= limit
            if self.is_in_order and (is_enough or (lte is not None and page[-1][2].version >= lte)):
                break
        else:
            if latest is not None:
                self._remember(subject, latest)
        found.sort(key=lambda record: record.version, reverse=is_desc)
        return found[:limit]

    async def records(
        self, subject_filter: str, start_seq: int, stop_seq: int | None, limit: int, topics: Collection[str]
    ) -> list[Found]:
        """Records in stream order from one sequence to another, both included; all topics when none are given."""
        found: list[Found] = []
        if limit < 1:
            return found
        size = PAGE_MESSAGES if topics else min(limit, PAGE_MESSAGES)
        async for page in self._pages(subject_filter, start_seq - 1, size=size):
            within = [item for item in page if stop_seq is None or item[0] <= stop_seq]
            found += [item for item in within if not topics or item[2].topic in topics]
            if len(found) >= limit or len(within) < len(page):
                break
        return found[:limit]

    async def _heads_of(self, entries: Sequence[Entry], *, is_fresh: bool) -> dict[str, Head]:
        firsts: dict[str, int] = {}
        for entry in entries:
            firsts.setdefault(entry.subject, entry.version)
        found: dict[str, Head] = {}
        for subject, version in firsts.items():
            if is_fresh:
                continue
            if subject in self._heads:
                found[subject] = self._heads[subject]
            elif self.is_in_order and version <= 1:
                found[subject] = NOTHING  # a new aggregate, most often; the server says so if not
        gate = asyncio.Semaphore(HEADS_AT_ONCE)

        async def read(subject: str) -> None:
            async with gate:
                last = await self._last_message(subject)
            found[subject] = NOTHING if last is None else Head(last[0], decode(self._stream, *last).highest)

        await asyncio.gather(*(read(subject) for subject in firsts if subject not in found))
        return found

    async def _plan(
        self, entries: Sequence[Entry], heads: dict[str, Head], insert_id: bytes
    ) -> tuple[list[Message], dict[str, Head]]:
        """The messages, and where each subject stands after them: as a place among them, from 0."""
        taken = {subject: await self._taken(subject, entries, head) for subject, head in heads.items()}
        after: dict[str, Head] = {}
        messages = []
        for offset, (subject, version, is_uuid, topic, state) in enumerate(entries):
            before = after.get(subject, heads[subject]).highest
            if version in taken[subject] or (self.is_in_order and before is not None and version <= before):
                line = f"version {version} of {subject} is recorded already, or after a higher one ({before})"
                raise IntegrityError(line)
            taken[subject].add(version)
            highest = version if before is None else max(before, version)
            body = encode(Record(insert_id, version, highest, is_uuid, topic, state))
            if len(body) + HEADER_BYTES_MAX > self._client.max_payload:
                line = f"version {version} of {subject} has {len(body)} bytes, {self._client.max_payload} are taken"
                raise DataError(line)
            # The server takes an expectation on the first message of each subject in a batch (DESIGN.md 4).
            expected = None if subject in after else heads[subject].stream_seq
            messages.append(Message(subject, body, expected, None))
            after[subject] = Head(offset, highest)
        return messages, after

    async def _taken(self, subject: str, entries: Sequence[Entry], head: Head) -> set[int]:
        """The versions that exist, when they have to be looked at one by one."""
        if self.is_in_order or head.highest is None:
            return set()
        if all(entry.version > head.highest for entry in entries if entry.subject == subject):
            return set()
        return {record.version async for page in self._pages(subject, 0, is_complete=True) for _, _, record in page}

    async def _find(self, subject: str, after_seq: int, insert_id: bytes) -> int | None:
        async for page in self._pages(subject, after_seq, is_complete=True):
            for seq, _, record in page:
                if record.insert_id == insert_id:
                    return seq
        return None

    async def _pages(
        self, subject_filter: str, after_seq: int, *, size: int = PAGE_MESSAGES, is_complete: bool = False
    ) -> AsyncIterator[list[Found]]:
        """Pages of records; `is_complete` reads up to what the leader has, as a follower may answer a direct get."""
        until = 0
        if is_complete and self._replicas > 1:
            last = await self.last(subject_filter)
            until = last[0] if last is not None else 0
        patience = Patience()
        while True:
            raw = await self._page({"seq": after_seq + 1, "batch": size, "next_by_subj": subject_filter})
            if raw:
                after_seq = raw[-1][0]
                yield [(seq, subject, decode(self._stream, seq, body)) for seq, subject, body in raw]
            elif after_seq < until:
                if patience.is_over:
                    line = f"a replica of stream {self._stream} does not catch up with sequence {until}"
                    raise StoreUnavailable(line)
                await patience.pause()
            is_short = len(raw) < size and sum(len(body) for _, _, body in raw) < PAGE_BYTES_MAX // 2
            if is_short and after_seq >= until:
                return

    async def _page(self, request: dict[str, Any]) -> list[tuple[int, str, bytes]]:
        sized = request | {"max_bytes": PAGE_BYTES_MAX + self._client.max_payload}
        return await patiently(lambda: answered(self._client, direct_get(self._client, self._stream, sized)))

    async def _last_message(self, subject_filter: str) -> tuple[int, bytes] | None:
        asked = last_message(self._client, self._stream, subject_filter)
        return await answered(self._client, asked, within_s=ANSWER_WITHIN_S)

    def _remember(self, subject: str, head: Head) -> None:
        if self._heads.get(subject, NOTHING).stream_seq <= head.stream_seq:
            self._heads[subject] = head
            self._heads.move_to_end(subject)
        while len(self._heads) > HEADS_KEPT:
            self._heads.popitem(last=False)


class RecordReader:
    """Records as they come, by a pull reader; a connection that is lost costs a new one, and no record."""

    def __init__(self, client: Client, stream: str, subject_filter: str, after_seq: int) -> None:
        self._client = client
        self._stream = stream
        self._filter = subject_filter
        self._last_seq = max(after_seq, 0)
        self._pull: PullReader | None = None

    async def take(self, count_max: int) -> list[Found]:
        """At least one record, at most so many; waits until there is one. Raises `StoreUnavailable`: take again."""
        if self._pull is None:
            self._pull = PullReader(self._client, self._stream, self._last_seq, subject_filter=self._filter)
        try:
            taken = await answered(self._client, self._pull.take(count_max), look_every_s=PAUSE_MAX_S)
        except StoreUnavailable:
            await self.close()
            raise
        found: list[Found] = []
        try:
            for seq, message in taken:
                found.append((seq, message.subject, decode(self._stream, seq, message.data)))
        except DataError:
            await self.close()  # the next one begins with what cannot be read
            if not found:
                raise
        self._last_seq = found[-1][0]
        return found

    async def close(self) -> None:
        """Let go of the consumer."""
        pull, self._pull = self._pull, None
        if pull is not None:
            await pull.close()


class _Attempts:
    """What the attempts of one insert have in common."""

    def __init__(self) -> None:
        self.insert_id = uuid.uuid4().bytes
        self.patience = Patience()
        self.last_error: BusError | None = None
        self.is_unknown = False  # one of them may have been stored, after this sequence on the first subject
        self.since_seq = 0

    def failure(self, err: BusError) -> OperationalError:
        known = "it is not known whether these events are stored" if self.is_unknown else "these events are not stored"
        return OperationalError(f"{known}: {err}")


async def open_log(
    client: Client, publisher: BatchPublisher, names: Names, *, replicas: int, is_created: bool
) -> RecordLog:
    """The log in a stream, which is created where it is missing and `is_created` says so.

    Raises `WrongStream` when it is missing, or configured so that it could lose or reorder what is recorded.
    """
    wanted = stream_config(names, replicas)
    answer = await api(client, f"STREAM.INFO.{names.stream}", {})
    if answer.get("error", {}).get("err_code") == STREAM_NOT_FOUND and is_created:
        answer = await api(client, f"STREAM.CREATE.{names.stream}", wanted)
    if "error" in answer:
        words = answer["error"].get("description")
        line = f"stream {names.stream} of application {names.application!r} cannot be used: {words}"
        raise WrongStream(line)
    found = answer["config"]
    differing = [key for key in wanted if key != "num_replicas" and found.get(key) != wanted[key]]
    differing += [key for key in FORBIDDEN if found.get(key)]
    if differing:
        key = differing[0]
        line = f"stream {names.stream} has {key} = {found.get(key)!r}, wanted {wanted.get(key)!r}: restore the setting"
        raise WrongStream(line)
    return RecordLog(client, publisher, names, found.get("num_replicas", 1))
