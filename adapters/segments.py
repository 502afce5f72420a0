"""Segments: follows a tenant's events into an index in memory, and answers filters from it (docs/segments.md).

The index belongs to the process that answers. It is kept in a file when the process ends in good order, with its
position, in one step; what came since, or everything when there is no such file, is read from the stream at the start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
from nats.aio.client import Client

from adapters.ending import ended
from adapters.feed import SharedRead, keep_following, keep_pumping, require_on_stream
from adapters.files import make_directory, write_atomically
from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.jetstream.messages import stream_info
from adapters.segment_index import SegmentIndex
from adapters.settings import Settings
from bus.envelope import Recorded
from bus.errors import WrongStream
from bus.follower import Position, StreamIdentity
from projections.errors import SinkUnavailable
from projections.parking import project_or_park
from projections.positions import advance, start
from projections.segments import NAME, VERSION, Filter, evaluate, project

log = logging.getLogger(__name__)

_MAGIC: Final = b"tally-segments\n"
#: So many events are taken in at once; a filter that comes meanwhile waits for them.
AT_ONCE: Final = 250


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Who is meant: how many, some of them by the order of registration, and what the next ones begin after."""

    size: int
    players: list[str]
    next_after: int | None
    stream_seq: int
    parked: int


class _Kept(msgspec.Struct, frozen=True):
    """What a file of the index holds."""

    version: int
    position: Position
    index: bytes


class SegmentFollower:
    """A `Follower` whose sink is an index in memory."""

    name = NAME
    apply_every_s = 0.02

    def __init__(self, file: Path) -> None:
        self._file = file
        self._index = SegmentIndex()
        self._position: Position | None = None
        self._parked: dict[str, int] = {}
        #: Up to where the stream went when it was opened: before that, answers would be of the past.
        self.wanted_seq = 0

    async def open(self, tenant: str, stream: StreamIdentity) -> Position:
        """Take up what the file holds, else begin; a file of another stream or version is passed over."""
        del tenant
        if self._position is None or self._position.stream_created != stream.created:
            self._position, self._index = await asyncio.to_thread(_read, self._file, stream)
        return self._standing

    def begin_anew(self, stream: StreamIdentity) -> None:
        """Forget everything: what was kept is not of this stream's events."""
        self._position, self._index = start(stream), SegmentIndex()

    async def apply(self, records: Sequence[Recorded]) -> None:
        """Take events in, letting filters through in between; one that cannot be read parks its aggregate."""
        for at in range(0, len(records), AT_ONCE):
            some = records[at : at + AT_ONCE]
            after = advance(NAME, self._standing, some)
            facts, parked = project_or_park(NAME, project, some, self._parked, is_live=True)
            for one in parked:
                log.warning("segments pass over %s from event %d on: %s", one.subject, one.stream_seq, one.reason)
                self._parked.setdefault(one.subject, one.stream_seq)
            self._index.apply(facts)
            self._position = after
            await asyncio.sleep(0)

    async def idle(self) -> None:
        """Nothing waits."""

    async def close(self) -> None:
        """Keep the index in its file, unless something is parked: that is tried again by reading anew."""
        if self._position is not None and self._position.stream_seq and not self._parked:
            await asyncio.to_thread(_write, self._file, self._position, self._index)

    @property
    def _standing(self) -> Position:
        if self._position is None:
            raise SinkUnavailable(f"{NAME} are not open yet; ask again in a moment")
        return self._position

    def find(self, term: Filter, *, limit: int, after: int, now_s: int) -> Segment:
        """Whom a filter means; raises `WrongFilter`, and `SinkUnavailable` until what had come before is read."""
        standing = self._standing
        at, wanted = standing.stream_seq, self.wanted_seq
        if at < wanted:
            raise SinkUnavailable(f"{NAME} are being read, event {at:,} of {wanted:,} so far; ask again in a moment")
        found = evaluate(term, self._index, now_s)
        begin = found.rank(after - 1) if after else 0
        numbers = found[begin : begin + limit].to_array() if limit else []
        names = self._index.players
        return Segment(
            size=len(found),
            players=[names[number] for number in numbers],
            next_after=numbers[-1] + 1 if limit and begin + limit < len(found) else None,
            stream_seq=standing.stream_seq,
            parked=len(self._parked),
        )


class Segments:
    """The indexes of a process, one for each tenant that somebody asked for."""

    def __init__(self, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder
        self._followed: dict[str, tuple[SegmentFollower, asyncio.Event, list[asyncio.Task[None]]]] = {}

    async def of(self, tenant: str) -> SegmentFollower:
        """The index of a tenant; it begins to follow when it is first asked for."""
        if tenant not in self._followed:
            described = await streams.describe(self._client, tenant)
            follower, stop = await self._opened(tenant, described.events), asyncio.Event()
            if tenant not in self._followed:  # nobody else was faster
                read = SharedRead(self._client, tenant)
                following = keep_following(self._client, tenant, described.events, read, follower, stop)
                tasks = [asyncio.create_task(keep_pumping(read, tenant)), asyncio.create_task(following)]
                self._followed[tenant] = follower, stop, tasks
        return self._followed[tenant][0]

    async def _opened(self, tenant: str, stream: StreamIdentity) -> SegmentFollower:
        follower = SegmentFollower(self._folder / f"{tenant}.index")
        position = await follower.open(tenant, stream)
        try:
            await require_on_stream(self._client, stream, NAME, position)
        except WrongStream as err:
            log.warning("%s: the events are read from the first on", err)
            follower.begin_anew(stream)
        info = await stream_info(self._client, stream.name)
        follower.wanted_seq = int(info["state"]["last_seq"])
        return follower

    async def close(self) -> None:
        """Stop following; each index is kept."""
        for _, stop, (pumping, following) in self._followed.values():
            stop.set()
            await asyncio.gather(following, return_exceptions=True)
            await ended(pumping)


@asynccontextmanager
async def shared_segments(settings: Settings) -> AsyncIterator[Segments]:
    """The indexes of a process that answers queries."""
    client = await connect(settings.nats_url, "tally-segments")
    segments = Segments(client, settings.data_dir / NAME)
    try:
        yield segments
    finally:
        await segments.close()
        await client.close()


def now_s() -> int:
    """Seconds since 1970."""
    return int(time.time())


def _read(file: Path, stream: StreamIdentity) -> tuple[Position, SegmentIndex]:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return start(stream), SegmentIndex()
    try:
        if not data.startswith(_MAGIC):
            raise ValueError("it does not begin as it must")  # noqa: TRY301 - one line for whatever is wrong
        kept = msgspec.msgpack.decode(data[len(_MAGIC) :], type=_Kept)
        if kept.version == VERSION and kept.position.stream_created == stream.created:
            return kept.position, SegmentIndex.decode(kept.index)
        log.info("%s is of another version or stream: the events are read from the first on", file)
    except (ValueError, KeyError, msgspec.MsgspecError) as err:
        log.warning("%s cannot be read (%s): the events are read from the first on", file, err)
    return start(stream), SegmentIndex()


def _write(file: Path, position: Position, index: SegmentIndex) -> None:
    make_directory(file.parent)
    write_atomically(file, _MAGIC + msgspec.msgpack.encode(_Kept(VERSION, position, index.encode())))
