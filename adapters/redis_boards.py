"""Leaderboards in Redis or Valkey: scores and position written by one script, ranks read by another.

Keys of a tenant share the hash tag `{tally:<tenant>}`, so that a cluster keeps them in one slot:
    {tally:boston}:boards:live                  name of the generation that readers see; absent: 1
    {tally:boston}:boards:previous              the one that they saw before
    {tally:boston}:boards:hold                  while it is there (seconds), the live generation stands still
    {tally:boston}:boards:1:position            hash: stream_created, stream_seq, leaf_hash, version of the projector
    {tally:boston}:boards:1:members:<metric>    hash: player -> member
    {tally:boston}:boards:1:board:<board>       sorted set: member -> score
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, Self, cast

import msgspec
import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from bus.envelope import Recorded
from bus.follower import Position, StreamIdentity
from projections import leaderboards
from projections.errors import Fenced, NotFound, ProjectionError, SinkUnavailable, Switched
from projections.generations import LIVE
from projections.leaderboards import XP, Board, Scores, quest_metric
from projections.positions import advance, require_same_stream
from projections.reconciliation import BoardSums

FIRST_GENERATION: Final = "1"
DEADLINE_S: Final = 10.0
HELD_LOOK_S: Final = 0.05
# What the script answers.
_APPLIED, _SWITCHED, _HELD = 1, 2, 3

# KEYS: position, live, hold, then the keys that the writes refer to by index. ARGV: the expected position (created,
# seq, hash), the new one, the writes in MessagePack: [[members key, players, members, [[board key, scores, indexes of
# players]..]]..], the generation if it must be the live one (else ''), the projector's version.
# A player's former member leaves a board in the same step. 3,500 pairs stay below Lua's limit of 8,000 values a call.
_APPLY: Final = """
if ARGV[8] ~= '' then
  if (redis.call('GET', KEYS[2]) or '1') ~= ARGV[8] then return {2, '0'} end
  if redis.call('EXISTS', KEYS[3]) == 1 then return {3, '0'} end
end
local stored = redis.call('HMGET', KEYS[1], 'stream_created', 'stream_seq', 'leaf_hash')
if (stored[1] or ARGV[1]) ~= ARGV[1] or (stored[2] or '0') ~= ARGV[2] or (stored[3] or '') ~= ARGV[3] then
  return {0, stored[2] or '0'}
