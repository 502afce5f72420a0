"""The auditors' program: `python -m ledger.cli verify|audit|consistency|witness`; all but one are in `tally` too.

Exit code 0 when all holds, 1 when a check failed, 2 on wrong use.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ledger import cli_audit, cli_consistency, cli_verify, cli_witness
from ledger.errors import LedgerError

_MODULES = {"verify": cli_verify, "audit": cli_audit, "consistency": cli_consistency, "witness": cli_witness}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}: see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    parser = _Parser(
        prog="tally-verify", description="Check receipts and logs, offline, without trusting their operator."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in _MODULES.items():
        subparser = subparsers.add_parser(
            name, help=module.HELP, description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.configure(subparser)
    args = parser.parse_args(argv)
    try:
        return _MODULES[args.command].run(args)
    except LedgerError as err:
        print(f"tally-verify: {err}", file=sys.stderr)
        return err.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
