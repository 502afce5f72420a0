"""The leaderboards as people and services read them: lines, ranks, neighbours, friends, percentiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Final, Protocol, Self, cast

import msgspec
import redis.asyncio as redis
from redis.exceptions import RedisError

from adapters.redis_keys import (
    Keys,
    RedisSettings,
    Stored,
    connect,
    live_keys,
    require_version,
    stored_of,
    unavailable,
)
from adapters.redis_scripts import LINES, PLACES, WHOLE, Script
from bus.follower import Position
from projections.boards import (
    Board,
    BoardSettings,
    Dimension,
    decode_settings,
    find_board,
    quest_board,
    xp_board,
)
from projections.errors import NotFound
from projections.generations import LIVE
from projections.leaderboards import apart, player_of
from projections.reconciliation import BoardSums

FRIENDS_MAX: Final = 500
_BASIS_POINTS: Final = 10_000


class Asked(Protocol):
    """How a board is asked for; without `board`: the times of `quest`, in a division if one is named, else the XP."""

    @property
    def board(self) -> str | None: ...
    @property
    def quest(self) -> str | None: ...
    @property
    def division(self) -> str | None: ...
    @property
    def region(self) -> str | None: ...
    @property
    def cohort(self) -> str | None: ...
    @property
    def window(self) -> str | None: ...


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a leaderboard.

    `place` from 1 is unique, equal scores standing in the order in which they were reached; `rank` is the same for
    equal scores and leaves a gap behind them (1, 1, 3), `dense_rank` leaves none (1, 1, 2).
    """

    place: int
    rank: int
    dense_rank: int
    player: str
    score: int


class Friend(msgspec.Struct, frozen=True, kw_only=True):
    """A player among others that were named: `rank` and `dense_rank` among these.

    Equal scores stand in the order in which they were reached. `place` is that on the whole board, when asked for.
    """

    rank: int
    dense_rank: int
    player: str
    score: int
    place: int | None = None


class Rank(msgspec.Struct, frozen=True, kw_only=True):
    """A player's line, and how it lies among `size`: so many better, equal (oneself among them), worse.

    `percentile_bp` is the percentile rank in hundredths of a percent: those who are worse and half of the equal ones.
    """

    line: Standing
    size: int
    better: int
    equal: int
    worse: int
    percentile_bp: int


