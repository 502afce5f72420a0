"""What a partition has refused lately: the same command gets the same answer (docs/formats.md).

A command is told apart by the owner that it addresses and its id, as an accepted one is. Refusals are remembered for a
day, and only so many for each partition: whoever sends refused commands without end takes no more memory than that. One
that was forgotten is decided anew when it comes again; it had no effect, so it still has one effect at most.

The inbox events tell refusals for ever; so that who takes over need not read a day of them, they are kept beside the
snapshots, in segments that are written anew until they are full.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from bus.envelope import CommandsDecided
from bus.subjects import owner_of

log = logging.getLogger(__name__)

FORMAT: Final = "refusals/2"
KEPT_MS: Final = 24 * 3600 * 1000
#: Of each partition, the newest: 30 MB of ordinary refusals, 60 MB of the longest.
KEPT_MAX: Final = 50_000
#: The longest refusals make a segment of 250 kB: a server takes messages of 1 MB.
SEGMENT_MAX: Final = 250


class Row(NamedTuple):
    """One refusal; `at_ms` is when it was recorded, `owner` "" where an inbox event did not tell it."""

    at_ms: int
    owner: str
    command_id: str
    code: str
    message: str


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Refusals of one partition, oldest first."""

    format: str
    partition: int
    refused: tuple[Row, ...]


_decode: Final = msgspec.json.Decoder(Segment).decode
_encode: Final = msgspec.json.Encoder().encode


class _Rows:
    """A segment in memory: where it is kept, and how much of it is kept there."""

    __slots__ = ("kept", "rows", "slot")

    def __init__(self, slot: int, rows: list[Row], kept: int) -> None:
        self.slot = slot
        self.rows = rows
        self.kept = kept


class Unkept(NamedTuple):
    """So many rows of a segment, and the body that holds them."""

    segment: _Rows
    rows: int
    body: bytes

    @property
    def slot(self) -> int:
        """Where the body belongs."""
        return self.segment.slot

    def is_kept(self) -> None:
        """The body is stored."""
        self.segment.kept = self.rows


class Refusals:
    """The refusals of one partition."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        #: By owner and command id.
        self._by_command: dict[tuple[str, str], Row] = {}
        self._segments: list[_Rows] = []
        #: How many rows of the first segment are forgotten.
        self._gone = 0
        self._is_told = False

    def __len__(self) -> int:
        return len(self._by_command)

    def get(self, owner_id: str, command_id: str) -> tuple[str, str] | None:
        """Code and message of an earlier refusal."""
        if not self._by_command:  # as nearly always, and every command asks
            return None
        found = self._by_command.get((owner_id, command_id)) or self._by_command.get(("", command_id))
        return None if found is None else (found.code, found.message)

    def remember(self, decided: CommandsDecided, now_ms: int) -> None:
        """Take in what an inbox event names that was recorded now; forget what is too old, or too much."""
        for subject, command_id, code, message in decided.refusals():
            row = Row(now_ms, owner_of(subject) if subject else "", command_id, code, message)
            if self._by_command.setdefault((row.owner, command_id), row) is row:
                self._add(row)
        self._forget(now_ms - KEPT_MS)

    def _add(self, row: Row) -> None:
        if not self._segments or len(self._segments[-1].rows) >= SEGMENT_MAX:
            used = {segment.slot for segment in self._segments}
            free = next(slot for slot in range(len(used) + 1) if slot not in used)
            self._segments.append(_Rows(free, [], 0))
        self._segments[-1].rows.append(row)

    def _forget(self, before_ms: int) -> None:
        while self._segments:
            rows = self._segments[0].rows
            row = rows[self._gone]
            if row.at_ms >= before_ms:
                if len(self._by_command) <= KEPT_MAX:
                    return
                self._tell()
            if self._by_command.get((row.owner, row.command_id)) is row:
                del self._by_command[row.owner, row.command_id]
            self._gone += 1
            if self._gone == len(rows):
                del self._segments[0]
                self._gone = 0

    def _tell(self) -> None:
        """Say once that a day has more refusals than are remembered."""
        if not self._is_told:
            line = "partition %d refused more than %d commands in a day: older ones are decided anew if they come again"
            log.warning(line, self._partition, KEPT_MAX)
        self._is_told = True

    @property
    def slots(self) -> tuple[int, ...]:
        """Where the segments are kept, the oldest first."""
        return tuple(segment.slot for segment in self._segments)

    def unkept(self) -> list[Unkept]:
        """Every segment that has gone on since it was kept."""
        return [
            Unkept(segment, len(segment.rows), encode(self._partition, segment.rows))
            for segment in self._segments
            if segment.kept < len(segment.rows)
        ]

    def restore(self, slots: Iterable[int], bodies: Mapping[int, bytes]) -> bool:
        """Take in the segments that were kept in these slots; False when one is missing or cannot be read."""
        for slot in slots:
            rows = decode(self._partition, bodies.get(slot, b""))
            if not rows:
                return False
            self._segments.append(_Rows(slot, rows, len(rows)))
            self._by_command.update(((row.owner, row.command_id), row) for row in rows)
        return True


def encode(partition: int, rows: Iterable[Row]) -> bytes:
    """A segment as a body."""
    return _encode(Segment(format=FORMAT, partition=partition, refused=tuple(rows)))


def decode(partition: int, body: bytes) -> list[Row]:
    """The refusals of a body; none when it is of another format or partition, or cannot be read."""
    try:
        segment = _decode(body)
    except msgspec.MsgspecError:
        return []
    return list(segment.refused) if (segment.format, segment.partition) == (FORMAT, partition) else []
