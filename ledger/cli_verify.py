"""`tally verify`: check a receipt, or anybody's tlog-proof, against a policy; reads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ledger.cli_output import Report, load_policy, read_file
from ledger.completeness import COMPLETENESS_FORMAT, parse_completeness, verify_completeness
from ledger.errors import LedgerError, WrongUse
from ledger.export import is_export, read_export, verify_export
from ledger.policy import Policy
from ledger.receipt import PROOF_FORMAT, Claim, parse_proof, parse_receipt, verify_proof, verify_receipt

HELP = "check a receipt, a month's export or a proof of completeness offline: entries, proofs, signatures, month"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "receipt", type=Path, metavar="RECEIPT", help="receipt of `tally prove`, export of a month, or .tlog-proof"
    )
    parser.add_argument(
        "--policy", type=Path, required=True, metavar="FILE", help="trust root: keys, witnesses, quorum"
    )
    parser.add_argument("--entry", type=Path, metavar="FILE", help="the logged bytes, for a .tlog-proof file")
    parser.add_argument(
        "--require-stamp",
        action="store_true",
        help="refuse a receipt or export without a time stamp by each authority that the policy names for its month",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "examples:\n"
        "  tally verify winner.receipt --policy boston.policy\n"
        "  tally verify boston-2026-11.zip --policy boston.policy\n"
        "  tally verify winner.tlog-proof --entry winner.json --policy boston.policy"
    )


def run(args: argparse.Namespace) -> int:
    policy = load_policy(args.policy)
    data = b"" if args.receipt.is_dir() else read_file("receipt", args.receipt)
    report = Report(is_json=args.json)
    try:
        for claim in _claims(args, data, policy):
            report.claim(claim)
    except WrongUse:
        raise
    except LedgerError as err:
        return report.finish(err)
    return report.finish(None)


def _claims(args: argparse.Namespace, data: bytes, policy: Policy) -> Iterator[Claim]:
    what = args.receipt.name
    if is_export(args.receipt, data):
        yield from verify_export(what, read_export(args.receipt, data), policy, needs_stamp=args.require_stamp)
        return
    if args.require_stamp and (COMPLETENESS_FORMAT.encode() in data[:100] or data.startswith(PROOF_FORMAT.encode())):
        raise WrongUse(f"--require-stamp goes with a receipt or an export; {what} is neither and holds no time stamps")
    if COMPLETENESS_FORMAT.encode() in data[:100]:
        yield from verify_completeness(what, parse_completeness(what, data), policy)
        return
    if not data.startswith(PROOF_FORMAT.encode()):
        if args.entry is not None:
            raise WrongUse(f"--entry goes with a .tlog-proof file; {what} is none, a receipt holds its entry")
        yield from verify_receipt(what, parse_receipt(what, data), policy, needs_stamp=args.require_stamp)
        return
    if args.entry is None:
        raise WrongUse(f"{what} is a tlog-proof, which does not hold its entry: name it with --entry FILE")
    entry = read_file("entry", args.entry)
    yield from verify_proof(what, entry, parse_proof(what, data), policy)
