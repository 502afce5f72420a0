"""The command line: a command is found, imported alone, and every failure is one line."""

import errno
import sys
from types import ModuleType

import pytest

from adapters import cli
from adapters.errors import CheckFailed, TallyError
from tests.platform.source_tree import python_files


def plug_in(monkeypatch, run, configure=lambda _: None):
    module = ModuleType("plugged_in_command")
    module.HELP, module.run, module.configure = "a command of this test", run, configure
    monkeypatch.setitem(sys.modules, "plugged_in_command", module)
    monkeypatch.setitem(cli.COMMANDS, "plugged", "plugged_in_command")


def failing(error):
    def run(_):
        raise error

    return run


def test_a_command_gets_its_own_and_the_common_options_at_any_place(monkeypatch):
    seen = []

    def configure(parser):
        nested = parser.add_subparsers(dest="action", required=True)
        nested.add_parser("top").add_argument("--count", type=int)

    plug_in(monkeypatch, lambda args: seen.append(args) or 0, configure)
    code = cli.main(["plugged", "top", "--count", "3", "--data", "elsewhere", "--tenant", "boston"])

    assert code == 0
    assert (str(seen[0].data), seen[0].tenant, seen[0].action, seen[0].count) == ("elsewhere", "boston", "top", 3)


def test_the_data_directory_is_dot_tally_and_the_tenant_comes_from_the_environment(monkeypatch):
    seen = []
    monkeypatch.setenv("TALLY_TENANT", "oslo")
    plug_in(monkeypatch, lambda args: seen.append(args) or 0)
    cli.main(["plugged"])

    assert (str(seen[0].data), seen[0].tenant) == (".tally", "oslo")


def test_an_unknown_command_is_wrong_use(capsys):
    assert cli.main(["reticulate"]) == 2
    assert capsys.readouterr().err == "tally: 'reticulate' is not a command: tally --help lists them\n"


def test_an_unknown_option_is_said_in_one_line(monkeypatch, capsys):
    plug_in(monkeypatch, lambda _: 0)
    with pytest.raises(SystemExit) as ended:
        cli.main(["plugged", "--frobnicate"])

    assert ended.value.code == 2
    assert capsys.readouterr().err == "tally: unrecognized arguments: --frobnicate: see tally plugged --help\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (TallyError("got a, wanted b, do c"), 2, "got a, wanted b, do c"),
        (CheckFailed("leaf 3 differs"), 1, "leaf 3 differs"),
        (ExceptionGroup("tasks", [TallyError("within a group")]), 2, "within a group"),
        (TallyError("two\nlines"), 2, "two lines"),
        (OSError(errno.ENOSPC, "No space left on device", "x.log"), 2, "no space left on the device (x.log)"),
        (PermissionError(errno.EACCES, "Permission denied", "keys"), 2, "keys: Permission denied: check the path"),
        (ModuleNotFoundError("No module named 'nats'", name="nats"), 2, "the package 'nats' is not installed"),
        (ZeroDivisionError("division by zero"), 2, "unexpected ZeroDivisionError: division by zero (TALLY_DEBUG=1"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code, line):
    monkeypatch.delenv("TALLY_DEBUG", raising=False)
    plug_in(monkeypatch, failing(error))
    answered = cli.main(["plugged"])
    said = capsys.readouterr().err

    assert answered == code
    assert said.startswith(f"tally: {line}") if line else said == ""
    assert said.count("\n") <= 1
    assert "Traceback" not in said


def test_a_bug_shows_where_it_is_when_asked(monkeypatch, capsys):
    monkeypatch.setenv("TALLY_DEBUG", "1")
    plug_in(monkeypatch, failing(ZeroDivisionError("division by zero")))
    cli.main(["plugged"])

    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("base", cli.ERROR_BASES)
def test_the_errors_of_every_package_are_sentences_for_people(monkeypatch, capsys, base):
    import importlib

    module, name = base
    error = type("Special", (getattr(importlib.import_module(module), name),), {"__str__": lambda _: "as it says"})
    plug_in(monkeypatch, failing(error.__new__(error)))
    code = cli.main(["plugged"])

    assert capsys.readouterr().err == "tally: as it says\n"
    assert code in {1, 2}


def test_help_lists_every_command_of_this_version_without_importing_it(capsys):
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out

    for name in ("up", "down", "doctor"):
        assert f"\n  {name} " in listed


def modules_of_this_version():
    import importlib.metadata
    import importlib.util

    entries = {entry.name: entry.value for entry in importlib.metadata.entry_points(group=cli.ENTRY_POINTS)}
    return {name: module for name, module in (cli.COMMANDS | entries).items() if importlib.util.find_spec(module)}


def test_every_module_with_a_command_is_in_the_table():
    found = [path for path in python_files("adapters") if path.parent.name == "commands" and path.stem != "__init__"]
    modules = {".".join(path.with_suffix("").parts) for path in found}

    assert modules <= set(cli.COMMANDS.values())


@pytest.mark.parametrize("name", modules_of_this_version())
def test_every_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])

    assert ended.value.code == 0
    assert f"tally {name}" in capsys.readouterr().out.partition("example")[2]
