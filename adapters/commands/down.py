"""`tally down`: stops an installation and returns when all of it is gone."""

import argparse

from adapters.settings import ENDPOINTS_FILE
from adapters.supervisor_lock import stop_supervisor

HELP = "stop an installation and wait until everything is gone"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  tally down --data .tally"
    parser.add_argument(
        "--within", type=float, default=60.0, metavar="SECONDS", help="then what still runs is killed (default: 60)"
    )


def run(args: argparse.Namespace) -> int:
    stopped = stop_supervisor(args.data, args.within)
    endpoints = args.data / ENDPOINTS_FILE
    if endpoints.exists():
        endpoints.unlink()
        print(f"tally: removed {endpoints}, which a killed supervisor had left")
    print(f"tally: stopped {args.data}" if stopped else f"tally: nothing was running in {args.data}")
    return 0
