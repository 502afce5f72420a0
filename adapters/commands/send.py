"""`tally send`: publish one command and print its outcome, as any service would do it."""

from __future__ import annotations

import argparse
import asyncio
import json
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from adapters.errors import TallyError
from adapters.jetstream.connection import connect
from adapters.jetstream.dead_letters import REPLY_TO_HEADER
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from bus import subjects
from domain.catalogue import COMMANDS

HELP = "publish one command and print its outcome"
SOURCE: Final = "//tallyroot/cli"


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
    outcome = asyncio.run(_send(settings, tenant, args, data))
    if args.json:
        print(json.dumps(outcome, ensure_ascii=False))
    else:
        print(_line(outcome))
    return 0 if outcome["type"] == "command-accepted/1" else 1


async def _send(settings: Settings, tenant: str, args: argparse.Namespace, data: Any) -> dict[str, Any]:
    stored, aggregate, _ = COMMANDS[args.command]
    subject = subjects.command(tenant, aggregate, subjects.require_token("ID", args.id), args.command)
    body = {
        "specversion": "1.0",
        "id": args.command_id or str(uuid4()),
        "source": SOURCE,
        "type": stored,
        "subject": f"{aggregate}/{args.id}",
        "time": args.time or datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "tenantid": tenant,
        "datacontenttype": "application/json",
        "data": data,
    }
    if args.actor:
        body["actor"] = args.actor
    client = await connect(settings.nats_url, "tally-send")
    try:
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox, max_msgs=1)
        headers = {REPLY_TO_HEADER: inbox}
        await client.jetstream().publish(subject, json.dumps(body).encode(), headers=headers, timeout=args.timeout)
        answer = await answers.next_msg(timeout=args.timeout)
    except TimeoutError as err:
        message = (
            f"no outcome of command {body['id']} within {args.timeout:g} s: is a worker running (tally status)? "
            f"send it again with --command-id {body['id']}; it is executed once"
        )
        raise TallyError(message) from err
    finally:
        await client.close()
    outcome: dict[str, Any] = json.loads(answer.data)
    return outcome


def _line(outcome: dict[str, Any]) -> str:
    data = outcome["data"]
    if outcome["type"] == "command-accepted/1":
        events = ", ".join(f"{event['id']} ({event['type']}, #{event['stream_seq']})" for event in data["events"])
        return f"accepted {outcome['causationid']}: {events}"
    return f"refused {outcome['causationid']}: {data['code']}: {data['message']}"