end
local CHUNK = 3500
for _, metric in ipairs(cmsgpack.unpack(ARGV[7])) do
  local key, players, members, boards = KEYS[metric[1]], metric[2], metric[3], metric[4]
  local former = {}
  for from = 1, #players, CHUNK do
    local upto = math.min(from + CHUNK - 1, #players)
    local found = redis.call('HMGET', key, unpack(players, from, upto))
    local pairs_ = {}
    for i = from, upto do
      former[i] = found[i - from + 1]
      pairs_[#pairs_ + 1] = players[i]
      pairs_[#pairs_ + 1] = members[i]
    end
    redis.call('HSET', key, unpack(pairs_))
  end
  for _, board in ipairs(boards) do
    local scores, indexes = board[2], board[3]
    for from = 1, #indexes, CHUNK do
      local upto = math.min(from + CHUNK - 1, #indexes)
      local added, gone = {}, {}
      for i = from, upto do
        local player = indexes[i]
        added[#added + 1] = scores[i]
        added[#added + 1] = members[player]
        if former[player] and former[player] ~= members[player] then gone[#gone + 1] = former[player] end
      end
      if #gone > 0 then redis.call('ZREM', KEYS[board[1]], unpack(gone)) end
      redis.call('ZADD', KEYS[board[1]], unpack(added))
    end
  end
end
redis.call('HSET', KEYS[1], 'stream_created', ARGV[4], 'stream_seq', ARGV[5], 'leaf_hash', ARGV[6])
redis.call('HSETNX', KEYS[1], 'version', ARGV[9])
return {1, ARGV[5]}
"""

# KEYS: members of the metric, board. ARGV: player, how many above, how many below. Returns the player's place from 0,
# the place of the first line, the size of the board, and the lines as member, score, member, score ..
_AROUND: Final = """
local member = redis.call('HGET', KEYS[1], ARGV[1])
if not member then return false end
local place = redis.call('ZRANK', KEYS[2], member)
if not place then return false end
local from = math.max(0, place - tonumber(ARGV[2]))
local lines = redis.call('ZRANGE', KEYS[2], from, place + tonumber(ARGV[3]), 'WITHSCORES')
return {place, from, redis.call('ZCARD', KEYS[2]), lines}
"""


class RedisSettings(Protocol):
    """What the boards need to know of an installation."""

    @property
    def redis_url(self) -> str: ...


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a leaderboard: place from 1, and elapsed_ms or XP as the board has it."""

    place: int
    player: str
    score: int


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

    def members(self, metric: str) -> str:
        """The hash from player to member."""
        return f"{self.prefix}members:{metric}"

    def board(self, board: str) -> str:
        """The sorted set of a board."""
        return f"{self.prefix}board:{board}"


class Script:
    """A script called by its digest; loaded when the server does not know it (restart, failover, flush)."""

    def __init__(self, client: redis.Redis, text: str) -> None:
        self._client = client
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        try:
            return await self._client.evalsha(self._digest, len(keys), *keys, *arguments)
        except NoScriptError:
            await self._client.script_load(self._text)
            return await self._client.evalsha(self._digest, len(keys), *keys, *arguments)


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


def pack(keys: Keys, scores: Scores) -> tuple[list[str], bytes]:
    """The keys that the scores touch, and the writes for the script."""
    touched = [keys.position, keys.live, keys.hold]
    metrics = []
    for metric, by_player in scores.items():
        touched.append(keys.members(metric))
        members_at = len(touched)
        boards: dict[str | None, tuple[list[str], list[int]]] = {None: ([], [])}
        for index, score in enumerate(by_player.values(), 1):
            text = str(score.score)
            for division in (None, *score.divisions):
                found = boards.get(division)
                if found is None:
                    found = boards[division] = ([], [])
                found[0].append(text)
                found[1].append(index)
        packed = []
        for division, (values, indexes) in boards.items():
            touched.append(keys.board(Board(metric, division).name))
            packed.append((len(touched), values, indexes))
        metrics.append((members_at, list(by_player), [score.member for score in by_player.values()], packed))
    return touched, msgspec.msgpack.encode(metrics)


async def live_keys(client: redis.Redis, tenant: str) -> Keys:
    """The keys of the generation that readers see."""
    live = await client.get(Keys(tenant).live)
    return Keys(tenant) if live is None else Keys(tenant, str(live))


async def stored_position(client: redis.Redis, keys: Keys) -> Position | None:
    found = await cast("Awaitable[dict[str, str]]", client.hgetall(keys.position))
    if not found:
        return None
    return Position(found["stream_created"], int(found["stream_seq"]), found["leaf_hash"])


class LeaderboardFollower:
    """Feeds the leaderboards of one tenant: the live generation, or the one that is named."""

    name = leaderboards.NAME

    def __init__(self, settings: RedisSettings, generation: str = LIVE) -> None:
        self._settings = settings
        self._generation = generation
        self._client: redis.Redis | None = None

    async def open(self, tenant: str, stream: StreamIdentity) -> Position:
        """Connect; returns the position stored with the boards. Raises `ForeignPosition`, `SinkUnavailable`."""
        await self.close()
        self._client = connect(self._settings)
        self._apply = Script(self._client, _APPLY)
        try:
            named = Keys(tenant, self._generation)
            self._keys = await live_keys(self._client, tenant) if self._generation == LIVE else named
            stored = await stored_position(self._client, self._keys)
            self._position = require_same_stream(self.name, stored, stream)
        except RedisError as err:
            await self.close()
            raise unavailable(err) from err
        except ProjectionError:
            await self.close()
            raise
        return self._position

    async def apply(self, records: Sequence[Recorded]) -> None:
        """Write the scores and the new position, both or neither.

        Raises `OutOfOrder`, `Fenced`, `Switched`, `SinkUnavailable`.
        """
        before = self._position
        after = advance(self.name, before, records)
        if after is before:
            return
        touched, writes = pack(self._keys, leaderboards.project(records))
        moved = (before.stream_created, before.stream_seq, before.leaf_hash)
        moved_to = (after.stream_created, after.stream_seq, after.leaf_hash)
        must_be_live = self._keys.generation if self._generation == LIVE else ""
        arguments = (*moved, *moved_to, writes, must_be_live, leaderboards.VERSION)
        try:
            done, found = await self._apply(touched, arguments)
            while done == _HELD:  # a rebuild compares: seconds
                await asyncio.sleep(HELD_LOOK_S)
                done, found = await self._apply(touched, arguments)
        except RedisError as err:
            raise unavailable(err) from err
        if done == _SWITCHED:
            raise Switched(self.name)
        if done != _APPLIED:
            raise Fenced(self.name, before.stream_seq, int(found))
        self._position = after

    async def idle(self) -> None:
        """Nothing waits: every batch is written at once."""

    async def close(self) -> None:
        """Let go of the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class Boards:
    """The leaderboards of one tenant as people and services read them; over a client of its own, or over yours."""

    def __init__(self, source: RedisSettings | redis.Redis, tenant: str, generation: str = LIVE) -> None:
        self._client = source if isinstance(source, redis.Redis) else connect(source)
        self._tenant = tenant
        self._generation = generation
        self._around = Script(self._client, _AROUND)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._client.aclose()

    async def position(self) -> Position | None:
        """Where the live generation stands, None before the first event."""
        try:
            return await stored_position(self._client, await self._keys())
        except RedisError as err:
            raise unavailable(err) from err

    async def top(self, board: Board, lines_max: int, first: int = 0) -> list[Standing]:
        """The best, from place `first + 1` on; empty when nobody is ranked."""
        try:
            keys = await self._keys()
            found: Any = await self._client.zrange(
                keys.board(board.name), first, first + lines_max - 1, withscores=True, score_cast_func=int
            )
        except RedisError as err:
            raise unavailable(err) from err
        return [_standing(board, first + at, member, score) for at, (member, score) in enumerate(found)]

    async def size(self, board: Board) -> int:
        """How many are ranked."""
        try:
            return int(await self._client.zcard((await self._keys()).board(board.name)))
        except RedisError as err:
            raise unavailable(err) from err

    async def rank(self, board: Board, player: str) -> tuple[Standing, int]:
        """The player's line and the size of the board; raises `NotFound` for who is not ranked."""
        lines, size = await self.around(board, player, 0)
        return lines[0], size

    async def around(self, board: Board, player: str, lines: int) -> tuple[list[Standing], int]:
        """The player's line with so many above and below, and the size of the board; raises `NotFound`."""
        try:
            keys = await self._keys()
            found = await self._around((keys.members(board.metric), keys.board(board.name)), (player, lines, lines))
        except RedisError as err:
            raise unavailable(err) from err
        if not found:
            message = f"player {player} is not ranked in {board.name}; see `tally player {player}` for what is known"
            raise NotFound(message)
        _, first, size, flat = found
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return [_standing(board, first + at, member, int(score)) for at, (member, score) in enumerate(pairs)], size

    async def sums(self, quests: Iterable[str]) -> BoardSums | None:
        """All XP and the finishers of these quests, None when the position moved meanwhile."""
        before = await self.position()
        xp = await self._total(Board(XP))
        ranked = {quest: await self.size(Board(quest_metric(quest))) for quest in quests}
        if await self.position() != before:
            return None
        return BoardSums(stream_seq=before.stream_seq if before else 0, xp=xp, ranked=ranked)

    async def _total(self, board: Board) -> int:
        """The sum of all scores of a board, read in pages."""
        page, first, total = 10_000, 0, 0
        while lines := await self.top(board, page, first):
            total += sum(line.score for line in lines)
            first += len(lines)
        return total

    async def _keys(self) -> Keys:
        if self._generation == LIVE:
            return await live_keys(self._client, self._tenant)
        return Keys(self._tenant, self._generation)


def _standing(board: Board, at: int, member: str, score: int) -> Standing:
    return Standing(
        place=at + 1,
        player=leaderboards.player_of(member),
        score=-score if board.is_descending else score,
    )


async def read_position(settings: RedisSettings, tenant: str) -> Position | None:
    """Where the leaderboards stand, None before the first event; raises `SinkUnavailable`."""
    async with Boards(settings, tenant) as boards:
        return await boards.position()
