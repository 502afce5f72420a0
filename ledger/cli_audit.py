"""`tally audit`: compute a whole published log again from its entries."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from ledger.audit import AuditReport, audit_log
from ledger.cli_output import Report, load_policy, open_log, progress_bar, read_file
from ledger.errors import HistoryForked, LedgerError, WrongUse
from ledger.files import Folder, Source, require
from ledger.history import require_fresh, write_evidence
from ledger.policy import OpenedCheckpoint, Policy
from ledger.progress import ProgressFile
from ledger.receipt import Claim
from ledger.tiles import CHECKPOINT
from ledger.times import CLOCK_SKEW_S

CompareCopies = Callable[[Source, OpenedCheckpoint], list[Claim]]
HELP = "compute a published log again: every entry, hash, link, root and month"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="folder or http(s) URL that has the log's checkpoint below it")
    parser.add_argument(
        "--policy", type=Path, required=True, metavar="FILE", help="trust root: keys, witnesses, quorum"
    )
    parser.add_argument(
        "--remember", type=Path, metavar="FILE", help="checkpoint of the last good audit: checked, then replaced"
    )
    parser.add_argument(
        "--max-age", type=int, metavar="SECONDS", help="refuse an older checkpoint, or one from the future"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="go on where an interrupted audit stopped, as FILE remembers it"
    )
    parser.add_argument(
        "--clock-skew",
        type=int,
        default=CLOCK_SKEW_S,
        metavar="SECONDS",
        help=f"how far events may be off from the times of the checkpoints around them (default: {CLOCK_SKEW_S})",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that hash and parse (default: 1)")
    parser.add_argument("--plain", action="store_true", help="a C2SP log that is not ours: tiles and entries alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "examples:\n"
        "  tally audit .tally/published/boston --policy boston.policy\n"
        "  tally audit https://log.example.org/boston --policy boston.policy --jobs 2 --remember boston.last \\\n"
        "      --resume boston.progress                        # interrupted, it goes on there"
    )


def run(args: argparse.Namespace, compare_copies: CompareCopies | None = None) -> int:
    """Audit; `compare_copies` compares what an installation holds besides, when all else has passed."""
    policy = load_policy(args.policy)
    source = open_log(args.log)
    for option, number, least in (("--jobs", args.jobs, 1), ("--clock-skew", args.clock_skew, 0)):
        if number < least:
            raise WrongUse(option, expected=f"a number from {least}", found=number)
    known = _remembered(args.remember, policy)
    report = Report(is_json=args.json)
    try:
        found = _audit(args, source, policy, known)
        copies = [] if compare_copies is None else compare_copies(source, found.checkpoint)
    except WrongUse:
        raise
    except LedgerError as err:
        return report.finish(err)
    finally:
        source.close()
    for claim in [*found.claims, *copies]:
        report.claim(claim)
    if args.remember is not None:
        Folder(args.remember.parent).replace(args.remember.name, found.checkpoint.note)
    return report.finish(None, _details(found))


def _remembered(path: Path | None, policy: Policy) -> OpenedCheckpoint | None:
    if path is None or not path.exists():
        return None
    return policy.open(f"remembered checkpoint {path}", read_file("remembered checkpoint", path))


def _audit(args: argparse.Namespace, source: Source, policy: Policy, known: OpenedCheckpoint | None) -> AuditReport:
    progress = None if args.json else progress_bar("audit")
    resume = None
    if args.resume is not None:
        options = {"log": args.log, "plain": args.plain, "clock_skew_s": args.clock_skew}
        resume = ProgressFile(args.resume, options)
    try:
        found = audit_log(
            source,
            policy,
            is_plain=args.plain,
            known=known,
            progress=progress,
            jobs=args.jobs,
            clock_skew_s=args.clock_skew,
            progress_file=resume,
        )
    except HistoryForked as err:
        earlier = resume.load() if resume else None
        before = known or (policy.open(f"progress {args.resume}", earlier.checkpoint) if earlier else None)
        if before is None:
            raise
        shown = policy.open(CHECKPOINT, require(source, CHECKPOINT))
        evidence = write_evidence(args.remember or args.resume, err, before, shown)
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
