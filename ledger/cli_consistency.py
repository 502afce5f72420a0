"""`consistency`: prove from the tiles that a log extends an older checkpoint of it; reads no entries."""

from __future__ import annotations

import argparse
from pathlib import Path

from ledger.cli_output import Report, load_policy, open_log, read_file
from ledger.encoding import encode_base64
from ledger.errors import LedgerError, WrongUse
from ledger.files import require
from ledger.history import prove_extension
from ledger.reader import LogReader
from ledger.receipt import Claim, checkpoint_claim
from ledger.tiles import CHECKPOINT

HELP = "prove that a log extends an older checkpoint of it"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="folder or http(s) URL that has the log's checkpoint below it")
    parser.add_argument(
        "--old", type=Path, required=True, metavar="FILE", help="a checkpoint that was published before"
    )
    parser.add_argument(
        "--policy", type=Path, required=True, metavar="FILE", help="trust root: keys, witnesses, quorum"
    )
    parser.add_argument("--proof", type=Path, metavar="FILE", help="write the proof, a base64 hash on each line")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "example:\n  tally-verify consistency /mnt/boston --old october.checkpoint --policy boston.policy"


def run(args: argparse.Namespace) -> int:
    policy = load_policy(args.policy)
    old_note = read_file("checkpoint", args.old)
    report = Report(is_json=args.json)
    source = open_log(args.log)
    try:
        known = policy.open(f"old checkpoint {args.old.name}", old_note)
        report.claim(checkpoint_claim(known))
        found = policy.open(CHECKPOINT, require(source, CHECKPOINT))
        report.claim(checkpoint_claim(found))
        proof = prove_extension(known, found, LogReader(source, found.checkpoint.tree_size))
    except WrongUse:
        raise
    except LedgerError as err:
        return report.finish(err)
    finally:
        source.close()
    report.claim(Claim("consistency", f"the tree of size {found.checkpoint.tree_size} extends {known.checkpoint}"))
    lines = [encode_base64(value) for value in proof]
    if args.proof is not None:
        args.proof.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    return report.finish(None, {"proof": lines})
