"""The ports of a partition in memory: honest fakes, held by the same contract tests as the JetStream adapters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

from bus import subjects
from bus.envelope import CommandsDecided, Recorded
from bus.errors import Conflict, OutcomeUnknown
from bus.ports import CommandSource, Delivery, InboxHead, Message, Redrive, Stretch
from domain.catalogue import Key
from domain.values import to_ms


class MemoryEventStore:
    """`bus.ports.EventStore` as a list; `lose_answers` counts the next batches whose acknowledgement is lost."""

    def __init__(self, tenant: str) -> None:
        self.events: list[tuple[str, bytes]] = []
        self.lose_answers = 0
        self.stretch = 30
        self._tenant = tenant
        self._last: dict[str, int] = {}

    async def append(self, batch_id: str, messages: Sequence[Message]) -> int:
        """Store all messages or none; see the port."""
        del batch_id
        await asyncio.sleep(0)
        written: set[str] = set()
        for message in messages:
            checked = message.fence or message.subject
            if message.expected is not None and (checked in written or self._last.get(checked, 0) != message.expected):
                words = f"wrong last sequence: {self._last.get(checked, 0)}"
                raise Conflict(words)
            written.add(message.subject)
        first_seq = len(self.events) + 1
        for message in messages:
            self.events.append((message.subject, message.body))
            self._last[message.subject] = len(self.events)
        if self.lose_answers:
            self.lose_answers -= 1
            words = "the acknowledgement was lost"
            raise OutcomeUnknown(words)
        return first_seq

    async def landed(self) -> None:
        """Nothing is ever on its way for long."""

    async def last_seqs(self, wanted: Collection[str]) -> dict[str, int]:
        """The last sequence of each subject that has one."""
        return {subject: self._last[subject] for subject in wanted if subject in self._last}

    async def histories(self, owners: Collection[str], after: Mapping[Key, int]) -> dict[str, list[Recorded]]:
        """The events of each owner's aggregates in stream order; see the port."""
        found: dict[str, list[Recorded]] = {owner: [] for owner in owners}
        for seq, (subject, body) in enumerate(self.events, 1):
            key = Key(*subject.split(".")[3:])
            if key.id in found and key.aggregate != subjects.INBOX and seq > after.get(key, 0):
                found[key.id].append(Recorded(seq, body))
        return found

    async def last_seq(self) -> int:
        """The sequence of the last event of the stream, 0 without one."""
        return len(self.events)

    async def since(self, after_seq: int, partition: int, is_own: Callable[[str], bool]) -> Stretch:
        """Events after a sequence by owner: the store is its own `bus.ports.Tail`."""
        found: dict[str, list[Recorded]] = {}
        decided: list[Recorded] = []
        end_seq = min(len(self.events), after_seq + self.stretch)
        for at, (subject, body) in enumerate(self.events[after_seq:end_seq], after_seq + 1):
            _, _, _, aggregate, owner = subject.split(".")
            if aggregate == subjects.INBOX:
                decided += [Recorded(at, body)] if owner == str(partition) else []
            elif is_own(owner):
                found.setdefault(owner, []).append(Recorded(at, body))
        return Stretch(found, decided, end_seq, is_last=end_seq == len(self.events))

    async def inbox_head(self, partition: int) -> InboxHead | None:
        """The last inbox event of a partition, None before the first."""
        seq = self._last.get(subjects.inbox(self._tenant, partition))
        if seq is None:
            return None
        record = Recorded(seq, self.events[seq - 1][1])
        return InboxHead(seq, record.event.aggregateversion, record.data)

    async def inbox_since(self, partition: int, since_ms: int) -> AsyncIterator[CommandsDecided]:
        """What a partition's inbox events say that were recorded since a moment, oldest first; see the port."""
        inbox = subjects.inbox(self._tenant, partition)
        for seq, (subject, body) in enumerate(self.events, 1):
            record = Recorded(seq, body)
            if subject == inbox and to_ms(record.event.recordedtime) >= since_ms:
                yield record.data

    async def events_from(self, stream_seq: int, count_max: int) -> list[Recorded]:
        """Up to so many events, from a sequence on."""
        rows = self.events[stream_seq - 1 : stream_seq - 1 + count_max]
        return [Recorded(stream_seq + at, body) for at, (_, body) in enumerate(rows)]


class MemoryTurns:
    """`bus.ports.Turns` of a process that is alone: it is always its turn."""

    async def take(self, key: Key) -> None:
        """Go on."""

    async def give(self, key: Key) -> None:
        """Go on."""


