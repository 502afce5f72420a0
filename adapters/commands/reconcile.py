"""`tally reconcile`: whether leaderboards, read models and analytics tell the same story."""

from __future__ import annotations

import argparse
import asyncio
import time

import msgspec

from adapters import iceberg, postgres_queries
from adapters.errors import TallyError
from adapters.redis_ranks import Boards
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from projections import analytics
from projections.reconciliation import BoardSums, Difference, EventSums, ReadModelSums, compare

HELP = "check that leaderboards, read models and analytics agree, and every analytics row with its hash"
LOOK_AGAIN_S = 0.5


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--wait", type=float, default=30.0, metavar="SECONDS", help="how long the three may take to meet (30)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = "example:\n  tally reconcile --wait 60"


def run(args: argparse.Namespace) -> int:
    """Print what was compared; 1 when anything differs."""
    settings = Settings.load(args.data, need=("postgres_dsn", "redis_url", "iceberg_catalog_uri", "iceberg_warehouse"))
    tenant = which_tenant(settings, args.tenant)
    models, boards, events = asyncio.run(meet(settings, tenant, args.wait))
    differences = compare(models, boards, events)
    if args.json:
        found = {"tenant": tenant, "read_models": models, "leaderboards": boards, "analytics": events}
        print(msgspec.json.encode(found | {"differences": differences}).decode())
    else:
        print(_text(tenant, models, events, differences))
    return 1 if differences else 0


async def meet(settings: Settings, tenant: str, patience_s: float) -> tuple[ReadModelSums, BoardSums, EventSums]:
    """The sums of the three at one position; raises `TallyError` when they do not meet in time."""
    deadline = time.monotonic() + patience_s
    async with Boards(settings, tenant) as boards:
        while True:
            of_models = await postgres_queries.sums(settings, tenant)
            of_boards = await boards.sums(of_models.completed_by_quest)
            position = await iceberg.read_position(settings, tenant)
            reached = of_models.stream_seq, of_boards and of_boards.stream_seq, position.stream_seq if position else 0
            if of_boards is not None and len(set(reached)) == 1:
                of_events = await asyncio.to_thread(_event_sums, settings, tenant)
                if of_events.stream_seq == of_models.stream_seq:
                    return of_models, of_boards, of_events
            if time.monotonic() >= deadline:
                raise TallyError(
                    f"after {patience_s:g} s read models are at {reached[0]}, leaderboards at {reached[1]}, analytics "
                    f"at {reached[2]}: compare when nothing is sent, or wait longer (--wait)"
                )
            await asyncio.sleep(LOOK_AGAIN_S)


def _event_sums(settings: Settings, tenant: str) -> EventSums:
    return analytics.sums(iceberg.iterate_rows(settings, tenant))


def _text(tenant: str, models: ReadModelSums, events: EventSums, differences: list[Difference]) -> str:
    ended = f"{models.completed:,} completed, {models.abandoned:,} abandoned, {models.expired:,} expired"
    lines = [
        f"{tenant} at event {models.stream_seq:,}",
        f"  events       {events.rows:,} rows, {len(events.types)} types, every row as it was signed",
        f"  players      {models.players:,} with {models.xp:,} XP",
        f"  attempts     {models.accepted:,}, of which {ended}",
        f"  tokens       {models.balances:,} held by {models.accounts:,} accounts, treasury {models.treasury:,}",
    ]
    if events.altered:
        lines[1] = f"  events       {events.rows:,} rows, {len(events.altered):,} not as they were signed"
    lines += [f"  DIFFERS      {difference}" for difference in differences]
    return "\n".join([*lines, "they differ" if differences else "they agree"])
