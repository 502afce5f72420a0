"""`tally dead-letters`: commands that our own code could not decide, and what becomes of them."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

import nats.errors
from nats.aio.client import Client

from adapters.errors import TallyError
from adapters.jetstream.connection import connect
from adapters.jetstream.dead_letters import (
    DISCARD_HEADER,
    REDRIVE_HEADER,
    REPLY_TO_HEADER,
    DeadLetter,
    JetStreamDeadLetters,
)
from adapters.json_option import add_json
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from bus import subjects

HELP = "list, show, redrive or discard commands that could not be decided"
OUTCOME_WITHIN_S = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """`list`, `show SEQ`, `redrive AGGREGATE/ID`, `discard AGGREGATE/ID`."""
    parser.epilog = (
        "example:\n  tally dead-letters list\n"
        "  tally dead-letters redrive player/b19   # in order, stops at a failure\n"
        "  tally dead-letters discard player/b19 --first   # only the one that is in the way"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|redrive|discard")
    actions.add_parser("list", help="every parked command")
    show = actions.add_parser("show", help="one parked command, whole")
    show.add_argument("seq", type=int, metavar="SEQ")
    for name, what in (
        ("redrive", "execute an aggregate's parked commands in order"),
        ("discard", "refuse an aggregate's parked commands for ever, with an outcome"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("aggregate", metavar="AGGREGATE/ID", help="like player/b19")
        action.add_argument("--first", action="store_true", help="only the first one")
    add_json(parser, actions)


def run(args: argparse.Namespace) -> int:
    """0 when done, 1 when a redriven command failed again."""
    settings = Settings.load(args.data, need=("nats_url",))
    tenant = which_tenant(settings, args.tenant)
    return asyncio.run(_run(settings, tenant, args))


async def _run(settings: Settings, tenant: str, args: argparse.Namespace) -> int:
    client = await connect(settings.nats_url, "tally-dead-letters")
    dead = JetStreamDeadLetters(client, tenant)
    try:
        if args.action == "list":
            return _print_all(await dead.letters(), as_json=args.json)
        if args.action == "show":
            letter = await dead.get(args.seq)
            if letter is None:
                raise TallyError(f"nothing is parked under {args.seq}: tally dead-letters list shows what is")
            return _print_one(letter, as_json=args.json)
        return await _end(client, tenant, dead, args)
    finally:
        await client.close()


async def _end(client: Client, tenant: str, dead: JetStreamDeadLetters, args: argparse.Namespace) -> int:
    """Give parked commands their final outcome, one after another."""
    aggregate, _, owner = args.aggregate.partition("/")
    letters = [one for one in await dead.letters() if (one.aggregate, one.owner) == (aggregate, owner)]
    if not letters:
        raise TallyError(f"nothing of {args.aggregate!r} is parked: tally dead-letters list shows what is")
    header = REDRIVE_HEADER if args.action == "redrive" else DISCARD_HEADER
    for letter in letters[:1] if args.first else letters:
        outcome = await _send(client, tenant, letter, header)
        print(json.dumps(outcome) if args.json else _line(letter, outcome))
        if outcome["type"] == "command-parked/1":
            return 1
        await dead.remove(letter.dead_seq)
    return 0


async def _send(client: Client, tenant: str, letter: DeadLetter, header: str) -> dict[str, Any]:
    """Send a parked command again under an operator's word; its sender hears the outcome too."""
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox, max_msgs=1)
    subject = subjects.command(tenant, letter.aggregate, letter.owner, letter.command)
    headers = {header: str(letter.dead_seq), REPLY_TO_HEADER: inbox}
    try:
        await client.jetstream().publish(subject, letter.body, headers=headers)
        answer = await answers.next_msg(timeout=OUTCOME_WITHIN_S)
    except (nats.errors.Error, TimeoutError) as err:
        raise TallyError(f"no outcome of {letter.command_id} ({err}): is a worker running (tally status)?") from err
    await client.publish(letter.reply_to or subjects.outcome(tenant, letter.command_id), answer.data)
    outcome: dict[str, Any] = json.loads(answer.data)
    return outcome


def _print_all(letters: list[DeadLetter], *, as_json: bool) -> int:
    rows = [{key: value for key, value in _row(one).items() if key != "body"} for one in letters]
    if as_json:
        print(json.dumps(rows))
    elif not rows:
        print("nothing is parked")
    for one in () if as_json else letters:
        target = f"{one.aggregate}/{one.owner}"
        print(f"{one.dead_seq:>8}  {target:<24} {one.command:<16} {one.command_id:<38} {one.reason}")
    return 0


def _print_one(letter: DeadLetter, *, as_json: bool) -> int:
    row = _row(letter)
    print(json.dumps(row) if as_json else "\n".join(f"{key:<11} {value}" for key, value in row.items()))
    return 0


def _line(letter: DeadLetter, outcome: dict[str, Any]) -> str:
    data = outcome["data"]
    said = f"{len(data['events'])} events" if "events" in data else f"{data['code']}: {data['message']}"
    return f"{letter.command_id}  {outcome['type'].removeprefix('command-').removesuffix('/1')}: {said}"


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "seq": letter.dead_seq,
        "aggregate": f"{letter.aggregate}/{letter.owner}",
        "command": letter.command,
        "command_id": letter.command_id,
        "reason": letter.reason,
        "parked_at": letter.parked_at,
        "body": letter.body.decode(errors="replace"),
    }
