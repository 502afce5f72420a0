"""Leaderboards over NATS: lines, a player's rank, neighbours, friends, and which boards there are."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from adapters.queries.endpoint import Asked, endpoint
from adapters.redis_keys import shared_client
from adapters.redis_ranks import FRIENDS_MAX, Boards, Friend, Rank, Standing
from bus.queries import Request
from domain.values import Token
from projections.boards import Board, BoardSettings, Definition


class BoardQuery(Request, frozen=True, kw_only=True):
    """Which board: its name and the values of its scope; a past `window` (`2014-04-21`, `2014-W17`, `2014-04`).

    Without a name: the times of `quest`, in a `division` if one is named, else everybody's XP.
    """

    board: Token | None = None
    quest: Token | None = None
    division: Token | None = None
    region: Token | None = None
    cohort: Token | None = None
    window: Token | None = None


class Top(BoardQuery, frozen=True, kw_only=True):
    """`lines` of a board, the first of them at place `first`."""

    lines: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 10
    first: Annotated[int, msgspec.Meta(ge=1)] = 1


class RankOf(BoardQuery, frozen=True, kw_only=True):
    """Whose rank."""

    player: Token


class Around(BoardQuery, frozen=True, kw_only=True):
    """A player and so many above and below."""

    player: Token
    lines: Annotated[int, msgspec.Meta(ge=0, le=500)] = 3


class Friends(BoardQuery, frozen=True, kw_only=True):
    """The players to rank among each other; `places`: say where each of them stands on the whole board, too."""

    players: Annotated[list[Token], msgspec.Meta(min_length=1, max_length=FRIENDS_MAX)]
    places: bool = False


class AllBoards(Request, frozen=True, kw_only=True):
    """`past` names every board on which somebody stands, each window and value of a scope."""

    past: bool = False


class BoardLines(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of a board in its order, and how many are ranked there."""

    board: str
    size: int
    lines: list[Standing]


class BoardFriends(msgspec.Struct, frozen=True, kw_only=True):
    """Some players in the order of a board, with their ranks among each other, and how many are ranked there."""

    board: str
    size: int
    lines: list[Friend]


class BoardRank(msgspec.Struct, frozen=True, kw_only=True):
    """How a player lies on a board."""

    board: str
    rank: Rank


class BoardList(msgspec.Struct, frozen=True, kw_only=True):
    """The definitions of the boards that are there now, the zone of their days, and the names asked for."""

    zone: str
    boards: list[Definition]
    names: list[str]


_LINES: Final = [
    Standing(place=1, rank=1, dense_rank=1, player="b1", score=7717200),
    Standing(place=2, rank=1, dense_rank=1, player="b19", score=7717200),
]
_FRIENDS: Final = [
    Friend(rank=1, dense_rank=1, player="b1", score=7717200, place=1),
    Friend(rank=2, dense_rank=2, player="b19", score=7718800, place=3),
]
_SHOWN: Final = BoardLines(board="quest:boston-2014", size=31931, lines=_LINES)
_RANK: Final = Rank(line=_LINES[1], size=31931, better=0, equal=2, worse=31929, percentile_bp=9999)


async def _found(asked: Asked[BoardQuery]) -> tuple[Boards, Board]:
    boards = Boards(await asked.sources.once(shared_client), asked.tenant)
    return boards, await boards.find(asked.request)


@endpoint("leaderboard.top", example=(Top(quest="boston-2014", lines=2), _SHOWN))
async def top(asked: Asked[Top]) -> BoardLines:
    """The best of a board, or a page further down."""
    boards, board = await _found(asked)
    lines, size = await boards.page(board, asked.request.first - 1, asked.request.lines)
    return BoardLines(board=board.name, size=size, lines=lines)


@endpoint("leaderboard.rank", example=(RankOf(player="b19"), BoardRank(board="xp", rank=_RANK)))
async def rank(asked: Asked[RankOf]) -> BoardRank:
    """A player's place, ranks and percentile."""
    boards, board = await _found(asked)
    return BoardRank(board=board.name, rank=await boards.rank(board, asked.request.player))


@endpoint("leaderboard.around", example=(Around(quest="boston-2014", player="b1", lines=1), _SHOWN))
async def around(asked: Asked[Around]) -> BoardLines:
    """A player's line with the neighbours above and below."""
    boards, board = await _found(asked)
    lines, size = await boards.around(board, asked.request.player, asked.request.lines)
    return BoardLines(board=board.name, size=size, lines=lines)


@endpoint(
    "leaderboard.friends",
    example=(
        Friends(quest="boston-2014", players=["b19", "b1"], places=True),
        BoardFriends(board="quest:boston-2014", size=31931, lines=_FRIENDS),
    ),
)
async def friends(asked: Asked[Friends]) -> BoardFriends:
    """Some players in the order of the board, ranked among each other; who is not ranked is left out."""
    boards, board = await _found(asked)
    lines, size = await boards.friends(board, asked.request.players, with_places=asked.request.places)
    return BoardFriends(board=board.name, size=size, lines=lines)


@endpoint(
    "leaderboard.boards",
    example=(AllBoards(past=True), BoardList(zone="UTC", boards=list(BoardSettings().definitions), names=["xp"])),
)
async def boards(asked: Asked[AllBoards]) -> BoardList:
    """Which boards there are."""
    found = Boards(await asked.sources.once(shared_client), asked.tenant)
    settings = await found.settings()
    names = await found.names() if asked.request.past else []
    return BoardList(zone=settings.zone, boards=list(settings.definitions), names=names)


ENDPOINTS: Final = (top, rank, around, friends, boards)
