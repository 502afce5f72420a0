"""`tally send`: publish one command and print its outcome, as any service would do it."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

from adapters.errors import TallyError
from adapters.sending import send_command
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from domain.catalogue import COMMANDS

HELP = "publish one command and print its outcome"


def configure(parser: argparse.ArgumentParser) -> None:
    """`COMMAND ID DATA`; the aggregate follows from the command."""
    parser.epilog = (
        "example:\n"
        """  tally send RegisterPlayer ada '{"region":"USA","cohort":null}'\n"""
        """  tally send SpendTokens ada '{"amount":5,"reason":"cap"}' --json"""
    )
    parser.add_argument("command", metavar="COMMAND", choices=tuple(COMMANDS), help=", ".join(COMMANDS))
    parser.add_argument("id", metavar="ID", help="of the quest, player or account that is addressed")
    parser.add_argument("data_json", metavar="DATA", nargs="?", default="{}", help="JSON object (default {})")
    parser.add_argument("--command-id", metavar="ID", help="sent again with the same id it is executed once")
    parser.add_argument("--time", metavar="RFC3339", help="when it happened (default: now)")
    parser.add_argument("--actor", metavar="NAME", help="who says so")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="how long to wait (default 10 s)")
    parser.add_argument("--json", action="store_true", help="print the outcome as it came")


def run(args: argparse.Namespace) -> int:
    """0 when the command was accepted, 1 when it was refused."""
    settings = Settings.load(args.data, need=("nats_url",))
    tenant = which_tenant(settings, args.tenant)
    try:
        data = json.loads(args.data_json)
    except ValueError as err:
        message = f"DATA is {args.data_json[:60]!r}, wanted a JSON object ({err})"
        raise TallyError(message) from err
    sending = send_command(
        settings,
        tenant,
        args.command,
        args.id,
        data,
        command_id=args.command_id,
        time=args.time,
        actor=args.actor,
        timeout_s=args.timeout,
    )
    outcome = asyncio.run(sending)
    if args.json:
        print(json.dumps(outcome, ensure_ascii=False))
    else:
        print(_line(outcome))
    return 0 if outcome["type"] == "command-accepted/1" else 1


def _line(outcome: dict[str, Any]) -> str:
    data = outcome["data"]
    if outcome["type"] == "command-accepted/1":
        events = ", ".join(f"{event['id']} ({event['type']}, #{event['stream_seq']})" for event in data["events"])
        return f"accepted {outcome['causationid']}: {events}"
    return f"refused {outcome['causationid']}: {data['code']}: {data['message']}"