class Boards:
    """The leaderboards of one tenant; over a client of its own, or over yours."""

    def __init__(self, source: RedisSettings | redis.Redis, tenant: str, generation: str = LIVE) -> None:
        self._client = source if isinstance(source, redis.Redis) else connect(source)
        self._tenant = tenant
        self._generation = generation
        self._checked: Keys | None = None
        self._lines = Script(self._client, LINES)
        self._places = Script(self._client, PLACES)
        self._whole = Script(self._client, WHOLE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._client.aclose()

    async def position(self) -> Position | None:
        """Where the generation stands, None before the first event."""
        try:
            stored = await stored_of(self._client, await self._named())
        except RedisError as err:
            raise unavailable(err) from err
        return stored.position if stored else None

    async def settings(self) -> BoardSettings:
        """The boards that the generation was made with; those that every tenant has, before the first event."""
        try:
            stored = await self._require(await self._named())
        except RedisError as err:
            raise unavailable(err) from err
        return _settings_of(stored.boards if stored else "{}")

    async def find(self, asked: Asked) -> Board:
        """The board that is asked for; raises `NotFound`, `WrongBoard`."""
        name = asked.board or ("xp" if asked.quest is None else "quest" if asked.division is None else "division")
        given: dict[Dimension, str | None] = {
            "quest": asked.quest,
            "division": asked.division,
            "region": asked.region,
            "cohort": asked.cohort,
        }
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M")
        return find_board(await self.settings(), name, asked.window, given, now)

    async def names(self) -> list[str]:
        """Every board on which somebody stands, past windows among them."""
        try:
            found: Any = await cast("Any", self._client.smembers((await self._keys()).boards))
        except RedisError as err:
            raise unavailable(err) from err
        return sorted(found)

    async def page(self, board: Board, first: int, lines: int) -> tuple[list[Standing], int]:
        """So many lines from place `first + 1` on, and how many are ranked."""
        found = await self._ask(self._lines, board, ("", first, lines))
        return _standings(board, found), found[0]

    async def top(self, board: Board, lines_max: int, first: int = 0) -> list[Standing]:
        """The best, from place `first + 1` on; empty when nobody is ranked."""
        return (await self.page(board, first, lines_max))[0]

    async def size(self, board: Board) -> int:
        """How many are ranked."""
        try:
            return int(await self._client.zcard((await self._keys()).board(board.name)))
        except RedisError as err:
            raise unavailable(err) from err

    async def rank(self, board: Board, player: str) -> Rank:
        """The player's line and how it lies among the others; raises `NotFound` for who is not ranked."""
        found = await self._player(board, player, 0)
        size, _, better, upto = found[:4]
        equal = upto - better
        worse = size - upto
        percentile = _BASIS_POINTS * (2 * worse + equal) // (2 * size)
        (line,) = _standings(board, found)
        return Rank(line=line, size=size, better=better, equal=equal, worse=worse, percentile_bp=percentile)

    async def around(self, board: Board, player: str, lines: int) -> tuple[list[Standing], int]:
        """The player's line with so many above and below, and the size of the board; raises `NotFound`."""
        found = await self._player(board, player, lines)
        return _standings(board, found), found[0]

    async def friends(
        self, board: Board, players: Sequence[str], *, with_places: bool = False
    ) -> tuple[list[Friend], int]:
        """These players in the order of the board, as far as they are ranked, and the board's size.

        Their places on the whole board cost a search for each player.
        """
        named = list(dict.fromkeys(players))
        if not named:
            return [], await self.size(board)
        if with_places:
            size, standings, places = await self._ask(self._places, board, named)
        else:
            (size, standings), places = await self._standings(board, named), ()
        known = [(*apart(text), player) for text, player in zip(standings, named, strict=True) if text is not None]
        ranked = sorted((int(score), seq, player, at) for (seq, score, player), at in zip_longest(known, places))
        lines: list[Friend] = []
        rank = dense = 0
        for at, (stored, _, player, place) in enumerate(ranked, 1):
            score = _score(board, stored)
            if not lines or score != lines[-1].score:
                rank, dense = at, dense + 1
            on_board = None if place is None else place + 1
            lines.append(Friend(rank=rank, dense_rank=dense, player=player, score=score, place=on_board))
        return lines, size

    async def at_one_moment(self, boards: Sequence[Board]) -> tuple[int, list[list[tuple[str, int]]]]:
        """Players and scores of whole boards, and the position at which all of them stand."""
        try:
            keys = await self._keys()
            stream_seq, *found = await self._whole((keys.position, *(keys.board(board.name) for board in boards)), ())
        except RedisError as err:
            raise unavailable(err) from err
        lines = []
        for board, text in zip(boards, found, strict=True):
            words = text.split()
            pairs = zip(words[::2], words[1::2], strict=True)
            lines.append([(player_of(member), _score(board, score)) for member, score in pairs])
        return int(stream_seq), lines

    async def sums(self, quests: Iterable[str]) -> BoardSums | None:
        """All XP and the finishers of these quests, None when the position moved meanwhile."""
        before = await self.position()
        xp = await self._total(xp_board())
        ranked = {quest: await self.size(quest_board(quest)) for quest in quests}
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

    async def _player(self, board: Board, player: str, lines: int) -> Any:
        found = await self._ask(self._lines, board, (player, lines, lines))
        if not found:
            raise NotFound(
                f"player {player} is not ranked in {board.name}; see `tally player {player}` for what is known"
            )
        return found

    async def _ask(self, script: Script, board: Board, arguments: Sequence[str | int]) -> Any:
        try:
            return await script((await self._keys()).of_board(board.name), arguments)
        except RedisError as err:
            raise unavailable(err) from err

    async def _standings(self, board: Board, players: Sequence[str]) -> Any:
        """The size and the players' standings at one moment."""
        try:
            members, ranked, _ = (await self._keys()).of_board(board.name)
            together: Any = self._client.pipeline(transaction=True)
            return await together.zcard(ranked).hmget(members, players).execute()
        except RedisError as err:
            raise unavailable(err) from err

    async def _keys(self) -> Keys:
        keys = await self._named()
        if keys != self._checked:
            await self._require(keys)
        return keys

    async def _named(self) -> Keys:
        if self._generation == LIVE:
            return await live_keys(self._client, self._tenant)
        return Keys(self._tenant, self._generation)

    async def _require(self, keys: Keys) -> Stored | None:
        """What a generation says of itself; raises `ProjectionError` for one that another version made."""
        stored = await stored_of(self._client, keys)
        if stored is not None:
            require_version(stored.version)
            self._checked = keys
        return stored


@lru_cache(maxsize=256)
def _settings_of(body: str) -> BoardSettings:
    """A generation never changes its settings: they are read once, not for every question."""
    return decode_settings(body)


def _standings(board: Board, found: Any) -> list[Standing]:
    """The lines of a script's answer with their ranks, which follow from those of the first."""
    _, _, _, _, from_, rank, dense, flat = found
    lines, before = [], flat[1] if flat else ""
    for at, (member, score) in enumerate(zip(flat[::2], flat[1::2], strict=True)):
        if score != before:
            rank, dense, before = from_ + at, dense + 1, score
        lines.append(
            Standing(
                place=from_ + at + 1,
                rank=rank + 1,
                dense_rank=dense + 1,
                player=player_of(member),
                score=_score(board, score),
            )
        )
    return lines


def _score(board: Board, stored: str | int) -> int:
    return -int(stored) if board.is_descending else int(stored)


async def read_position(settings: RedisSettings, tenant: str) -> Position | None:
    """Where the leaderboards stand, None before the first event; raises `SinkUnavailable`."""
    async with Boards(settings, tenant) as boards:
        return await boards.position()
