"""Generations of the leaderboards: compared with the live one while that stands still, switched by a pointer."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

import redis.asyncio as redis
from redis.exceptions import RedisError

from adapters import redis_parking
from adapters.ending import ended
from adapters.jetstream import connection as jetstream
from adapters.jetstream.settings import BOARDS, read_setting
from adapters.redis_boards import LeaderboardFollower
from adapters.redis_keys import BoardsSettings, Keys, connect, live_keys, stored_of, unavailable, version_of
from adapters.redis_scripts import Script
from projections import leaderboards
from projections.errors import RebuildRefused
from projections.generations import LIVE, NEXT, PREVIOUS, RowsHash, Standing, State

PAGE: Final = 5_000
HOLD_MS: Final = 10_000
HOLD_AGAIN_S: Final = 2.0
#: What stands beside the rows, and which of these are sorted sets.
_BESIDES: Final = ("position", "boards", "parked")
_SORTED: Final = ("board:", "scores:")

# KEYS: live, previous, hold. ARGV: the hold's token, the live one, the other. The other goes live if the hold is still
# ours: then nothing was written to the live one since the other came as far. That becomes the previous one.
_SWITCH: Final = """
if redis.call('GET', KEYS[3]) ~= ARGV[1] or (redis.call('GET', KEYS[1]) or '1') ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('SET', KEYS[1], ARGV[3])
redis.call('DEL', KEYS[3])
return 1
"""
_LET_GO: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class BoardGenerations:
    """The generations of one tenant's leaderboards."""

    name = leaderboards.NAME

    def __init__(self, settings: BoardsSettings, tenant: str) -> None:
        self._settings = settings
        self._tenant = tenant
        self.version = version_of(0)

    async def prepare(self) -> None:
        """Learn by which settings of the boards a new generation is made; keys come with the first write."""
        client = await jetstream.connect(self._settings.nats_url, "tally-boards")
        try:
            self.version = version_of((await read_setting(client, self._tenant, BOARDS)).version)
        finally:
            await client.close()

    async def follower(self, generation: str) -> LeaderboardFollower:
        """What feeds a generation that is not live."""
        async with self._client() as client:
            return LeaderboardFollower(self._settings, (await self._keys(client, generation)).generation)

    async def standing(self, generation: str) -> Standing | None:
        """Where a generation stands; None when there is none."""
        async with self._client() as client:
            return await _standing(client, await self._keys(client, generation))

    async def state(self, generation: str) -> State:
        """What a generation holds; it must stand still."""
        async with self._client() as client:
            return await _state(client, await self._keys(client, generation))

    @asynccontextmanager
    async def live_at_rest(self) -> AsyncIterator[State]:
        """What the live generation holds; it stands still until the block ends."""
        async with self._client() as client, self._held(client):
            yield await _state(client, await live_keys(client, self._tenant))

    async def switch(self, generation: str, feed: Callable[[int], Awaitable[None]]) -> None:
        """Let a generation go live; `feed` is told how far it must come. Raises `RebuildRefused`."""
        async with self._client() as client, self._held(client) as token:
            live = await live_keys(client, self._tenant)
            other = await self._keys(client, generation)
            standing = await _standing(client, live)
            await feed(standing.position.stream_seq if standing else 0)
            before = await client.get(live.previous)
            keys = (live.live, live.previous, live.hold)
            if not await Script(client, _SWITCH)(keys, (token, live.generation, other.generation)):
                raise RebuildRefused(f"{self.name}: the live one moved on while the other went live; try again")
            if before is not None and before != other.generation:
                await _drop(client, Keys(self._tenant, str(before)))

    async def drop(self, generation: str) -> None:
        """Remove a generation that is not live."""
        async with self._client() as client:
            await _drop(client, await self._keys(client, generation))

    async def _keys(self, client: redis.Redis, generation: str) -> Keys:
        """Generations that were or will be live are numbered; `next` has the number above both."""
        live = await live_keys(client, self._tenant)
        previous = await client.get(live.previous)
        if generation == LIVE:
            return live
        if generation == NEXT:
            return Keys(self._tenant, str(max(int(live.generation), int(previous or 0)) + 1))
        if generation != PREVIOUS:
            return Keys(self._tenant, generation)
        if previous is None:
            raise RebuildRefused(f"{self.name} of {self._tenant} has no previous generation to go back to")
        return Keys(self._tenant, str(previous))

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[redis.Redis]:
        client = connect(self._settings)
        try:
            yield client
        except RedisError as err:
            raise unavailable(err) from err
        finally:
            await client.aclose()

    @asynccontextmanager
    async def _held(self, client: redis.Redis) -> AsyncIterator[str]:
        """Keep the live generation where it is; a hold that nobody renews ends by itself."""
        hold, token = Keys(self._tenant).hold, secrets.token_hex(8)
        if not await client.set(hold, token, nx=True, px=HOLD_MS):
            raise RebuildRefused(f"{self.name} of {self._tenant} stands still for another rebuild; try again in 10 s")
        renewing = asyncio.create_task(_renew(client, hold))
        try:
            yield token
        finally:
            await ended(renewing)
            with suppress(RedisError):
                await Script(client, _LET_GO)((hold,), (token,))


async def _renew(client: redis.Redis, hold: str) -> None:
    while await client.pexpire(hold, HOLD_MS):  # noqa: ASYNC110 - the key is asked, not a task
        await asyncio.sleep(HOLD_AGAIN_S)


async def _standing(client: redis.Redis, keys: Keys) -> Standing | None:
    stored = await stored_of(client, keys)
    if stored is None:
        return None
    parked = await redis_parking.summary(client, keys)
    return Standing(position=stored.position, version=stored.version, parked=parked)


async def _drop(client: redis.Redis, keys: Keys) -> None:
    found = await _names(client, keys)
    for first in range(0, len(found), PAGE):
        await client.unlink(*found[first : first + PAGE])


async def _names(client: redis.Redis, keys: Keys) -> list[str]:
    return sorted({str(name) async for name in client.scan_iter(match=f"{keys.prefix}*", count=PAGE)})


async def _state(client: redis.Redis, keys: Keys) -> State:
    """A row of a sorted set or a hash: table, key, value, with U+001F between."""
    standing = await _standing(client, keys)
    rows, hashes = {}, {}
    for key in await _names(client, keys):
        table = key.removeprefix(keys.prefix)
        if table in _BESIDES:
            continue
        found = RowsHash()
        pages = _sorted_set(client, key) if table.startswith(_SORTED) else _hash(client, key)
        async for page in pages:
            found.add(f"{table}\x1f{name}\x1f{value}".encode() for name, value in page)
        rows[table], hashes[table] = found.rows, found.hex
    seq = standing.position.stream_seq if standing else 0
    return State(stream_seq=seq, version=standing.version if standing else version_of(0), rows=rows, hashes=hashes)


async def _sorted_set(client: redis.Redis, key: str) -> AsyncIterator[list[tuple[str, int]]]:
    first = 0
    while page := await client.zrange(key, first, first + PAGE - 1, withscores=True, score_cast_func=int):
        yield cast("list[tuple[str, int]]", page)
        first += len(page)


async def _hash(client: redis.Redis, key: str) -> AsyncIterator[list[tuple[str, str]]]:
    """In portions; a scan may bring a field twice, it counts once."""
    seen: set[str] = set()
    cursor = -1
    while cursor != 0:
        answer: Any = await client.hscan(key, max(0, cursor), count=PAGE)
        cursor, found = answer
        yield [(name, value) for name, value in found.items() if name not in seen]
        seen.update(found)
