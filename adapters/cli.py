"""The command line `tally`: finds the module of the chosen subcommand, imports only that one, and runs it.

A subcommand is a module with HELP (one line), configure(parser) and run(args) -> exit code. `--data DIR` and
`--tenant NAME` are accepted at any place after the name, and are in `args.data` and `args.tenant`.
"""

import argparse
import ast
import errno
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn, Protocol, cast

from adapters.errors import TallyError
from adapters.settings import DEFAULT_DATA_DIR

COMMANDS: dict[str, str] = {
    "up": "adapters.commands.up",
    "down": "adapters.commands.down",
    "status": "adapters.commands.status",
    "doctor": "adapters.commands.doctor",
    "run": "adapters.commands.run",
    "tenant": "adapters.commands.tenant",
    "send": "adapters.commands.send",
    "dead-letters": "adapters.commands.dead_letters",
    "replay": "adapters.commands.replay",
    "schema": "adapters.commands.schema",
    "leaderboard": "adapters.commands.leaderboard",
    "player": "adapters.commands.player",
    "quest": "adapters.commands.quest",
    "segment": "adapters.commands.segment",
    "account": "adapters.commands.account",
    "prove": "adapters.commands.prove",
    "verify": "ledger.cli_verify",
    "audit": "adapters.commands.audit",
    "restore": "adapters.commands.restore",
    "witness": "ledger.cli_witness",
    "roots": "adapters.commands.roots",
    "reconcile": "adapters.commands.reconcile",
    "lake": "adapters.commands.lake",
    "rebuild": "adapters.commands.rebuild",
    "keys": "adapters.commands.keys",
}
ENTRY_POINTS = "tally.commands"
# The bases of the packages below; none is imported only to be caught.
ERROR_BASES = (
    ("ledger.errors", "LedgerError"),
    ("domain.errors", "Refused"),
    ("bus.errors", "BusError"),
    ("projections.errors", "ProjectionError"),
)
EXIT_WRONG_USE = 2
EXIT_INTERRUPTED = 130


class Subcommand(Protocol):
    HELP: str

    def configure(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_WRONG_USE, f"tally: {message}: see {self.prog} --help\n")


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns 0 for success, 1 when a check failed, 2 on wrong use."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`): nothing more can be said, and nobody listens.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as err:  # noqa: BLE001 (the last place before the person who typed the command)
        return _report(err)


def _dispatch(arguments: list[str]) -> int:
    commands = COMMANDS | {entry.name: entry.value for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_overview(commands))
        return 0 if arguments else EXIT_WRONG_USE
    if arguments[0] == "--version":
        print(f"tallyroot {importlib.metadata.version('tallyroot')}")
        return 0
    name, *rest = arguments
    if name not in commands:
        raise TallyError(f"{name!r} is not a command: tally --help lists them")
    subcommand = _load(name, commands[name])
    return subcommand.run(_parse(name, commands[name], subcommand, rest))


def _load(name: str, module: str) -> Subcommand:
    try:
        return cast("Subcommand", importlib.import_module(module))
    except ModuleNotFoundError as err:
        if err.name == module:
            raise TallyError(f"tally {name} is not part of this version: tally --help lists what is") from err
        raise


def _parse(name: str, module: str, subcommand: Subcommand, rest: list[str]) -> argparse.Namespace:
    known: argparse.Namespace | None = None
    common: list[argparse.ArgumentParser] = []
    if not module.startswith("ledger."):  # the auditors' part knows no installation
        common = [_common_options()]
        known, rest = common[0].parse_known_args(rest)
    parser = Parser(
        prog=f"tally {name}",
        description=subcommand.HELP,
        parents=common,
        allow_abbrev=False,
        conflict_handler="resolve",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subcommand.configure(parser)
    return parser.parse_args(rest, known)


def _common_options() -> argparse.ArgumentParser:
    parser = Parser(add_help=False, allow_abbrev=False, prog="tally")
    group = parser.add_argument_group("which installation")
    group.add_argument(
        "--data", type=Path, default=DEFAULT_DATA_DIR, metavar="DIR", help="its data directory (default: .tally)"
    )
    group.add_argument(
        "--tenant",
        default=os.environ.get("TALLY_TENANT"),
        metavar="NAME",
        help="the tenant (default: TALLY_TENANT, else the only one)",
    )
    return parser


def _overview(commands: dict[str, str]) -> str:
    lines = [f"  {name:<12} {text}" for name, module in commands.items() if (text := _help_of(module))]
    return "\n".join(
        ["usage: tally COMMAND [--data DIR] [--tenant NAME] ...", "", *lines, "", "tally COMMAND --help tells more."]
    )


def _help_of(module: str) -> str | None:
    """Read HELP from the source: importing every command to list them would take seconds."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None:
        return None
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="HELP")], value=value)
                | ast.AnnAssign(target=ast.Name(id="HELP"), value=ast.expr() as value)
            ):
                return str(ast.literal_eval(value))
            case _:
                continue
    return None


def _report(err: Exception) -> int:
    cause = err
    while isinstance(cause, ExceptionGroup):  # a TaskGroup wraps what went wrong in it
        cause = cause.exceptions[0]
    if os.environ.get("TALLY_DEBUG"):
        traceback.print_exception(err)
    line = " ".join(_sentence(cause).split())
    print(f"tally: {line}", file=sys.stderr)
    code = getattr(cause, "exit_code", EXIT_WRONG_USE)
    return code if isinstance(code, int) else EXIT_WRONG_USE


def _sentence(err: Exception) -> str:
    bases = (TallyError, *(getattr(sys.modules[m], base) for m, base in ERROR_BASES if m in sys.modules))
    if isinstance(err, bases):
        return str(err)
    if isinstance(err, ModuleNotFoundError):
        return f"the package {err.name!r} is not installed: install the extras (pip install -e '.[embedded]')"
    if isinstance(err, OSError) and err.errno == errno.ENOSPC:
        return f"no space left on the device{f' ({err.filename})' if err.filename else ''}: free some, then try again"
    if isinstance(err, OSError) and err.filename:
        return f"{err.filename}: {err.strerror}: check the path and its permissions"
    return f"unexpected {type(err).__name__}: {err} (TALLY_DEBUG=1 shows where; please report it)"


if __name__ == "__main__":
    sys.exit(main())
