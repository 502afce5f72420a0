"""What follows the event stream: the port between the shared read and the signer or a projection."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

import msgspec

from bus.envelope import Recorded


class StreamIdentity(msgspec.Struct, frozen=True):
    """Which stream: its name and its creation time as the server gives it (RFC 3339)."""

    name: str
    created: str


class Position(msgspec.Struct, frozen=True):
    """How far a follower came: the stream's creation time, the last sequence applied, that event's leaf hash in hex."""

    stream_created: str
    stream_seq: int
    leaf_hash: str


class Follower(Protocol):
    """Applies events in order, each batch with its position in one atomic step."""

    name: str
    #: How far apart batches begin at least, unless a full one waits: a small one costs nearly as much as a large one.
    #: At most 0.1.
    apply_every_s: float

    async def open(self, tenant: str, stream: StreamIdentity) -> Position:
        """Prepare the sink; returns where it stands, `stream_seq` 0 for nothing yet."""

    async def apply(self, records: Sequence[Recorded]) -> None:
        """Take records that follow the last ones without a gap; what is not yet worth a commit may wait."""

    async def idle(self) -> None:
        """Called between batches and at least four times a second: commit what waits."""

    async def close(self) -> None:
        """Commit what waits and let go."""


def leaf_hash(body: bytes) -> str:
    """RFC 6962 leaf hash of an event's body, in hex: how a position names its event."""
    return sha256(b"\x00" + body).hexdigest()
