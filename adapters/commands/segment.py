"""`tally segment`: who and how many a filter means, now."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from adapters.asking import ask
from adapters.errors import TallyError
from adapters.queries.segments import PLAYERS_MAX
from adapters.settings import Settings
from adapters.which_tenant import which_tenant

HELP = "who and how many are in a segment: by zone, quest status, level, balance, recency"

EXAMPLES = """examples:
  tally segment '{"zone":"north-stand"}'
  tally segment '{"all":[{"quest":"driver","status":"completed"},{"not":{"quest":"hot-dog","status":"started"}}]}'
  tally segment @filter.json --limit 10000 --json"""


def configure(parser: argparse.ArgumentParser) -> None:
    """`FILTER`, or `@FILE`."""
    parser.epilog = EXAMPLES
    parser.add_argument("filter", metavar="FILTER", help="JSON (docs/segments.md), or @FILE")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help=f"players named, up to {PLAYERS_MAX:,}")
    parser.add_argument("--after", type=int, default=0, metavar="N", help="go on after, as the last answer said")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Ask the query services and print."""
    settings = Settings.load(args.data, need=("nats_url",))
    tenant = which_tenant(settings, args.tenant)
    request = {"filter": _filter(args.filter), "limit": args.limit, "after": args.after}
    found = asyncio.run(ask(settings, tenant, "segment.find", request))
    print(json.dumps(found) if args.json else _text(found))
    return 0


def _filter(given: str) -> Any:
    """The JSON of a filter, or of the file that is named; what it says is judged by the service."""
    try:
        return json.loads(Path(given[1:]).read_bytes() if given.startswith("@") else given)
    except OSError as err:
        raise TallyError(f"the filter {given} cannot be read ({err.strerror}); name a file of JSON") from err
    except ValueError as err:
        raise TallyError(f"the filter is no JSON ({err}); docs/segments.md has examples") from err


def _text(found: dict[str, Any]) -> str:
    lines = [f"{found['size']:,} players, as of event {found['stream_seq']:,}", *found["players"]]
    if found["next_after"] is not None:
        lines.append(f"more with --after {found['next_after']}")
    if found["parked"]:
        lines.append(f"{found['parked']} aggregates are passed over since an event of theirs (log of the queries)")
    return "\n".join(lines)
