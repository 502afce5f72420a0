"""`tally audit`: compute a whole published log again from its entries."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ledger.audit import AuditReport, audit_log
from ledger.cli_output import Report, load_policy, progress_bar, read_file
from ledger.errors import HistoryForked, LedgerError, WrongUse
from ledger.files import Folder, require
from ledger.history import require_fresh, write_evidence
from ledger.policy import OpenedCheckpoint, Policy
from ledger.tiles import CHECKPOINT

HELP = "compute a published log again: every entry, hash, link, root and month"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", type=Path, metavar="LOGDIR", help="folder that holds the log's checkpoint")
    parser.add_argument(
        "--policy", type=Path, required=True, metavar="FILE", help="trust root: keys, witnesses, quorum"
    )
    parser.add_argument(
        "--remember", type=Path, metavar="FILE", help="checkpoint of the last good audit: checked, then replaced"
    )
    parser.add_argument(
        "--max-age", type=int, metavar="SECONDS", help="refuse an older checkpoint, or one from the future"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that hash and parse (default: 1)")
    parser.add_argument("--plain", action="store_true", help="a C2SP log that is not ours: tiles and entries alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "examples:\n"
        "  tally audit .tally/published/boston --policy boston.policy\n"
        "  tally audit /mnt/boston --policy boston.policy --remember boston.last --max-age 86400"
    )


def run(args: argparse.Namespace) -> int:
    policy = load_policy(args.policy)
    if not args.log.is_dir():
        raise WrongUse(f"{args.log} is no folder: name the folder that holds the log's checkpoint")
    if args.jobs < 1:
        raise WrongUse("--jobs", expected="a number from 1", found=args.jobs)
    known = _remembered(args.remember, policy)
    report = Report(is_json=args.json)
    try:
        found = _audit(args, policy, known)
    except WrongUse:
        raise
    except LedgerError as err:
        return report.finish(err)
    for claim in found.claims:
        report.claim(claim)
    if args.remember is not None:
        Folder(args.remember.parent).replace(args.remember.name, found.checkpoint.note)
    return report.finish(None, _details(found))


def _remembered(path: Path | None, policy: Policy) -> OpenedCheckpoint | None:
    if path is None or not path.exists():
        return None
    return policy.open(f"remembered checkpoint {path}", read_file("remembered checkpoint", path))


def _audit(args: argparse.Namespace, policy: Policy, known: OpenedCheckpoint | None) -> AuditReport:
    folder = Folder(args.log)
    progress = None if args.json else progress_bar("audit")
    try:
        found = audit_log(folder, policy, is_plain=args.plain, known=known, progress=progress, jobs=args.jobs)
    except HistoryForked as err:
        if known is None:
            raise
        shown = policy.open(CHECKPOINT, require(folder, CHECKPOINT))
        evidence = write_evidence(args.remember, err, known, shown)
        raise HistoryForked(f"{err}; both signed checkpoints are kept in {evidence}") from err
    if args.max_age is not None:
        require_fresh(found.checkpoint, int(time.time()), args.max_age)
    return found


def _details(found: AuditReport) -> dict[str, object]:
    checkpoint = found.checkpoint.checkpoint
    months = [
        {"month": m.month, "provisional": m.is_provisional, "size": m.closing.tree_size, "root": m.closing_root.hex()}
        for m in found.months
    ]
    return {
        "origin": checkpoint.origin,
        "tree_size": checkpoint.tree_size,
        "root": checkpoint.root.hex(),
        "chain_head": found.link.hex(),
        "signed_at_seconds": found.checkpoint.at_seconds,
        "per_type": dict(sorted(found.counts.items())),
        "months": months,
    }
