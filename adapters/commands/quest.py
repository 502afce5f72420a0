"""`tally quest funnel`: how far the attempts at a quest came."""

from __future__ import annotations

import argparse
import asyncio

import msgspec

from adapters.as_of_option import add_as_of
from adapters.commands.leaderboard import duration
from adapters.postgres_queries import QuestPage, quest_page
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from bus.subjects import require_token

HELP = "a quest's statistics and funnel: accepted, each step, completed; abandoned, expired"


def configure(parser: argparse.ArgumentParser) -> None:
    """`funnel QUEST`."""
    parser.epilog = (
        "examples:\n  tally quest funnel boston-2014\n  tally quest funnel boston-2014 --as-of 2014-04-21 --json"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="funnel")
    funnel = actions.add_parser("funnel", help="how many attempts came how far")
    funnel.add_argument("quest", help="the quest's id")
    add_as_of(funnel)
    funnel.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the funnel; an unknown quest is wrong use."""
    settings = Settings.load(args.data, need=("postgres_dsn",))
    tenant = which_tenant(settings, args.tenant)
    page = asyncio.run(quest_page(settings, tenant, require_token("the quest", args.quest), as_of=args.as_of))
    print(msgspec.json.encode(page).decode() if args.json else _text(page))
    return 0


def _text(page: QuestPage) -> str:
    then = f", as of {page.as_of:%Y-%m-%d %H:%M:%S}Z" if page.as_of else ""
    stages = [("accepted", page.accepted), *((step.step, step.reached) for step in page.steps)]
    lines = [f"{page.quest}: {page.title}{then}"]
    lines += [_stage(name, count, page.accepted) for name, count in (*stages, ("completed", page.completed))]
    lines += ["", _stage("abandoned", page.abandoned, page.accepted), _stage("expired", page.expired, page.accepted)]
    if page.best_ms is not None:
        lines.append(f"  best           {duration(page.best_ms)}")
    if page.supply is not None:
        lines.append(f"  supply         {page.taken:,} of {page.supply:,} taken")
    if closed := page.retired_at or page.closed_at:
        lines.append(f"  over since     {closed:%Y-%m-%d %H:%M:%S}Z")
    return "\n".join(lines)


def _stage(name: str, count: int, accepted: int) -> str:
    share = f"{100 * count / accepted:5.1f} %" if accepted else ""
    return f"  {name:<14} {count:>10,}  {share}".rstrip()
