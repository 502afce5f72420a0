"""`tally audit`: compute a whole published log again from its entries."""

from __future__ import annotations

import argparse
from pathlib import Path

from ledger.audit import AuditReport, audit_log
from ledger.cli_output import Report, load_policy, progress_bar
from ledger.errors import LedgerError, WrongUse
from ledger.files import Folder

HELP = "compute a published log again: every entry, hash, link, root and month"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "log", type=Path, metavar="LOGDIR", help="folder with the log's checkpoint, tile/, chain/, roots/"
    )
    parser.add_argument(
        "--policy", type=Path, required=True, metavar="FILE", help="trust root: keys, witnesses, quorum"
    )
    parser.add_argument(
        "--plain", action="store_true", help="a C2SP log that is not ours: no chain, months, event rules"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "example:\n  tally audit .tally/published/boston --policy boston.policy"


def run(args: argparse.Namespace) -> int:
    policy = load_policy(args.policy)
    if not args.log.is_dir():
        raise WrongUse(f"{args.log} is no folder: name the folder that holds the log's checkpoint")
    report = Report(is_json=args.json)
    progress = None if args.json else progress_bar("audit")
    try:
        found = audit_log(Folder(args.log), policy, is_plain=args.plain, progress=progress)
    except WrongUse:
        raise
    except LedgerError as err:
        return report.finish(err)
    for claim in found.claims:
        report.claim(claim)
    return report.finish(None, _details(found))


def _details(found: AuditReport) -> dict[str, object]:
    checkpoint = found.checkpoint.checkpoint
    return {
        "origin": checkpoint.origin,
        "tree_size": checkpoint.tree_size,
        "root": checkpoint.root.hex(),
        "chain_head": found.link.hex(),
        "signed_at_seconds": found.checkpoint.at_seconds,
        "per_type": dict(sorted(found.counts.items())),
        "months": [
            {
                "month": m.month,
                "provisional": m.is_provisional,
                "size": m.closing.tree_size,
                "root": m.closing_root.hex(),
            }
            for m in found.months
        ],
    }
