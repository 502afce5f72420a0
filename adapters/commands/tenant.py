"""`tally tenant create|list|reader`: franchises whose data are isolated from each other."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from adapters.board_settings import read_boards
from adapters.jetstream.streams import PARTITIONS_DEFAULT
from adapters.json_option import add_json
from adapters.settings import Settings
from adapters.tenants import create_tenant, is_on_one_of_several, list_tenants, reader_of
from bus.subjects import require_token

PARTITIONS_HELP = "fixed for ever: at least as many as workers will share; more take bursts better"
HELP = "create a tenant, list them, or say how to read one's tables in PostgreSQL"


def configure(parser: argparse.ArgumentParser) -> None:
    """`create NAME`, `list` and `reader NAME`."""
    parser.epilog = (
        'example:\n  tally tenant create boston\n  tally tenant list --json\n  psql "$(tally tenant reader boston)"'
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|reader")
    create = actions.add_parser("create", help="create a tenant; one that is there already is left as it is")
    create.add_argument("name", metavar="NAME", help="letters, digits, '-' and '_', up to 64")
    create.add_argument("--partitions", type=int, default=PARTITIONS_DEFAULT, metavar="N", help=PARTITIONS_HELP)
    create.add_argument(
        "--intake",
        choices=("fast", "durable"),
        default="fast",
        help="fast: an acknowledged command is received; durable: it is on disk",
    )
    create.add_argument("--replicas", type=int, choices=(1, 3, 5), default=1, help="of the streams, in a cluster")
    create.add_argument("--boards", type=Path, metavar="FILE", help="its leaderboards (docs/leaderboards.md)")
    actions.add_parser("list", help="the tenants of this installation")
    reader = actions.add_parser("reader", help="the connection string of a tenant's reader; its password is in a file")
    reader.add_argument("name", metavar="NAME", help="the tenant")
    reader.add_argument("--new-password", action="store_true", help="make a new one; the former one ends")
    add_json(parser, actions)


def run(args: argparse.Namespace) -> int:
    """Create or list."""
    if args.action == "reader":
        return _reader(args)
    settings = Settings.load(args.data, need=("nats_url",))
    if args.action == "list":
        rows = asyncio.run(list_tenants(settings))
        if args.json:
            print(json.dumps(rows))
        for row in () if args.json else rows:
            print(f"{row['tenant']:<20} {row['events']:>12,} events  {row['partitions']} partitions  {row['intake']}")
        return 0
    is_new = asyncio.run(
        create_tenant(
            settings,
            args.name,
            partitions=args.partitions,
            intake=args.intake,
            replicas=args.replicas,
            boards=None if args.boards is None else read_boards(args.boards),
        )
    )
    if is_new and args.replicas == 1 and asyncio.run(is_on_one_of_several(settings, args.name)):
        line = f"tally: a single server of the cluster keeps {args.name}: --replicas 3 would outlive the loss of one"
        print(line, file=sys.stderr)
    if args.json:
        print(json.dumps({"tenant": args.name, "created": is_new}))
    else:
        print(f"tenant {args.name} {'created' if is_new else 'was there already; nothing changed'}")
    return 0


def _reader(args: argparse.Namespace) -> int:
    settings = Settings.load(args.data, need=("postgres_dsn",))
    tenant = require_token("the tenant", args.name)
    dsn = asyncio.run(reader_of(settings, tenant, is_new_password=args.new_password))
    print(json.dumps({"tenant": tenant, "postgres": dsn}) if args.json else dsn)
    return 0
