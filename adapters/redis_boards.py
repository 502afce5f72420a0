"""What feeds the leaderboards in Redis or Valkey: writes, parked events and position by one script, fenced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import redis.asyncio as redis
from redis.exceptions import RedisError

from adapters.jetstream import connection as jetstream
from adapters.jetstream.settings import BOARDS, read_setting
from adapters.redis_keys import (
    BoardsSettings,
    Keys,
    connect,
    live_keys,
    require_no_eviction,
    require_version,
    stored_of,
    unavailable,
    version_of,
)
from adapters.redis_parking import parked_events, written
from adapters.redis_scripts import APPLIED, APPLY, HELD, SWITCHED, Script
from bus.envelope import Recorded
from bus.follower import Position, StreamIdentity
from bus.gist import gist_of
from projections import leaderboards
from projections.boards import decode_settings
from projections.errors import Fenced, ProjectionError, Switched
from projections.generations import LIVE
from projections.leaderboards import Projector, Writes, seq_text
from projections.parking import Parked, project_or_park, ready
from projections.positions import advance, require_same_stream

HELD_LOOK_S: Final = 0.05
LOOK_EVERY_S: Final = 1.0


class LeaderboardFollower:
    """Feeds the leaderboards of one tenant: the live generation, or the one that is named."""

    name = leaderboards.NAME
    apply_every_s = 0.02
    #: What a rebuild has decoded while the store works.
    look_at: Callable[[Recorded], object] = staticmethod(gist_of)

    def __init__(self, settings: BoardsSettings, generation: str = LIVE) -> None:
        self._settings = settings
        self._generation = generation
        self._client: redis.Redis | None = None
        self._parked: dict[str, int] = {}
        self._looked_at = 0.0

    async def open(self, tenant: str, stream: StreamIdentity) -> Position:
        """Connect; returns the position stored with the boards. What was parked is tried again.

        Raises `ForeignPosition`, `SinkUnavailable`, `ProjectionError`.
        """
        await self.close()
        self._client = connect(self._settings)
        self._apply = Script(self._client, APPLY)
        try:
            await require_no_eviction(self._client)
            named = Keys(tenant, self._generation)
            self._keys = await live_keys(self._client, tenant) if self._generation == LIVE else named
            self._position = await self._open(stream, self._client)
            await self._retry_parked(self._client)
        except RedisError as err:
            await self.close()
            raise unavailable(err) from err
        except BaseException:
            await self.close()
            raise
        return self._position

    async def apply(self, records: Sequence[Recorded]) -> None:
        """Write what changes and the new position, both or neither.

        Raises `OutOfOrder`, `Fenced`, `Switched`, `Unprojectable`, `SinkUnavailable`.
        """
        after = advance(self.name, self._position, records)
        if after is self._position:
            return
        if not self._boards:
            await self._take_settings()
        is_live = self._generation == LIVE
        writes, parked = project_or_park(self.name, self._projector.project, records, self._parked, is_live=is_live)
        await self._write(writes, after, parked=parked)
        for one in parked:
            self._parked.setdefault(one.subject, one.stream_seq)

    async def idle(self) -> None:
        """Nothing waits; look now and then whether Redis still has what it was given. Raises `ProjectionError`."""
        now = asyncio.get_running_loop().time()
        if self._client is None or not self._position.stream_seq or now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        try:
            is_there = await self._client.exists(self._keys.position)
        except RedisError as err:
            raise unavailable(err) from err
        if not is_there and not await self._is_replaced(self._client):
            raise _moved(self._position.stream_seq, 0)

    async def _is_replaced(self, client: redis.Redis) -> bool:
        """Whether another generation went live; then ours may have been dropped."""
        return self._generation == LIVE and await live_keys(client, self._keys.tenant) != self._keys

    async def close(self) -> None:
        """Let go of the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _open(self, stream: StreamIdentity, client: redis.Redis) -> Position:
        """Read where the generation stands, and by which settings of the boards it was made."""
        stored = await stored_of(client, self._keys)
        self._boards = ""
        if stored is None:
            return require_same_stream(self.name, None, stream)
        require_version(stored.version)
        self._version, self._boards = stored.version, stored.boards
        self._projector = Projector(decode_settings(self._boards))
        return require_same_stream(self.name, stored.position, stream)

    async def _take_settings(self) -> None:
        """A generation is made by the settings that the tenant has when its first event comes."""
        client = await jetstream.connect(self._settings.nats_url, "tally-boards")
        try:
            version, body = await read_setting(client, self._keys.tenant, BOARDS)
        finally:
            await client.close()
        self._version, self._boards = version_of(version), body.decode()
        self._projector = Projector(decode_settings(body))

    async def _retry_parked(self, client: redis.Redis) -> None:
        """Apply the parked events that can be projected now, each aggregate in order and in one step."""
        self._parked = {}
        if not self._boards:
            return
        parked = await parked_events(client, self._keys)
        for subject, writes in ready(self._projector.project, parked):
            released = [one.stream_seq for one in parked if one.subject == subject]
            await self._write(writes, self._position, released=released)
            parked = [one for one in parked if one.subject != subject]
        for one in parked:
            self._parked.setdefault(one.subject, one.stream_seq)

    async def _write(
        self, writes: Writes, after: Position, *, parked: Sequence[Parked] = (), released: Sequence[int] = ()
    ) -> None:
        before = self._position
        keys = (self._keys.position, self._keys.live, self._keys.hold)
        arguments = (
            *(before.stream_created, before.stream_seq, before.leaf_hash),
            *(after.stream_created, after.stream_seq, after.leaf_hash),
            self._keys.generation if self._generation == LIVE else "",
            self._version,
            self._boards,
            self._keys.prefix,
            pack(writes, parked, released),
        )
        try:
            done, found = await self._apply(keys, arguments)
            while done == HELD:  # a rebuild compares: seconds
                await asyncio.sleep(HELD_LOOK_S)
                done, found = await self._apply(keys, arguments)
        except RedisError as err:
            raise unavailable(err) from err
        if done == SWITCHED:
            raise Switched(self.name)
        if done != APPLIED:
            raise _moved(before.stream_seq, int(found))
        self._position = after


def _moved(expected: int, found: int) -> ProjectionError:
    if found == 0:
        return ProjectionError(
            f"{leaderboards.NAME}: Redis lost its data, or another one answers: it is at 0, wanted {expected}; "
            "nothing to do, it is filled again from event 1"
        )
    return Fenced(leaderboards.NAME, expected, found)


def pack(writes: Writes, parked: Sequence[Parked], released: Sequence[int]) -> bytes:
    """The writes as the script takes them."""
    profiles = [text for player, (region, cohort) in writes.profiles.items() for text in (player, f"{region}|{cohort}")]
    boards = []
    for name, changes in writes.boards.items():
        values = changes.by_player.values()
        boards.append(
            (
                name,
                changes.is_best,
                changes.profile,
                list(changes.by_player),
                [value for value, _ in values],
                [seq_text(seq) for _, seq in values],
            )
        )
    return msgspec.msgpack.encode((profiles, boards, written(parked), [str(seq) for seq in released]))
