"""Leaderboards over NATS: the best, a player's rank, the neighbours."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from adapters.queries.endpoint import Asked, endpoint
from adapters.redis_boards import Boards, Standing, shared_client
from bus.queries import Request
from projections.leaderboards import XP, Board, quest_metric

Token = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
LinesMax = Annotated[int, msgspec.Meta(ge=1, le=1_000)]


class BoardQuery(Request, frozen=True, kw_only=True):
    """Which board: by elapsed time in `quest` (in one `division`, or over all), by XP without one."""

    quest: Token | None = None
    division: Token | None = None


class Top(BoardQuery, frozen=True, kw_only=True):
    """`lines` of a board, the first of them at place `first`."""

    lines: LinesMax = 10
    first: Annotated[int, msgspec.Meta(ge=1)] = 1


class Around(BoardQuery, frozen=True, kw_only=True):
    """A player and so many above and below."""

    player: Token
    lines: Annotated[int, msgspec.Meta(ge=0, le=500)] = 3


class BoardLines(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of a board, and how many are ranked there."""

    board: str
    size: int
    lines: list[Standing]


_LINES: Final = [Standing(place=1, player="b1", score=7717200), Standing(place=2, player="b19", score=7718800)]


def _board(asked: BoardQuery) -> Board:
    return Board(XP) if asked.quest is None else Board(quest_metric(asked.quest), asked.division)


@endpoint(
    "leaderboard.top",
    example=(Top(quest="boston-2014", lines=2), BoardLines(board="quest:boston-2014", size=31931, lines=_LINES)),
)
async def top(asked: Asked[Top]) -> BoardLines:
    """The best of a board, or a page further down."""
    board = _board(asked.request)
    boards = Boards(await asked.sources.once(shared_client), asked.tenant)
    lines = await boards.top(board, asked.request.lines, asked.request.first - 1)
    return BoardLines(board=board.name, size=await boards.size(board), lines=lines)


@endpoint(
    "leaderboard.around",
    example=(Around(player="b1", lines=1), BoardLines(board="xp", size=31931, lines=_LINES)),
)
async def around(asked: Asked[Around]) -> BoardLines:
    """A player's place and score with the neighbours; `lines` 0 for the player alone."""
    board = _board(asked.request)
    boards = Boards(await asked.sources.once(shared_client), asked.tenant)
    lines, size = await boards.around(board, asked.request.player, asked.request.lines)
    return BoardLines(board=board.name, size=size, lines=lines)


ENDPOINTS: Final = (top, around)
