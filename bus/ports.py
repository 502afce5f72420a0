"""What a partition needs from outside, as small protocols; `bus/memory.py` and `adapters/jetstream/` keep them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from bus.envelope import CommandsDecided, Recorded
from domain.catalogue import Key


class Redrive(NamedTuple):
    """An operator's word on a parked command: the dead letter's sequence, and whether to execute or to discard it."""

    dead_seq: int
    is_discard: bool


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One command as it lies in the stream."""

    stream_seq: int
    subject: str
    body: bytes
    reply_to: str | None
    redrive: Redrive | None = None
    #: When the stream took it, in nanoseconds since 1970 by the stream's clock; 0 where nobody asks.
    received_ns: int = 0


class Message(msgspec.Struct, gc=False):
    """One event to append; `expected` is the last sequence that its subject, or `fence`, must have (None: any)."""

    subject: str
    body: bytes
    expected: int | None
    fence: str | None


class InboxHead(NamedTuple):
    """A partition's last inbox event: its place, its version, what it says."""

    stream_seq: int
    version: int
    decided: CommandsDecided


class EventStore(Protocol):
    """The event stream, as a partition writes and reads it."""

    async def append(self, batch_id: str, messages: Sequence[Message]) -> int:
        """Store all messages or none; returns the sequence of the first, the others follow without a gap.

        Raises `Conflict` when an expectation is not met, `OutcomeUnknown` when no answer came.
        """

    async def landed(self) -> None:
        """Wait for what this process is appending now: what is decided after that leaves with what others decide."""

    async def last_seqs(self, subjects: Collection[str]) -> dict[str, int]:
        """The last sequence of each subject that has one."""

    async def histories(self, owners: Collection[str], after: Mapping[Key, int]) -> dict[str, list[Recorded]]:
        """The events of each owner's aggregates in stream order, of an aggregate in `after` those behind a sequence.

        Owners without events may be left out.
        """

    async def inbox_head(self, partition: int) -> InboxHead | None:
        """The last inbox event of a partition, None before the first."""

    def inbox_since(self, partition: int, since_ms: int) -> AsyncIterator[CommandsDecided]:
        """What a partition's inbox events say that were recorded since a moment, oldest first, read as it is taken."""

    async def events_from(self, stream_seq: int, count_max: int) -> list[Recorded]:
        """Up to so many events, from a sequence on."""


class Stretch(NamedTuple):
    """Events by owner, and a partition's inbox events, up to a sequence; `is_last` when the stream ended there."""

    by_owner: dict[str, list[Recorded]]
    decided: list[Recorded]
    end_seq: int
    is_last: bool


class Tail(Protocol):
    """The newest part of the event stream, read once for all partitions of a process."""

    async def last_seq(self) -> int:
        """The sequence of the last event of the stream, 0 without one."""

    async def since(self, after_seq: int, partition: int, is_own: Callable[[str], bool]) -> Stretch:
        """Events after a sequence, of the partition's inbox and of the owners asked for; at most a stretch of them."""


class SnapshotStore(Protocol):
    """Bodies by owner (or by a name that begins with `$`), one each, and a watermark for each partition."""

    async def watermark(self, partition: int) -> tuple[int, bytes] | None:
        """Sequence and body of a partition's watermark."""

    async def owners(self, partition: int) -> Collection[str]:
        """Everybody of a partition who has a snapshot."""

    async def load(self, partition: int, owners: Collection[str]) -> dict[str, bytes]:
        """The snapshots of these owners, as far as there are any."""

    async def write(self, partition: int, bodies: Sequence[tuple[str, bytes]], watermark: bytes, fence_seq: int) -> int:
        """Store all or nothing, the watermark's sequence being `fence_seq`; returns its new one, else `Conflict`."""


class CommandSource(Protocol):
    """One partition's commands in order, from behind `after_seq`."""

    after_seq: int

    @property
    def is_current(self) -> bool:
        """Whether no sequence can have been given again since the stream was looked at."""

    async def take(self, count_max: int, *, timeout_s: float | None = None) -> list[Delivery]:
        """At least one command, at most so many; waits until there is one, an empty list when the time passed."""

    def has_more(self) -> bool:
        """Whether `take` has something to give without waiting."""

    async def close(self) -> None:
        """Let go of the source."""


class CommandStream(Protocol):
    """The command stream, as partitions read it."""

    async def open(self, partition: int, after_seq: int, after_ns: int) -> CommandSource:
        """The commands of a partition that come after the last decided one: its sequence, and when it was received.

        A stream that does not wait for the disk may have forgotten the last commands when its server was killed, and
        gives their sequences again. Then it goes on at the first command that was received later, or where the stream
        ends, which `after_seq` of the source tells. Where the moment is not known (0) only its end can be seen.
        """

    async def purge(self, up_to_seq: int, partition: int | None = None) -> None:
        """Remove commands up to and including a sequence, of one partition or of all: they are decided."""


class DeadLetters(Protocol):
    """Commands that our own code could not decide, in the order in which they came."""

    async def park(self, target: Key, delivery: Delivery, command_id: str, reason: str) -> None:
        """Keep a command until an operator redrives or discards it; keeping it twice keeps it once."""

    async def parked(self) -> set[Key]:
        """Every aggregate that has a command parked."""

    async def holds(self, target: Key, dead_seq: int, command_id: str) -> bool:
        """Whether this command of this aggregate is parked under this sequence."""


class Turns(Protocol):
    """Turns of the processes that write the same aggregate: a hint that spares conflicts, never a right."""

    async def take(self, key: Key) -> None:
        """Wait until it is this process's turn, a few seconds at most."""

    async def give(self, key: Key) -> None:
        """Let the next process have its turn."""


class Outbox(Protocol):
    """Where outcomes go."""

    async def send(self, outcomes: Sequence[tuple[str, bytes]]) -> None:
        """Publish (subject, body) pairs; called only when what they say is durable."""
