"""Redis or Valkey for the leaderboards: the connection, its failures as one line, the keys, the position.

Keys of a tenant share the hash tag `{tally:<tenant>}`, so that a cluster keeps them in one slot:
    {tally:boston}:boards:live                  name of the generation that readers see; absent: 1
    {tally:boston}:boards:previous              the one that they saw before
    {tally:boston}:boards:hold                  while it is there (seconds), the live generation stands still
    {tally:boston}:boards:1:position            hash: stream_created, stream_seq, leaf_hash, version, boards (settings)
    {tally:boston}:boards:1:boards              set: the names of all boards
    {tally:boston}:boards:1:profiles            hash: player -> region|cohort, when a board needs them
    {tally:boston}:boards:1:parked              hash: stream_seq -> an event that waits, and why
    {tally:boston}:boards:1:members:<board>     hash: player -> stream_seq of the event that brought the score; score
    {tally:boston}:boards:1:board:<board>       sorted set: that stream_seq and player -> score
    {tally:boston}:boards:1:scores:<board>      sorted set: each score once, for ranks without gaps
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final, Protocol, cast

import msgspec
import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from bus.follower import Position
from projections.errors import ProjectionError, SinkUnavailable
from projections.leaderboards import NAME, VERSION

FIRST_GENERATION: Final = "1"
DEADLINE_S: Final = 10.0
#: A generation's version says by which projector and by which settings of the boards it was made.
_OF_SETTINGS: Final = 1_000_000


class RedisSettings(Protocol):
    """What reading the boards needs to know of an installation."""

    @property
    def redis_url(self) -> str: ...


class BoardsSettings(RedisSettings, Protocol):
    """What feeding them needs besides: where the settings of the boards are."""

    @property
    def nats_url(self) -> str: ...


class Keys(msgspec.Struct, frozen=True):
    """The keys of one generation of a tenant's boards."""

    tenant: str
    generation: str = FIRST_GENERATION

    @property
    def live(self) -> str:
        """Where readers look up the generation."""
        return f"{{tally:{self.tenant}}}:boards:live"

    @property
    def previous(self) -> str:
        """The generation that was live before."""
        return f"{{tally:{self.tenant}}}:boards:previous"

    @property
    def hold(self) -> str:
        """While it is there, the live generation stands still."""
        return f"{{tally:{self.tenant}}}:boards:hold"

    @property
    def prefix(self) -> str:
        """What all keys of the generation begin with."""
        return f"{{tally:{self.tenant}}}:boards:{self.generation}:"

    @property
    def position(self) -> str:
        """The hash that holds the position."""
        return f"{self.prefix}position"

    @property
    def boards(self) -> str:
        """The names of all boards."""
        return f"{self.prefix}boards"

    @property
    def parked(self) -> str:
        """The events that wait."""
        return f"{self.prefix}parked"

    def board(self, name: str) -> str:
        """The sorted set of a board."""
        return f"{self.prefix}board:{name}"

    def of_board(self, name: str) -> tuple[str, str, str]:
        """Members, sorted set and scores of a board, as the scripts want them."""
        return f"{self.prefix}members:{name}", self.board(name), f"{self.prefix}scores:{name}"


class Stored(msgspec.Struct, frozen=True):
    """What a generation says of itself: its position, its version, the settings of its boards as JSON."""

    position: Position
    version: int
    boards: str


def connect(settings: RedisSettings) -> redis.Redis:
    """A client with a deadline on every wait, and no retries of its own: first look, then write again."""
    return redis.Redis.from_url(
        settings.redis_url,
        decode_responses=True,
        socket_timeout=DEADLINE_S,
        socket_connect_timeout=DEADLINE_S,
        retry=None,
    )


@asynccontextmanager
async def shared_client(settings: RedisSettings) -> AsyncIterator[redis.Redis]:
    """A client for the queries of a process."""
    client = connect(settings)
    try:
        yield client
    finally:
        await client.aclose()


def unavailable(err: RedisError) -> ProjectionError:
    """A failure of the server as one line."""
    said = " ".join(str(err).split())[:200]
    if isinstance(err, (RedisConnectionError, RedisTimeoutError)):
        return SinkUnavailable(f"Redis does not answer ({said}); start it, or correct TALLY_REDIS_URL")
    return SinkUnavailable(f"Redis refuses: {said}; free memory or make it writable, then it goes on by itself")


async def require_no_eviction(client: redis.Redis) -> None:
    """Refuse a server that may throw boards away to make room; raises `ProjectionError`."""
    found = await client.info("memory")
    policy = str(found.get("maxmemory_policy", ""))
    if int(found.get("maxmemory", 0)) and policy.startswith("allkeys"):
        raise ProjectionError(
            f"{NAME}: Redis has maxmemory-policy {policy}, which throws boards away when memory is short and nobody "
            "notices: set noeviction (or a volatile one: boards never expire)"
        )


async def live_keys(client: redis.Redis, tenant: str) -> Keys:
    """The keys of the generation that readers see."""
    live = await client.get(Keys(tenant).live)
    return Keys(tenant) if live is None else Keys(tenant, str(live))


async def stored_of(client: redis.Redis, keys: Keys) -> Stored | None:
    """What a generation says of itself, None when there is none."""
    found = await cast("Awaitable[dict[str, str]]", client.hgetall(keys.position))
    if not found:
        return None
    position = Position(found["stream_created"], int(found["stream_seq"]), found["leaf_hash"])
    return Stored(position, int(found.get("version", "1")), found.get("boards", "{}"))


def version_of(settings_version: int) -> int:
    """The version of a generation that is made now, by these settings."""
    return VERSION * _OF_SETTINGS + settings_version


def require_version(version: int) -> None:
    """Refuse a generation that another version of the projector made; raises `ProjectionError`."""
    made_by = version // _OF_SETTINGS
    if made_by < VERSION:
        raise ProjectionError(
            f"{NAME}: made by version {max(1, made_by)} of the projector, this one is {VERSION}: replace it "
            f"(tally rebuild {NAME} --accept)"
        )
    if made_by > VERSION:
        raise ProjectionError(
            f"{NAME}: made by version {made_by} of the projector, this is {VERSION}: upgrade tallyroot"
        )
