"""Rebuilding a projection beside the live one: fill, compare at one sequence, switch; and building a past state.

Everything here may end at any instruction: readers and the live follower know nothing of it until the switch, which
is one step of the store. What an interrupted rebuild leaves behind is removed by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import msgspec
from nats.aio.client import Client

from adapters.ending import ended
from adapters.feed import RecordReader, require_on_stream
from adapters.generations import Feed, Generations
from adapters.jetstream import streams
from adapters.jetstream.lease import lease
from adapters.jetstream.messages import stream_info
from bus.envelope import Recorded
from bus.errors import WrongStream
from bus.follower import Follower, StreamIdentity
from projections.errors import Inconsistent, ProjectionError, RebuildRefused
from projections.generations import LIVE, NEXT, PREVIOUS, Standing, State, differences, state_hash

#: Records that a store gets at once, and batches that are read ahead of it.
BATCH_RECORDS: Final = 10_000
BATCHES_AHEAD: Final = 3
READ_PATIENCE_S: Final = 30.0
#: So near to the live one the two are compared; further away, it is followed some more.
NEAR_RECORDS: Final = 20_000

#: Told what is going on, how far it is, how far it must come.
Progress = Callable[[str, int, int], None]


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; `compared_at` is None when there was nothing to compare with."""

    projection: str
    tenant: str
    generation: str
    stream_seq: int
    rows: dict[str, int]
    state_hash: str
    compared_at: int | None = None
    differences: tuple[str, ...] = ()
    version: int
    version_before: int | None = None


class HistoryFeed:
    """Feeds a follower from history: reading and decoding run ahead of the store."""

    def __init__(self, client: Client, stream: StreamIdentity, follower: Follower, progress: Progress) -> None:
        self._client = client
        self._stream = stream
        self._follower = follower
        self._progress = progress
        self._look_at: Callable[[Recorded], object] = getattr(follower, "look_at", _event_of)
        self._reader: RecordReader | None = None
        self._read_ahead: list[Recorded] = []
        self.stream_seq = 0

    async def open(self, tenant: str) -> None:
        """Open the follower where it stands; raises `WrongStream`, `ProjectionError`."""
        if self._reader is not None:
            await self._reader.close()
        position = await self._follower.open(tenant, self._stream)
        await require_on_stream(self._client, self._stream, self._follower.name, position)
        self.stream_seq = position.stream_seq
        self._reader = RecordReader(self._client, self._stream.name, position.stream_seq, created=self._stream.created)

    async def to(self, upto_seq: int) -> None:
        """Bring the follower to a sequence of the stream, and let it commit."""
        batches: asyncio.Queue[list[Recorded]] = asyncio.Queue(maxsize=BATCHES_AHEAD)
        reading = asyncio.create_task(self._read(self.stream_seq, upto_seq, batches))
        try:
            while self.stream_seq < upto_seq:
                records = await _next(batches, reading)
                await self._follower.apply(records)
                self.stream_seq = records[-1].stream_seq
                self._progress("filling", self.stream_seq, upto_seq)
                await asyncio.sleep(0)  # an end that was asked for meanwhile comes here: redis-py may swallow it
            await self._follower.idle()
        finally:
            await ended(reading)

    async def close(self) -> None:
        """Let go of both ends; what the follower holds back is thrown away with its generation."""
        if self._reader is not None:
            await self._reader.close()
        with contextlib.suppress(ProjectionError):
            await self._follower.close()

    async def _read(self, after: int, upto_seq: int, batches: asyncio.Queue[list[Recorded]]) -> None:
        while after < upto_seq:
            wanted = min(BATCH_RECORDS, upto_seq - after)
            records, self._read_ahead = self._read_ahead[:wanted], self._read_ahead[wanted:]
            while len(records) < wanted:
                records += await self._take(after + len(records))
            records, self._read_ahead = records[:wanted], [*records[wanted:], *self._read_ahead]
            after = records[-1].stream_seq
            await batches.put(records)

    async def _take(self, after: int) -> list[Recorded]:
        reader = self._reader
        records = [] if reader is None else await reader.take(BATCH_RECORDS, timeout_s=READ_PATIENCE_S)
        if not records or records[0].stream_seq != after + 1:
            got = records[0].stream_seq if records else f"nothing in {READ_PATIENCE_S:g} s"
            raise WrongStream(f"{self._stream.name} goes on at {got}, wanted {after + 1}: is the server up?")
        for record in records:
            self._look_at(record)  # decoded here, while the store works, and not so many at once that it waits for us
        return records


