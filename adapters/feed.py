"""One read of the event stream for all followers of a process, and the loop that keeps each of them going.

Followers that keep up share every record, decoded once. One that falls behind the window reads by itself until it has
caught up, so that nobody waits long for a slow one. Each has its own position, failures and retries.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import nats.errors
from nats.aio.client import Client

from adapters.jetstream.frames import Frame
from adapters.jetstream.messages import message_at
from adapters.jetstream.reader import MessageReader
from bus import subjects
from bus.envelope import Recorded
from bus.errors import BusError, StreamReplaced, WrongStream
from bus.follower import Follower, Position, StreamIdentity, leaf_hash
from ledger.errors import SignerLocked
from projections.errors import Switched

log = logging.getLogger(__name__)

RECORDS_AT_ONCE: Final = 4_000
WINDOW_RECORDS: Final = 32_000
#: A server that stores as fast as it can answers late: what is asked for at once must last until the next answer.
PULL_MESSAGES_MAX: Final = 16_000
SLOW_PATIENCE_S: Final = 1.0
IDLE_S: Final = 0.2
RETRY_WAIT_MAX_S: Final = 10.0
STAND_BY_S: Final = 0.5


class RecordReader(MessageReader[Recorded]):
    """Gives events; of a message only the body is held, so that the memory of the rest serves for the next ones."""

    def _kept(self, first_seq: int, frames: Sequence[Frame]) -> list[Recorded]:
        return [Recorded(seq, frame.data) for seq, frame in enumerate(frames, first_seq)]


class SharedRead:
    """The newest events of one tenant in memory; `pump` fills it, `after` reads from it."""

    def __init__(self, client: Client, tenant: str) -> None:
        self._client = client
        self._stream = subjects.events_stream(tenant)
        self._window: list[Recorded] = []
        self._first_seq = 1
        self._positions: dict[str, int] = {}
        self._own: dict[str, RecordReader] = {}
        self._created: str | None = None
        self._replaced: StreamReplaced | None = None
        self._changed = asyncio.Condition()

    async def join(self, name: str, seq: int) -> None:
        """Say that a follower goes on after a sequence."""
        async with self._changed:
            self._positions[name] = seq
            self._changed.notify_all()

    async def leave(self, name: str) -> None:
        """Say that a follower reads no more for now."""
        reader = self._own.pop(name, None)
        if reader is not None:
            await reader.close()
        async with self._changed:
            self._positions.pop(name, None)
            self._changed.notify_all()

    async def after(self, name: str, seq: int, timeout_s: float) -> list[Recorded]:
        """Records that follow a sequence, none when nothing came in time; raises `StreamReplaced`."""
        async with self._changed:
            if self._replaced is not None:
                raise StreamReplaced(str(self._replaced))
            self._positions[name] = seq
            self._changed.notify_all()
            if seq + 1 >= self._first_seq:
                if seq + 1 >= self._end_seq:
                    await self._wait_for_more(seq, timeout_s)
                start = seq + 1 - self._first_seq
                return self._window[start : start + RECORDS_AT_ONCE] if start >= 0 else []
        return await self._read_alone(name, seq, timeout_s)

    def has_batch(self, seq: int) -> bool:
        """Whether as many records as are given at once, or more, follow a sequence."""
        return seq + RECORDS_AT_ONCE < self._end_seq

    async def pump(self) -> None:
        """Read the stream into the window for ever, from the slowest follower's position on."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._positions))
            self._window.clear()
            self._first_seq = min(self._positions.values()) + 1
        reader = self._reader(self._first_seq - 1)
        try:
            while True:
                fresh = await reader.take(RECORDS_AT_ONCE)
                self._created = reader.created
                async with self._changed:
                    if fresh[0].stream_seq != self._end_seq:
                        message = f"{self._stream} goes on at {fresh[0].stream_seq}, wanted {self._end_seq}"
                        raise WrongStream(message)
                    self._window.extend(fresh)
                    self._changed.notify_all()
                    await self._make_room()
        except StreamReplaced as err:
            self._replaced = err
            raise
        finally:
            await reader.close()

    @property
    def _end_seq(self) -> int:
        return self._first_seq + len(self._window)

    async def _wait_for_more(self, seq: int, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait_for(lambda: self._end_seq > seq + 1)
        except TimeoutError:
            return

    async def _make_room(self) -> None:
        """Drop what everybody has read; a follower that keeps the others waiting has to read alone."""
        while len(self._window) > WINDOW_RECORDS:
            try:
                async with asyncio.timeout(SLOW_PATIENCE_S):
                    await self._changed.wait_for(lambda: self._needed_seq() > self._first_seq)
                keep_from = min(self._needed_seq(), self._end_seq)
            except TimeoutError:
                keep_from = self._first_seq + WINDOW_RECORDS // 2
            gone = min(keep_from - self._first_seq, len(self._window))
            del self._window[:gone]
            self._first_seq += gone

    def _needed_seq(self) -> int:
        """The first sequence that a follower which shares the window has not read."""
        sharing = [seq + 1 for seq in self._positions.values() if seq + 1 >= self._first_seq]
        return min(sharing, default=self._end_seq)

    def _reader(self, after_seq: int) -> RecordReader:
        return RecordReader(
            self._client, self._stream, after_seq, created=self._created, pull_messages_max=PULL_MESSAGES_MAX
        )

    async def _read_alone(self, name: str, seq: int, timeout_s: float) -> list[Recorded]:
        reader = self._own.get(name)
        if reader is None:
            reader = self._own[name] = self._reader(seq)
        records = await reader.take(RECORDS_AT_ONCE, timeout_s=timeout_s)
        if records and records[0].stream_seq != seq + 1:
            message = f"{self._stream} goes on at {records[0].stream_seq}, wanted {seq + 1}"
            raise WrongStream(message)
        if records and records[-1].stream_seq + 1 >= self._first_seq:
            del self._own[name]
            await reader.close()
        return records


async def keep_following(
    client: Client, tenant: str, stream: StreamIdentity, read: SharedRead, follower: Follower, stop: asyncio.Event
) -> None:
    """Run a follower until `stop` is set; after a failure it is opened anew, waiting longer each time."""
    wait_s, is_standing_by = 0.5, False
    while not stop.is_set():
        try:
            position = await follower.open(tenant, stream)
            await require_on_stream(client, stream, follower.name, position)
            wait_s = 0.5
            await _follow(read, follower, position.stream_seq, stop)
            await follower.close()
        except Switched as err:
            log.info("%s of %s: %s", follower.name, tenant, err)
        except Exception as err:
            if isinstance(err, SignerLocked):  # a stand-by: it says so once, and takes over soon
                level, wait_s = logging.DEBUG if is_standing_by else logging.INFO, STAND_BY_S
            else:
                level = logging.WARNING
            is_standing_by = isinstance(err, SignerLocked)
            log.log(level, "%s of %s: %s: %s; again in %g s", follower.name, tenant, type(err).__name__, err, wait_s)
            log.debug("trace", exc_info=True)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_WAIT_MAX_S)
        finally:
            await read.leave(follower.name)


