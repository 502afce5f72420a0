"""`tally player`: a player's page."""

from __future__ import annotations

import argparse
import asyncio

import msgspec

from adapters.as_of_option import add_as_of
from adapters.commands.leaderboard import duration
from adapters.postgres_queries import Attempt, PlayerPage, player_page
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from bus.subjects import require_token
from projections.generations import LIVE, require_name

HELP = "a player's page: profile, XP, level, badges, attempts and their steps"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("player", help="the player's id")
    parser.add_argument(
        "--generation", metavar="NAME", help="a past state (tally rebuild readmodels --at TIME --as NAME)"
    )
    add_as_of(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = "examples:\n  tally player b19\n  tally player b19 --as-of 2014-04-21T15:00:00Z --json"


def run(args: argparse.Namespace) -> int:
    """Print the page; an unknown player is wrong use."""
    settings = Settings.load(args.data, need=("postgres_dsn",))
    tenant = which_tenant(settings, args.tenant)
    generation = LIVE if args.generation is None else require_name(args.generation)
    player = require_token("the player", args.player)
    page = asyncio.run(player_page(settings, tenant, player, as_of=args.as_of, generation=generation))
    print(msgspec.json.encode(page).decode() if args.json else _text(page))
    return 0


def _text(page: PlayerPage) -> str:
    lines = [
        f"player      {page.player}" + (f", as of {page.as_of:%Y-%m-%d %H:%M:%S}Z" if page.as_of else ""),
        f"region      {page.region or '-'}",
        f"cohort      {page.cohort or '-'}",
        f"registered  {page.registered_at:%Y-%m-%d %H:%M:%S}Z",
        f"XP          {page.xp:,} (level {page.level})",
        f"balance     {page.balance:,} tokens",
        f"badges      {', '.join(badge.badge for badge in page.badges) or '-'}",
    ]
    for attempt in page.attempts:
        lines += ["", _headline(attempt)]
        lines += [f"  {step.step:<12} {duration(step.elapsed_ms):>12}" for step in attempt.steps]
    return "\n".join(lines)


def _headline(attempt: Attempt) -> str:
    took = f" in {duration(attempt.elapsed_ms)}" if attempt.elapsed_ms is not None else ""
    divisions = f" ({', '.join(attempt.divisions)})" if attempt.divisions else ""
    steps = "1 step" if attempt.steps_reached == 1 else f"{attempt.steps_reached} steps"
    return f"{attempt.quest}, attempt {attempt.attempt}: {attempt.status}{took}{divisions}, {steps}"