def _event_of(record: Recorded) -> object:
    return record.event


async def _next(batches: asyncio.Queue[list[Recorded]], reading: asyncio.Task[None]) -> list[Recorded]:
    """The next batch, or the failure of who reads."""
    getting = asyncio.create_task(batches.get())
    try:
        await asyncio.wait({getting, reading}, return_when=asyncio.FIRST_COMPLETED)
        if not getting.done() and reading.done():
            reading.result()
        return await getting
    finally:
        getting.cancel()


class Rebuild:
    """Works on one projection of one tenant; one at a time, wherever it is started."""

    def __init__(self, client: Client, tenant: str, store: Generations, progress: Progress, holder: str) -> None:
        self._client = client
        self._tenant = tenant
        self._store = store
        self._progress = progress
        self._holder = holder
        self._name = f"{store.name} of {tenant}"

    async def run(self, *, is_accepted: bool) -> Rebuilt:
        """Fill the next generation, compare it, let it go live.

        Raises `RebuildRefused` when it differs and that is not accepted, `LeaseTaken`, `ProjectionError`.
        """
        async with self._alone():
            stream, _ = await self._stream()
            await self._store.prepare()
            live = await self._comparable(stream, is_accepted=is_accepted)
            await self._store.drop(NEXT)  # what an interrupted run left behind
            feed = HistoryFeed(self._client, stream, await self._store.follower(NEXT), self._progress)
            try:
                await feed.open(self._tenant)
                state, different = await self._compare(feed, live, is_accepted=is_accepted)
                if different and not is_accepted:
                    raise RebuildRefused(self._refusal(live, different, state.stream_seq))
                await self._store.switch(NEXT, self._bring(feed))
                compared_at = state.stream_seq if live is not None else None
                return self._report("live", feed.stream_seq, state, live, compared_at, different)
            except ProjectionError:
                await feed.close()
                with contextlib.suppress(ProjectionError):
                    await self._store.drop(NEXT)
                raise
            finally:
                await feed.close()

    async def roll_back(self) -> Rebuilt:
        """Let the previous generation go live again, as far as the live one is; raises `RebuildRefused`."""
        async with self._alone():
            stream, _ = await self._stream()
            await self._store.prepare()
            before = await self._store.standing(LIVE)
            feed = HistoryFeed(self._client, stream, await self._store.follower(PREVIOUS), self._progress)
            try:

                async def bring(upto_seq: int) -> None:
                    await feed.open(self._tenant)
                    await feed.to(upto_seq)

                await self._store.switch(PREVIOUS, bring)
            finally:
                await feed.close()
            now = await self._store.standing(LIVE)
            return self._report("live", now.position.stream_seq if now else 0, None, before)

    async def build_past(self, generation: str, upto_seq: int) -> Rebuilt:
        """Build what the projection was after a sequence, under a name of its own; an interrupted one goes on."""
        async with self._alone():
            stream, last_seq = await self._stream()
            if not 1 <= upto_seq <= last_seq:
                raise RebuildRefused(f"--to-sequence is {upto_seq}, {self._tenant} has the events 1 to {last_seq}")
            there = await self._store.standing(generation)
            if there is not None and there.position.stream_seq > upto_seq:
                raise RebuildRefused(
                    f"{self._name} has a past state {generation} at {there.position.stream_seq:,}, wanted {upto_seq:,}"
                    f": choose another name, or remove it (tally rebuild {self._store.name} --drop {generation})"
                )
            feed = HistoryFeed(self._client, stream, await self._store.follower(generation), self._progress)
            try:
                await feed.open(self._tenant)
                await feed.to(upto_seq)
            finally:
                await feed.close()
            state = await self._store.state(generation)
            return self._report(generation, state.stream_seq, state, None)

    async def drop(self, generation: str) -> None:
        """Remove a past state; raises `RebuildRefused` when there is none of that name."""
        async with self._alone():
            if await self._store.standing(generation) is None:
                raise RebuildRefused(f"{self._name} has no past state {generation}; nothing was removed")
            await self._store.drop(generation)

    def _alone(self) -> contextlib.AbstractAsyncContextManager[None]:
        name = f"rebuild.{self._tenant}.{self._store.name}"
        return lease(self._client, name, f"a rebuild of {self._name}", self._holder)

    async def _stream(self) -> tuple[StreamIdentity, int]:
        tenant = await streams.describe(self._client, self._tenant)
        info = await stream_info(self._client, tenant.events.name)
        last_seq = int(info["state"]["last_seq"])
        if last_seq == 0:
            raise RebuildRefused(f"{self._tenant} has no events yet: there is nothing to build from")
        return tenant.events, last_seq

    async def _comparable(self, stream: StreamIdentity, *, is_accepted: bool) -> Standing | None:
        """Where the live generation stands, None when it holds nothing that this stream could tell of.

        Raises `WrongStream` for one of another stream, unless that is accepted.
        """
        live = await self._store.standing(LIVE)
        if live is None or live.position.stream_seq == 0:
            return None
        try:
            await require_on_stream(self._client, stream, self._store.name, live.position)
        except WrongStream:
            if not is_accepted:
                raise
            return None
        return live

    async def _compare(
        self, feed: HistoryFeed, live: Standing | None, *, is_accepted: bool
    ) -> tuple[State, tuple[str, ...]]:
        """Bring the next generation to the live one; returns what it holds there and how that differs.

        Raises `Inconsistent` for a live one that cannot be read, unless that is accepted.
        """
        if live is None:
            await feed.to((await self._stream())[1])
            return await self._store.state(NEXT), ()
        while (far := await self._live_seq()) - feed.stream_seq > NEAR_RECORDS or feed.stream_seq == 0:
            await feed.to(far)
        try:
            async with self._store.live_at_rest() as wanted:
                self._progress("comparing", wanted.stream_seq, wanted.stream_seq)
                await feed.to(wanted.stream_seq)
                found = await self._store.state(NEXT)
        except Inconsistent as err:
            if not is_accepted:
                raise
            return await self._store.state(NEXT), (f"the live one cannot be read: {err}",)
        if found.stream_seq != wanted.stream_seq:
            raise RebuildRefused(
                f"{self._name}: the new generation is at {found.stream_seq:,}, the live one at {wanted.stream_seq:,}: "
                "the live one went back meanwhile; try again"
            )
        return found, tuple(differences(found, wanted))

    async def _live_seq(self) -> int:
        live = await self._store.standing(LIVE)
        return live.position.stream_seq if live else 0

    def _bring(self, feed: HistoryFeed) -> Feed:
        """As far as the next generation is told to come; a live one of another stream may be beyond this one's end."""

        async def bring(upto_seq: int) -> None:
            upto_seq = min(upto_seq, (await self._stream())[1])
            if upto_seq > feed.stream_seq:
                await feed.to(upto_seq)

        return bring

    def _refusal(self, live: Standing | None, different: tuple[str, ...], compared_at: int) -> str:
        version = live.version if live else self._store.version
        why = (
            f"both are of version {version} and must be equal: something else changed the live one, or damaged it"
            if version == self._store.version
            else f"the live one is of version {version}, the new one of version {self._store.version}"
        )
        return (
            f"{self._name} at {compared_at:,}: {'; '.join(different)}; {why}; the live one stays, --accept replaces "
            "it (and --rollback brings it back)"
        )

    def _report(
        self,
        generation: str,
        stream_seq: int,
        state: State | None,
        before: Standing | None,
        compared_at: int | None = None,
        different: tuple[str, ...] = (),
    ) -> Rebuilt:
        return Rebuilt(
            projection=self._store.name,
            tenant=self._tenant,
            generation=generation,
            stream_seq=stream_seq,
            rows=state.rows if state else {},
            state_hash=state_hash(state.hashes) if state else "",
            compared_at=compared_at,
            differences=different,
            version=self._store.version,
            version_before=before.version if before else None,
        )


class Meter:
    """How fast it goes and how long it takes still."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = (0.0, 0)
        self._last: int | None = None

    def line(self, done: int, total: int) -> str:
        """`40,000 of 100,000 (40 %), 20,000 events/s, 3 s to go`."""
        now = self._clock()
        if self._last is None or done < self._last:
            self._began = (now, done)
        self._last = done
        seconds, events = now - self._began[0], done - self._began[1]
        line = f"{done:,} of {total:,} events ({100 * done // max(1, total)} %)"
        if seconds <= 0 or events <= 0:
            return line
        rate = events / seconds
        return f"{line}, {rate:,.0f} events/s, {(total - done) / rate:,.0f} s to go"
