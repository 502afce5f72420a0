"""`tally leaderboard`: the best, a player's rank, the neighbours, friends; which boards there are."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from adapters.board_settings import define, defined, read_boards
from adapters.errors import TallyError
from adapters.redis_ranks import FRIENDS_MAX, Boards, Friend, Rank, Standing
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from bus.subjects import require_token
from projections.boards import Board, BoardSettings
from projections.errors import NotFound
from projections.generations import LIVE, no_past_state, require_name
from projections.leaderboards import NAME

HELP = "who leads: the best, a page, a player's rank, neighbours, friends, percentile; the boards themselves"
LINES_MAX: Final = 10_000
#: What can be asked -> how many players it wants, at least and at most.
QUESTIONS: Final = {
    "top": (0, 0),
    "page": (0, 0),
    "rank": (1, 1),
    "around": (1, 1),
    "friends": (1, FRIENDS_MAX),
    "percentile": (1, 1),
}
OF_BOARDS: Final = ("boards", "define")
PAGE: Final = 50


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "what",
        choices=(*QUESTIONS, *OF_BOARDS),
        metavar="WHAT",
        help="top, page, rank, around, friends, percentile; boards (which there are), define (say which there are)",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="whose rank (friends: several); define: a JSON file")
    parser.add_argument("--board", help="a board by its name (tally leaderboard boards)")
    parser.add_argument("--quest", help="rank by elapsed time in this quest, or the quest of --board")
    parser.add_argument("--xp", action="store_true", help="rank by XP")
    parser.add_argument("--division", help="rank within this division of the quest")
    parser.add_argument("--region", help="the region of --board")
    parser.add_argument("--cohort", help="the cohort of --board")
    parser.add_argument("--window", metavar="W", help="2014-04-21, 2014-W17, 2014-04, a season; default: the one now")
    parser.add_argument(
        "-n", type=int, metavar="LINES", help="how many lines (top: 10, page: 50, around: 3 either side)"
    )
    parser.add_argument("--page", type=int, default=1, metavar="P", help="which page (page; default 1)")
    parser.add_argument("--past", action="store_true", help="boards: every board that somebody stands on")
    parser.add_argument(
        "--generation", metavar="NAME", help="a past state (tally rebuild leaderboards --at TIME --as NAME)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = (
        "examples:\n"
        "  tally leaderboard top --quest boston-2014 --division runners-women -n 5\n"
        "  tally leaderboard around b19 --quest boston-2014 -n 2\n"
        "  tally leaderboard percentile b19 --xp --json\n"
        "  tally leaderboard friends b1 b19 b33 --board daily --region GBR --window 2014-04-21\n"
        "  tally leaderboard define boards.json      then: tally rebuild leaderboards --accept"
    )


def run(args: argparse.Namespace) -> int:
    """Print the lines; a player who is not ranked is wrong use."""
    if args.what in OF_BOARDS:
        return _run_of_boards(args)
    _require_players(args)
    settings = Settings.load(args.data, need=("redis_url",))
    return asyncio.run(_run(args, settings, which_tenant(settings, args.tenant)))


def _run_of_boards(args: argparse.Namespace) -> int:
    """`boards` and `define FILE`."""
    if args.what == "define" and len(args.names) != 1:
        raise TallyError(f"define takes one JSON file, got {len(args.names)}: docs/leaderboards.md has an example")
    settings = Settings.load(args.data, need=("nats_url", "redis_url"))
    tenant = which_tenant(settings, args.tenant)
    if args.what == "define":
        version = asyncio.run(define(settings, tenant, read_boards(Path(args.names[0]))))
        said = (
            f"boards of {tenant} are at version {version}; with the first event they are there, later bring them up: "
            "tally rebuild leaderboards --accept"
        )
        print(msgspec.json.encode({"tenant": tenant, "version": version}).decode() if args.json else said)
        return 0
    return asyncio.run(_show_boards(args, settings, tenant))


async def _show_boards(args: argparse.Namespace, settings: Settings, tenant: str) -> int:
    wanted, version = await defined(settings, tenant)
    async with Boards(settings, tenant) as boards:
        found = await boards.settings()
        names = await boards.names() if args.past else []
        position = await boards.position()
    if args.json:
        shown = {"tenant": tenant, "version": version, "defined": wanted, "live": found, "names": names}
        print(msgspec.json.encode(shown).decode())
        return 0
    print("\n".join([*_definitions(found), *names]))
    if position is None and found != wanted:
        print(f"version {version} is there with the first event")
    elif found != wanted:
        print(f"version {version} is defined and not yet there: tally rebuild leaderboards --accept")
    return 0


def _definitions(settings: BoardSettings) -> list[str]:
    width = max(len(one.name) for one in settings.definitions)
    lines = [f"days as in {settings.zone}, {len(settings.seasons)} seasons"]
    for one in settings.definitions:
        scope = f"each {' and '.join(one.scope)}" if one.scope else "all"
        lines.append(f"{one.name:<{width}}  {one.direction} {one.metric}, {scope}, {one.window}")
    return lines


def _require_players(args: argparse.Namespace) -> None:
    least, most = QUESTIONS[args.what]
    if args.names and not most:
        raise TallyError(f"{args.what} takes no player, got {args.names[0]}: use rank or around")
    if len(args.names) < least:
        raise TallyError(f"{args.what} needs a player: tally leaderboard {args.what} PLAYER ...")
    if len(args.names) > most:
        raise TallyError(f"{args.what} takes {most:,} player, got {len(args.names):,}: friends takes several")
    if not (args.xp or args.quest or args.board):
        raise TallyError("which board? say --quest NAME, --xp or --board NAME (tally leaderboard boards lists them)")
    if args.xp and (args.quest or args.board):
        raise TallyError("--xp is a board of its own: leave out --quest and --board, or --xp")
    if args.xp and args.division:
        raise TallyError("--division ranks within a quest, XP is over all quests: give --quest, or leave it out")


def _number(name: str, value: int, most: int = LINES_MAX) -> int:
    if not 1 <= value <= most:
        raise TallyError(f"{name} is {value}, wanted 1 to {most}")
    return value


async def _run(args: argparse.Namespace, settings: Settings, tenant: str) -> int:
    generation = LIVE if args.generation is None else require_name(args.generation)
    for option in ("board", "quest", "division", "region", "cohort", "window"):
        if (value := getattr(args, option)) is not None:
            require_token(f"--{option}", value)
    players = [require_token("the player", name) for name in args.names]
    async with Boards(settings, tenant, generation) as boards:
        if generation != LIVE and await boards.position() is None:
            raise no_past_state(NAME, tenant, generation)
        board = await boards.find(args)
        if args.what in {"rank", "percentile"}:
            return _show_rank(args, tenant, board, await boards.rank(board, players[0]))
        lines: Sequence[Standing | Friend]
        if args.what == "friends":
            lines, size = await boards.friends(board, players, with_places=True)
        else:
            lines, size = await _lines(args, boards, board, players)
    if not lines:
        raise NotFound(f"nobody is ranked in {board.name} of {tenant} there yet; see `tally status` for what is done")
    if args.json:
        found = {"tenant": tenant, "board": board.name, "size": size, "lines": lines}
        print(msgspec.json.encode(found).decode())
    else:
        print(_table(board, lines, size, players))
    return 0


async def _lines(
    args: argparse.Namespace, boards: Boards, board: Board, players: list[str]
) -> tuple[list[Standing], int]:
    if args.what == "around":
        return await boards.around(board, players[0], _number("-n", 3 if args.n is None else args.n))
    lines = _number("-n", (PAGE if args.what == "page" else 10) if args.n is None else args.n)
    first = (_number("--page", args.page, 10**9) - 1) * lines if args.what == "page" else 0
    return await boards.page(board, first, lines)


def _show_rank(args: argparse.Namespace, tenant: str, board: Board, rank: Rank) -> int:
    if args.json:
        shown = {"tenant": tenant, "board": board.name, "size": rank.size, "lines": [rank.line], "rank": rank}
        print(msgspec.json.encode(shown).decode())
        return 0
    if args.what == "percentile":
        share = f"{rank.percentile_bp // 100}.{rank.percentile_bp % 100:02d}"
        print(
            f"{rank.line.player} stands at percentile {share} of {board.name}: {rank.better:,} are better, "
            f"{rank.equal - 1:,} equal, {rank.worse:,} worse"
        )
        return 0
    print(_table(board, [rank.line], rank.size, [rank.line.player]))
    print(f"          rank {rank.line.rank:,}, without gaps {rank.line.dense_rank:,}")
    return 0


def _table(board: Board, lines: Sequence[Standing | Friend], size: int, marked: list[str]) -> str:
    width = max(len(line.player) for line in lines)
    table = [f"{board.name}, {size:,} ranked"]
    for line in lines:
        sign = ">" if line.player in marked else " "
        table.append(f"{sign}{line.place or line.rank:>8,}  {line.player:<{width}}  {_score(board, line.score):>12}")
    return "\n".join(table)


def _score(board: Board, score: int) -> str:
    metric = board.definition.metric
    return duration(score) if metric == "elapsed" else f"{score:,} {'XP' if metric == 'xp' else metric}"


def duration(elapsed_ms: int) -> str:
    """Elapsed milliseconds as people write them: 2:08:37.200."""
    seconds, ms = divmod(elapsed_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}.{ms:03d}"
