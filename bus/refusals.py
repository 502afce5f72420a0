"""What a partition has refused within the last day: the same command id gets the same answer (docs/formats.md).

The inbox events tell it for ever; so that who takes over need not read a day of them, refusals are kept beside the
snapshots, in segments that are written anew until they are full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

FORMAT: Final = "refusals/1"
KEPT_MS: Final = 24 * 3600 * 1000
#: The longest refusals, 80 in one inbox event, make a segment of 210 kB: a server takes messages of 1 MB.
SEGMENT_MAX: Final = 250


class Row(NamedTuple):
    """One refusal; `at_ms` is when it was recorded."""

    at_ms: int
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
        self._by_id: dict[str, Row] = {}
        self._segments: list[_Rows] = []

    def get(self, command_id: str) -> tuple[str, str] | None:
        """Code and message of an earlier refusal."""
        found = self._by_id.get(command_id)
        return None if found is None else (found.code, found.message)

    def remember(self, refused: Iterable[tuple[int, str, str, str]], now_ms: int) -> None:
        """Take in what an inbox event names that was recorded now; forget what is older than a day."""
        for _, command_id, code, message in refused:
            if command_id not in self._by_id:
                self._add(Row(now_ms, command_id, code, message))
        self._forget(now_ms - KEPT_MS)

    def _add(self, row: Row) -> None:
        if not self._segments or len(self._segments[-1].rows) >= SEGMENT_MAX:
            used = {segment.slot for segment in self._segments}
            free = next(slot for slot in range(len(used) + 1) if slot not in used)
            self._segments.append(_Rows(free, [], 0))
        self._segments[-1].rows.append(row)
        self._by_id[row.command_id] = row

    def _forget(self, before_ms: int) -> None:
        while self._by_id:
            oldest = next(iter(self._by_id.values()))
            if oldest.at_ms >= before_ms:
                break
            del self._by_id[oldest.command_id]
        while self._segments and self._segments[0].rows[-1].at_ms < before_ms:
            del self._segments[0]

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
            self._by_id.update((row.command_id, row) for row in rows)
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
