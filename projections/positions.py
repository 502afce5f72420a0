"""Where a projection stands, and what it takes to move on: no gap, no repetition, no other stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bus.envelope import Recorded
from bus.follower import Position, StreamIdentity, leaf_hash
from projections.errors import ForeignPosition, OutOfOrder

NOTHING: Final = 0


def start(stream: StreamIdentity) -> Position:
    """The position before the first event of a stream."""
    return Position(stream_created=stream.created, stream_seq=NOTHING, leaf_hash="")


def advance(projection: str, position: Position, records: Sequence[Recorded]) -> Position:
    """The position after the records; raises `OutOfOrder` unless they follow it without a gap."""
    expected = position.stream_seq
    for record in records:
        expected += 1
        if record.stream_seq != expected:
            raise OutOfOrder(projection, expected, record.stream_seq)
    if expected == position.stream_seq:
        return position
    return Position(stream_created=position.stream_created, stream_seq=expected, leaf_hash=leaf_hash(records[-1].body))


def require_same_stream(projection: str, stored: Position | None, stream: StreamIdentity) -> Position:
    """The stored position, or the start; raises `ForeignPosition` when it was made from another stream."""
    if stored is None:
        return start(stream)
    if stored.stream_created != stream.created:
        raise ForeignPosition(projection, stream.name, stored.stream_created, stream.created)
    return stored
