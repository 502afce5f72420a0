"""`tally status`: endpoints, and for each tenant the lag of every projection and the head of its log."""

import argparse
import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from adapters.bucket_state import PublicationStatus
from adapters.errors import CheckFailed
from adapters.masking import masked_endpoints
from adapters.settings import Settings, read_endpoints
from adapters.status import FollowerStatus, TenantStatus, look
from adapters.supervisor_lock import living_supervisor

HELP = "endpoints, lag of every projection in events and seconds, chain head, age of the last checkpoint"
SHOWN = ("nats", "postgres", "redis", "iceberg_catalog", "iceberg_warehouse", "log_dir")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  tally status\n  tally status --tenant boston --json"
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    settings = Settings.load(args.data)
    endpoints = masked_endpoints(read_endpoints(args.data) or {})
    if endpoints and living_supervisor(args.data) is None:
        raise CheckFailed(f"the supervisor of {args.data} is dead, its endpoints.json is left: start it (tally up)")
    tenants = [status for status in asyncio.run(look(settings)) if args.tenant in {None, status.tenant}]
    if args.json:
        shown = {key: endpoints[key] for key in (*SHOWN, "pid", "processes") if key in endpoints}
        print(json.dumps({"endpoints": shown, "tenants": [asdict(status) for status in tenants]}))
    else:
        print("\n".join([*_endpoint_lines(endpoints), *(line for tenant in tenants for line in _lines(tenant))]))
        if not tenants:
            print("no tenant yet: tally tenant create NAME" if args.tenant is None else f"no tenant {args.tenant}")
    return 0 if all(status.ok for status in tenants) else 1


def _endpoint_lines(endpoints: dict[str, Any]) -> Iterator[str]:
    for key in SHOWN:
        if key in endpoints:
            yield f"{key:<18} {endpoints[key]}"
    for name, pid in endpoints.get("processes", {}).items():
        yield f"{name:<40} {f'process {pid}' if pid else 'starting again'}"


def _lines(status: TenantStatus) -> Iterator[str]:
    yield ""
    if status.problem is not None:
        yield f"tenant {status.tenant}: {status.problem}"
        return
    yield f"tenant {status.tenant}: {status.events:,} events, {status.commands_waiting:,} commands in the queue"
    for follower in status.followers:
        yield f"  {follower.name:<14} {_lag(follower)}"
        if follower.parked:
            yield f"  {'':<14} {follower.parked}"
    if status.log is None:
        yield "  log            nothing signed yet"
        return
    yield f"  checkpoint     {status.log.tree_size:,} entries, signed {status.log.checkpoint_age_s:.1f} s ago"
    yield f"  root           {status.log.root}"
    yield f"  chain head     {status.log.chain_head}"
    for line in status.log.witnesses:
        yield f"  witness        {line}"
    if status.publication is not None:
        yield f"  bucket         {_publication(status.publication)}"
    for label, lines in (("roots wait", status.roots.waiting), ("ALARM", status.roots.alarms)):
        yield from (f"  {label:<14} {line}" for line in lines)


def _publication(found: PublicationStatus) -> str:
    problem = f"; {'ALARM: ' if found.alarm else ''}{found.problem}" if found.problem else ""
    if found.tree_size is None:
        return f"{found.place}: nothing there yet{problem}"
    at = f"at {found.tree_size:,}"
    if not (found.behind_entries or found.behind_s):
        return f"{found.place}: up to date {at}{problem}"
    return f"{found.place}: {found.behind_entries:,} entries and {found.behind_s:.1f} s behind, {at}{problem}"


def _lag(follower: FollowerStatus) -> str:
    if follower.problem is not None:
        return f"unknown: {follower.problem}"
    if not follower.behind_events:
        return f"up to date at {follower.stream_seq:,}"
    return f"{follower.behind_events:,} events and {follower.behind_s:.1f} s behind, at {follower.stream_seq:,}"
