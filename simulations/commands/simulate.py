"""`tally simulate burst|marathon|chaos|corruption|crashes`: load on an installation, faults on one of its own."""

from __future__ import annotations

import argparse
import sys

from simulations.installation import EXIT_INTERRUPTED, interruptible

HELP = "put load on an installation, or faults: burst, marathon, chaos, corruption, crashes; check that all holds"
CHOICES = ("burst", "marathon", "chaos", "corruption", "crashes")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "examples:\n"
        "  tally simulate burst --completions 100000 --clients 3\n"
        "  tally simulate marathon --players 1000 --tenant trial\n"
        "  tally simulate chaos --seed 7\n"
        "  tally simulate corruption --cases 10000 --jobs 2\n"
        "  tally simulate crashes --jobs 2\n"
        "With an installation up in --data it runs there, else on a temporary one that is gone afterwards.\n"
        "chaos kills and stops servers and workers of its own, and counts what became of every command.\n"
        "corruption damages a published log, one way at a time: an audit must find each and name the object.\n"
        "crashes kills a signer, or fails it, at each of its system calls (with strace): no fork, no lost log."
    )
    parser.add_argument("what", choices=CHOICES, help="all at once, Boston 2014, or faults")
    parser.add_argument(
        "--completions", type=_count, default=10_000, metavar="N", help="burst: players (default 10,000)"
    )
    parser.add_argument("--clients", type=_count, default=3, metavar="N", help="burst: client processes (default 3)")
    parser.add_argument("--players", type=_count, metavar="N", help="marathon: only the first N finishers")
    parser.add_argument("--seed", type=_count, metavar="N", help="chaos, corruption: the faults of an earlier run")
    parser.add_argument("--long", action="store_true", help="chaos: 80 kills and a cut cluster, 16 minutes")
    parser.add_argument("--cases", type=_count, metavar="N", help="corruption (1,000), crashes (all): how many")
    parser.add_argument("--jobs", type=_count, default=1, metavar="N", help="corruption, crashes: processes (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(args: argparse.Namespace) -> int:
    """0 when every check holds, 1 when one fails, 130 after Ctrl-C."""
    with interruptible():
        try:
            if args.what == "chaos":
                from simulations.chaos_report import chaos

                return chaos(args)
            if args.what in {"corruption", "crashes"}:
                from simulations.faults import faults

                return faults(args)
            from simulations.load import simulate

            return simulate(args)
        except KeyboardInterrupt:
            print("\ntally: interrupted, everything that was started here is stopped", file=sys.stderr)
            return EXIT_INTERRUPTED


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        message = f"{text!r} is no count, 1 or more is wanted"
        raise argparse.ArgumentTypeError(message)
    return int(text)