async def _follow(read: SharedRead, follower: Follower, seq: int, stop: asyncio.Event) -> None:
    """Apply what is there, at the follower's pace: at once after a pause, together when more comes soon."""
    await read.join(follower.name, seq)
    loop = asyncio.get_running_loop()
    next_at = loop.time()
    while not stop.is_set():
        pause_s = 0.0 if read.has_batch(seq) else max(0.0, next_at - loop.time())
        if pause_s:
            await asyncio.sleep(pause_s)
        records = await read.after(follower.name, seq, IDLE_S - pause_s)
        if records:
            next_at = loop.time() + follower.apply_every_s
            await follower.apply(records)
            seq = records[-1].stream_seq
        await follower.idle()


async def keep_pumping(read: SharedRead, tenant: str) -> None:
    """Pump for ever; after a failure again, waiting a moment."""
    while True:
        try:
            await read.pump()
        except (BusError, nats.errors.Error, TimeoutError, OSError) as err:
            log.warning("reading the events of %s: %s", tenant, err)
            await asyncio.sleep(1)


async def require_on_stream(client: Client, stream: StreamIdentity, name: str, position: Position) -> None:
    """Refuse a position that does not belong to this stream; raises `WrongStream`."""
    if position.stream_seq == 0:
        return
    if position.stream_created != stream.created:
        message = (
            f"{name} stands on a stream created {position.stream_created}, {stream.name} was created "
            f"{stream.created}: replace it (tally rebuild {name} --accept), or point it at the stream it belongs to"
        )
        raise WrongStream(message)
    found = await message_at(client, stream.name, position.stream_seq)
    if found is None:
        message = (
            f"{name} is at {position.stream_seq}, {stream.name} does not reach so far: was it restored? replace it "
            f"(tally rebuild {name} --accept)"
        )
        raise WrongStream(message)
    if leaf_hash(found[1]) != position.leaf_hash:
        message = (
            f"{name} is at another event {position.stream_seq} than {stream.name} holds: replace it "
            f"(tally rebuild {name} --accept)"
        )
        raise WrongStream(message)
