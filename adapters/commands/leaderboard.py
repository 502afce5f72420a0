"""`tally leaderboard`: the best, a player's rank, the neighbours."""

from __future__ import annotations

import argparse
import asyncio

import msgspec

from adapters.errors import TallyError
from adapters.redis_boards import Boards, Standing
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from bus.subjects import require_token
from projections.errors import NotFound
from projections.generations import LIVE, no_past_state, require_name
from projections.leaderboards import NAME, XP, Board, quest_metric

HELP = "who leads: the best of a quest or by XP, a player's rank, the neighbours of a player"
LINES_MAX = 10_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "what", choices=("top", "rank", "around"), help="the best, one player's rank, or its neighbours"
    )
    parser.add_argument("player", nargs="?", help="whose rank (rank and around)")
    board = parser.add_mutually_exclusive_group(required=True)
    board.add_argument("--quest", help="rank by elapsed time in this quest")
    board.add_argument("--xp", action="store_true", help="rank by XP")
    parser.add_argument("--division", help="rank within this division of the quest")
    parser.add_argument("-n", type=int, metavar="LINES", help="how many lines (top: 10, around: 3 on either side)")
    parser.add_argument(
        "--generation", metavar="NAME", help="a past state (tally rebuild leaderboards --at TIME --as NAME)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = (
        "examples:\n"
        "  tally leaderboard top --quest boston-2014 --division runners-women -n 5\n"
        "  tally leaderboard around b19 --quest boston-2014 -n 2\n"
        "  tally leaderboard rank b19 --xp --json"
    )


def run(args: argparse.Namespace) -> int:
    """Print the lines; a player who is not ranked is wrong use."""
    settings = Settings.load(args.data, need=("redis_url",))
    return asyncio.run(_run(args, settings, which_tenant(settings, args.tenant)))


def _board(args: argparse.Namespace) -> Board:
    if args.xp:
        if args.division:
            raise TallyError("--division ranks within a quest, XP is over all quests: give --quest, or leave it out")
        return Board(XP)
    quest = quest_metric(require_token("--quest", args.quest))
    return Board(quest, require_token("--division", args.division) if args.division else None)


def _lines_wanted(args: argparse.Namespace, default: int) -> int:
    lines: int = default if args.n is None else args.n
    if not 1 <= lines <= LINES_MAX:
        raise TallyError(f"-n is {lines}, wanted 1 to {LINES_MAX}")
    return lines


async def _run(args: argparse.Namespace, settings: Settings, tenant: str) -> int:
    board = _board(args)
    generation = LIVE if args.generation is None else require_name(args.generation)
    async with Boards(settings, tenant, generation) as boards:
        if generation != LIVE and await boards.position() is None:
            raise no_past_state(NAME, tenant, generation)
        if args.what == "top":
            if args.player:
                raise TallyError(f"top takes no player, got {args.player}: use rank or around")
            lines, size = await boards.top(board, _lines_wanted(args, 10)), await boards.size(board)
            if not lines:
                raise NotFound(f"nobody is ranked in {board.name} of {tenant} yet; see `tally status` for what is done")
        else:
            if not args.player:
                raise TallyError(f"{args.what} needs a player: tally leaderboard {args.what} PLAYER ...")
            around = _lines_wanted(args, 3) if args.what == "around" else 0
            lines, size = await boards.around(board, require_token("the player", args.player), around)
    if args.json:
        found = {"tenant": tenant, "board": board.name, "size": size, "lines": lines}
        print(msgspec.json.encode(found).decode())
    else:
        print(_table(board, lines, size, args.player))
    return 0


def _table(board: Board, lines: list[Standing], size: int, marked: str | None) -> str:
    width = max(len(line.player) for line in lines)
    table = [f"{board.name}, {size:,} ranked"]
    for line in lines:
        score = f"{line.score:,} XP" if board.is_descending else duration(line.score)
        sign = ">" if line.player == marked else " "
        table.append(f"{sign}{line.place:>8,}  {line.player:<{width}}  {score:>12}")
    return "\n".join(table)


def duration(elapsed_ms: int) -> str:
    """Elapsed milliseconds as people write them: 2:08:37.200."""
    seconds, ms = divmod(elapsed_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}.{ms:03d}"
