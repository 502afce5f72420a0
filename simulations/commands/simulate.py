"""`tally simulate burst|marathon`: load on a running installation, or on a temporary one."""

from __future__ import annotations

import argparse
import sys

from simulations.installation import EXIT_INTERRUPTED, interruptible

HELP = "put load on an installation and check that nothing was lost: burst, marathon"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "examples:\n"
        "  tally simulate burst --completions 100000 --clients 3\n"
        "  tally simulate marathon --players 1000 --tenant trial\n"
        "With an installation up in --data it runs there, else on a temporary one that is gone afterwards."
    )
    parser.add_argument("what", choices=("burst", "marathon"), help="all at one moment, or the Boston Marathon of 2014")
    parser.add_argument(
        "--completions", type=_count, default=10_000, metavar="N", help="burst: players (default 10,000)"
    )
    parser.add_argument("--clients", type=_count, default=3, metavar="N", help="burst: client processes (default 3)")
    parser.add_argument("--players", type=_count, metavar="N", help="marathon: only the first N finishers")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(args: argparse.Namespace) -> int:
    """0 when every check holds, 1 when one fails, 130 after Ctrl-C."""
    with interruptible():
        try:
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
