"""`tally demo`: the 2014 Boston Marathon from the first command to a proof, on this machine."""

from __future__ import annotations

import argparse
import sys

from simulations.installation import EXIT_INTERRUPTED, interruptible

HELP = "replay the 2014 Boston Marathon, check everything, prove the winner's finish"
TENANT = "boston"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "examples:\n"
        "  tally demo                   # the whole race, in .tally\n"
        "  tally demo --players 1000    # a small one\n"
        "Run it again, or after Ctrl-C: nothing is executed twice."
    )
    parser.add_argument("--players", type=_count, metavar="N", help="only the first N finishers (default: all 31,984)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, nothing else")


def run(args: argparse.Namespace) -> int:
    """0 when every check holds, 1 when one fails, 130 after Ctrl-C."""
    with interruptible():
        try:
            from simulations.demo import play

            return play(args.data, args.tenant or TENANT, args.players, as_json=args.json)
        except KeyboardInterrupt:
            print("\ntally: interrupted, everything is stopped; run it again and it goes on", file=sys.stderr)
            return EXIT_INTERRUPTED


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        message = f"{text!r} is no number of players, 1 or more is wanted"
        raise argparse.ArgumentTypeError(message)
    return int(text)