class MemoryCommands:
    """`bus.ports.CommandStream` as a list; `publish` is what a sender does, and `forget` what a kill may do.

    Each publication is received a nanosecond after the one before.
    """

    def __init__(self, tenant: str, partitions: int) -> None:
        self._tenant = tenant
        self._partitions = partitions
        self._stored: list[tuple[int, Delivery]] = []
        self._received_ns = 0
        self._arrived = asyncio.Condition()

    async def publish(
        self,
        aggregate: str,
        owner: str,
        name: str,
        body: bytes,
        reply_to: str | None = None,
        redrive: Redrive | None = None,
    ) -> int:
        """Store a command; returns its sequence."""
        partition = subjects.partition_of(owner, self._partitions)
        subject = f"tally.cmd.{self._tenant}.{partition}.{aggregate}.{owner}.{name}"
        async with self._arrived:
            seq = len(self._stored) + 1
            self._received_ns += 1
            self._stored.append((partition, Delivery(seq, subject, body, reply_to, redrive, self._received_ns)))
            self._arrived.notify_all()
        return seq

    def has_more(self, partition: int, after_seq: int) -> bool:
        """Whether a partition has commands after a sequence."""
        return any(number == partition for number, _ in self._stored[after_seq:])

    def forget(self, count: int) -> None:
        """Lose the last so many commands, whose sequences the next ones get; who reads on must open anew."""
        del self._stored[max(0, len(self._stored) - count) :]

    @property
    def last_seq(self) -> int:
        """Where the stream ends."""
        return len(self._stored)

    async def open(self, partition: int, after_seq: int, after_ns: int) -> CommandSource:
        """The commands of a partition that come after the last decided one; see the port."""
        later = (item.stream_seq for at, item in self._stored if at == partition and item.received_ns > after_ns > 0)
        again_seq = next(later, after_seq + 1)
        return _MemorySource(self, partition, min(after_seq, self.last_seq, again_seq - 1))

    async def purge(self, up_to_seq: int, partition: int | None = None) -> None:
        """Keep everything: nobody looks at what is decided."""

    async def wait_for(self, partition: int, after_seq: int, count_max: int) -> list[Delivery]:
        """At least one command of a partition after a sequence."""
        async with self._arrived:
            while True:
                found = [item for at, item in self._stored[after_seq:] if at == partition]
                if found:
                    return found[:count_max]
                await self._arrived.wait()


class _MemorySource:
    def __init__(self, commands: MemoryCommands, partition: int, after_seq: int) -> None:
        self._commands = commands
        self._partition = partition
        self.after_seq = self._read_seq = after_seq

    async def take(self, count_max: int, *, timeout_s: float | None = None) -> list[Delivery]:
        try:
            async with asyncio.timeout(timeout_s):
                found = await self._commands.wait_for(self._partition, self._read_seq, count_max)
        except TimeoutError:
            return []
        self._read_seq = found[-1].stream_seq
        return found

    def has_more(self) -> bool:
        return self._commands.has_more(self._partition, self._read_seq)

    @property
    def is_current(self) -> bool:
        return self._read_seq <= self._commands.last_seq

    async def close(self) -> None:
        """Nothing to let go of."""


class MemoryDeadLetters:
    """`bus.ports.DeadLetters` as a list of (aggregate, command id, delivery, reason); a removed one is None."""

    def __init__(self) -> None:
        self.letters: list[tuple[Key, str, Delivery, str] | None] = []

    async def park(self, target: Key, delivery: Delivery, command_id: str, reason: str) -> None:
        """Keep a command, once."""
        if not any(letter and letter[2].stream_seq == delivery.stream_seq for letter in self.letters):
            self.letters.append((target, command_id, delivery, reason))

    async def parked(self) -> set[Key]:
        """Every aggregate that has a command parked."""
        return {letter[0] for letter in self.letters if letter}

    async def holds(self, target: Key, dead_seq: int, command_id: str) -> bool:
        """Whether this command of this aggregate is parked under this sequence."""
        letter = self.letters[dead_seq - 1] if 0 < dead_seq <= len(self.letters) else None
        return letter is not None and letter[:2] == (target, command_id)


class MemorySnapshots:
    """`bus.ports.SnapshotStore` as a dict; its sequence counts what was written."""

    def __init__(self) -> None:
        self.bodies: dict[tuple[int, str], bytes] = {}
        self.watermarks: dict[int, tuple[int, bytes]] = {}
        self._seq = 0

    async def watermark(self, partition: int) -> tuple[int, bytes] | None:
        """Sequence and body of a partition's watermark."""
        return self.watermarks.get(partition)

    async def owners(self, partition: int) -> Collection[str]:
        """Everybody of a partition who has a snapshot."""
        return [owner for at, owner in self.bodies if at == partition]

    async def load(self, partition: int, owners: Collection[str]) -> dict[str, bytes]:
        """The snapshots of these owners, as far as there are any."""
        return {owner: self.bodies[partition, owner] for owner in owners if (partition, owner) in self.bodies}

    async def write(self, partition: int, bodies: Sequence[tuple[str, bytes]], watermark: bytes, fence_seq: int) -> int:
        """Store all or nothing, the watermark's sequence being `fence_seq`."""
        if self.watermarks.get(partition, (0, b""))[0] != fence_seq:
            words = "another worker has taken the partition over"
            raise Conflict(words)
        for owner, body in bodies:
            self._seq += 1
            self.bodies[partition, owner] = body
        self._seq += 1
        self.watermarks[partition] = self._seq, watermark
        return self._seq


class MemoryOutbox:
    """`bus.ports.Outbox` that remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    async def send(self, outcomes: Sequence[tuple[str, bytes]]) -> None:
        """Remember the outcomes."""
        self.sent += outcomes
