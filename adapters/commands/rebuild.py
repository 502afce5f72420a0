"""`tally rebuild`: a projection filled anew beside the live one, compared and switched; or a past state of it."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
from datetime import UTC, datetime

import msgspec

from adapters.commands.run import spare_the_collector
from adapters.errors import TallyError
from adapters.generations import PROJECTIONS, generations, require_projection
from adapters.jetstream.connection import connect
from adapters.jetstream.past import History
from adapters.rebuild import Meter, Rebuild, Rebuilt
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from bus.timetravel import parse_at
from projections.generations import require_name

HELP = "fill a projection anew from history beside the live one, compare, switch; roll back; build a past state"
LINE_EVERY_S = 10.0
REDRAW_EVERY_S = 0.1


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "examples:\n"
        "  tally rebuild leaderboards                    the live ones go on; switched when both are equal\n"
        "  tally rebuild readmodels --accept             replace the live ones though they differ\n"
        "  tally rebuild readmodels --rollback           the generation before the last switch goes live again\n"
        "  tally rebuild leaderboards --at 2026-11-21T10:00:00Z --as before-noon\n"
        "  tally leaderboard top --xp --generation before-noon\n"
        "  tally rebuild leaderboards --drop before-noon\n\n"
        "exit 2 and one line when the new generation differs: the live one stays."
    )
    parser.add_argument("projection", metavar="NAME", help=f"of: {', '.join(PROJECTIONS)}")
    past = parser.add_mutually_exclusive_group()
    past.add_argument("--to-sequence", metavar="N", help="build what it was after this event (wants --as)")
    past.add_argument("--at", metavar="TIME", help="build what it was at this RFC 3339 time (wants --as)")
    past.add_argument("--rollback", action="store_true", help="go back to the generation that was live before")
    past.add_argument("--drop", metavar="OTHER", help="remove a past state")
    parser.add_argument("--as", dest="other", metavar="OTHER", help="the name of the past state")
    parser.add_argument("--accept", action="store_true", help="replace the live one though the new one differs")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do one of the four; 2 when it is refused."""
    need = require_projection(args.projection).need
    is_past = args.to_sequence is not None or args.at is not None
    if is_past != (args.other is not None):
        raise TallyError(
            "a past state needs both its point and its name: --to-sequence N (or --at TIME) and --as OTHER"
        )
    if args.accept and (is_past or args.rollback or args.drop):
        raise TallyError("--accept is for a rebuild of the live generation: leave it out")
    settings = Settings.load(args.data, need=("nats_url", *need))
    spare_the_collector()
    done = asyncio.run(_run(args, settings, which_tenant(settings, args.tenant)))
    if args.json:
        print(msgspec.json.encode(done).decode())
    elif done is None:
        print(f"removed {args.drop} of {args.projection}")
    else:
        print(_text(done, is_rollback=args.rollback))
    return 0


async def _run(args: argparse.Namespace, settings: Settings, tenant: str) -> Rebuilt | None:
    client = await connect(settings.nats_url, "tally-rebuild")
    show = _Shown()
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    holder = f"process {os.getpid()} on {platform.node()} since {since}"
    try:
        rebuild = Rebuild(client, tenant, generations(args.projection, settings, tenant), show, holder)
        if args.rollback:
            return await rebuild.roll_back()
        if args.drop is not None:
            await rebuild.drop(require_name(args.drop))
            return None
        if args.other is None:
            return await rebuild.run(is_accepted=args.accept)
        at = parse_at(args.to_sequence if args.at is None else args.at)
        view = await History(client, tenant).view(at, time.time_ns() // 1_000_000)
        return await rebuild.build_past(require_name(args.other), view.stream_seq)
    finally:
        show.end()
        await client.close()


class _Shown:
    """Progress on stderr: one line that is drawn again on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._meter = Meter()
        self._is_terminal = sys.stderr.isatty()
        self._next_at = 0.0 if self._is_terminal else time.monotonic() + LINE_EVERY_S
        self._phase = ""
        self._drawn = 0

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase != self._phase:  # what it did before says nothing of how fast it goes now
            self._meter = Meter()
        line = f"{phase} {self._meter.line(done, total)}"
        if now < self._next_at and phase == self._phase and done < total:
            return
        self._phase = phase
        if self._is_terminal:
            self._next_at = now + REDRAW_EVERY_S
            print(f"\r{line:<{self._drawn}}", end="", file=sys.stderr, flush=True)
            self._drawn = len(line)
        elif now >= self._next_at:
            self._next_at = now + LINE_EVERY_S
            print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line that is drawn again."""
        if self._drawn:
            print(file=sys.stderr)


def _text(done: Rebuilt, *, is_rollback: bool) -> str:
    name, rows = f"{done.projection} of {done.tenant}", sum(done.rows.values())
    if is_rollback:
        return (
            f"{name}: the previous generation is live again, at event {done.stream_seq:,}; --rollback goes forth again"
        )
    if done.generation != "live":
        return f"{name} as of event {done.stream_seq:,}: {rows:,} rows, named {done.generation}, hash {done.state_hash}"
    lines = [f"{name}: a new generation is live, at event {done.stream_seq:,}"]
    if done.compared_at is None:
        lines.append("  compared with  nothing: there was no live one of this stream")
    elif done.differences:
        lines += [f"  differed       {line}" for line in done.differences]
    else:
        lines.append(f"  equal          {rows:,} rows in {len(done.rows)} tables at event {done.compared_at:,}")
    lines.append(f"  state hash     {done.state_hash}")
    lines.append(f"  the one before is kept: tally rebuild {done.projection} --rollback")
    return "\n".join(lines)
