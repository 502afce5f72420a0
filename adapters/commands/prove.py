"""`tally prove`: one file that proves an event to anybody, offline, or that these are all events of a month."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from pathlib import Path

from adapters.errors import NotConfigured, TallyError
from adapters.key_services import key_opener
from adapters.published_log import keys_dir_of, load_policy, log_dir_of, log_tenant
from adapters.settings import Settings
from ledger.checkpoint import parse_checkpoint
from ledger.completeness import prove_completeness
from ledger.cose import cose_receipt, public_pem
from ledger.errors import LogDamaged, NotYetSigned, ObjectMissing
from ledger.events import describe, event_id
from ledger.files import Folder, require
from ledger.keyring import load_keyring
from ledger.months import parse_month
from ledger.policy import Policy
from ledger.reader import LogReader
from ledger.receipt import Receipt, prove_entry
from ledger.tiles import CHECKPOINT

HELP = "write a receipt that proves an event, or all events of a player in a month, to anybody, offline"
POLL_S = 0.05


def configure(parser: argparse.ArgumentParser) -> None:
    """`EVENT_ID`, or `--all` with whom and when."""
    parser.add_argument(
        "event_id", nargs="?", metavar="EVENT_ID", help="<aggregate>.<id>.<version>, as in player.b19.12"
    )
    parser.add_argument("--all", action="store_true", help="prove that these are all events, or that there are none")
    parser.add_argument("--player", metavar="ID", help="with --all: of a player and the player's account")
    parser.add_argument("--subject", action="append", metavar="AGGREGATE/ID", help="with --all: of a subject")
    parser.add_argument("--month", metavar="YYYY-MM", help="with --all: a month that is closed")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="receipt to write (default: EVENT_ID.receipt)"
    )
    parser.add_argument("--policy", type=Path, metavar="FILE", help="trust root (default: the one beside the keys)")
    parser.add_argument(
        "--wait", type=float, default=5.0, metavar="SECONDS", help="for a checkpoint that covers the event (default: 5)"
    )
    parser.add_argument("--tlog-proof", type=Path, metavar="FILE", help="write the bare C2SP tlog-proof too")
    parser.add_argument("--entry", type=Path, metavar="FILE", help="write the event's bytes too")
    parser.add_argument(
        "--cose", type=Path, metavar="FILE", help="write a COSE receipt (RFC 9942) too, for SCITT tools"
    )
    parser.add_argument("--cose-key", type=Path, metavar="FILE.pem", help="write the key that it verifies under")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "examples:\n  tally prove player.b19.12 -o b19.receipt\n"
        "  tally prove --all --player b19 --month 2026-11 -o b19-november.receipt\n"
        "  tally prove player.b19.12 --tlog-proof b19.tlog-proof --entry b19.json --cose b19.cose\n"
        "  tally verify b19.receipt --policy .tally/keys/boston/policy"
    )


def run(args: argparse.Namespace) -> int:
    """Find the event, wait for its checkpoint, write the receipt."""
    settings = Settings.load(args.data, need=("log_dir", "keys_dir"))
    tenant = log_tenant(settings, args.tenant)
    policy = load_policy(settings, tenant, args.policy)
    folder = Folder(log_dir_of(settings, tenant))
    if args.all:
        return _prove_all(args, folder, policy)
    if not args.event_id or args.player or args.subject or args.month:
        raise TallyError("name one EVENT_ID, or --all with --player or --subject and --month: tally prove --help")
    leaf_index = _find(settings, tenant, folder, args.event_id)
    receipt = _prove(folder, policy, leaf_index, args.wait)
    if event_id(receipt.entry) != args.event_id:
        raise LogDamaged(f"entry {leaf_index}", expected=f"event {args.event_id}", found=describe(receipt.entry))
    output = args.output or Path(f"{args.event_id}.receipt")
    written = {output: bytes(receipt), args.tlog_proof: bytes(receipt.proof), args.entry: receipt.entry}
    if args.cose is not None or args.cose_key is not None:
        keyring = load_keyring(keys_dir_of(settings, tenant), key_opener(os.environ))
        cose, key = cose_receipt(receipt, keyring, policy)
        written |= {args.cose: cose, args.cose_key: public_pem(key)}
    for path, data in written.items():
        if path is not None:
            path.write_bytes(data)
    checkpoint, _ = parse_checkpoint("proof's checkpoint", receipt.proof.checkpoint)
    if args.json:
        found = {"receipt": str(output), "leaf_index": leaf_index, "tree_size": checkpoint.tree_size}
        print(json.dumps(found | {"root": checkpoint.root.hex(), "month_closed": receipt.certificate is not None}))
    else:
        print(f"{output}: {describe(receipt.entry)} is leaf {leaf_index} under the checkpoint of {checkpoint}")
    return 0


def _prove_all(args: argparse.Namespace, folder: Folder, policy: Policy) -> int:
    subjects = [*([f"player/{args.player}", f"token/{args.player}"] if args.player else []), *(args.subject or [])]
    if args.event_id or not subjects or not args.month:
        raise TallyError("--all takes --player ID or --subject AGGREGATE/ID, and --month YYYY-MM, and no EVENT_ID")
    proof = prove_completeness(folder, policy, parse_month(args.month), subjects)
    output = args.output or Path(f"{subjects[0].replace('/', '.')}.{args.month}.receipt")
    output.write_bytes(bytes(proof))
    counts = {subject.subject: len(subject.entries) for subject in proof.subjects}
    if args.json:
        print(json.dumps({"receipt": str(output), "month": args.month, "events": counts}))
    else:
        shown = ", ".join(f"{count} events of {subject}" for subject, count in counts.items())
        print(f"{output}: exactly {shown} in {args.month}")
    return 0


def _find(settings: Settings, tenant: str, folder: Folder, wanted: str) -> int:
    if settings.nats_url:
        try:
            return asyncio.run(_ask_stream(settings, tenant, wanted)) - 1
        except NotConfigured:  # the servers are down; the published log is a full copy
            pass
    leaf_index = _scan(folder, wanted)
    if leaf_index is None:
        raise TallyError(f"event {wanted} is not in {folder.root}: is the id right (tally player shows versions)?")
    return leaf_index


async def _ask_stream(settings: Settings, tenant: str, wanted: str) -> int:
    from adapters.jetstream.connection import connect
    from adapters.jetstream.past import find_event

    client = await connect(settings.nats_url, "tally-prove", patience_s=1.0)
    try:
        return await find_event(client, tenant, wanted)
    finally:
        await client.close()


def _scan(folder: Folder, wanted: str) -> int | None:
    checkpoint, _ = parse_checkpoint(CHECKPOINT, require(folder, CHECKPOINT))
    mark = json.dumps(wanted).encode()
    for leaf_index, entry in LogReader(folder, checkpoint.tree_size).entries(0, checkpoint.tree_size):
        if mark in entry and event_id(entry) == wanted:
            return leaf_index
    return None


def _prove(folder: Folder, policy: Policy, leaf_index: int, wait_s: float) -> Receipt:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return prove_entry(folder, policy, leaf_index)
        except (NotYetSigned, ObjectMissing) as err:
            if time.monotonic() >= deadline:
                raise TallyError(
                    f"no checkpoint covers the event after {wait_s:g} s ({err}): is the signer running (tally status)?"
                ) from err
        time.sleep(POLL_S)
