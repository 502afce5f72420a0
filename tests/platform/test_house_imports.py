"""The direction of imports (DESIGN.md 9): who may know whom, and where each third-party client may be spoken to."""

import ast
import sys
from pathlib import Path

import pytest

from tests.platform.source_tree import PACKAGES, ROOT, imported_modules, python_files

# Which of our packages each package may import, besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    "domain": set(),
    "ledger": set(),
    "bus": {"domain"},
    "projections": {"bus", "domain"},
    "adapters": {"bus", "domain", "ledger", "projections"},
    "simulations": {"adapters", "bus", "domain", "ledger", "projections"},
}
# Stand for outside services in any language: they know NATS and JSON, and nothing of ours.
OUTSIDE_CLIENTS = Path("simulations/clients")
# Where each third-party client may be imported; the beginnings of paths.
CLIENT_PLACES: dict[str, tuple[str, ...]] = {
    # The senders of the crash tests stand for services too; they write down what the checker reads.
    "nats": ("adapters/", "simulations/clients/", "simulations/chaos", "benchmarks/"),
    "redis": ("adapters/redis", "benchmarks/"),
    "valkey": (),
    "psycopg": ("adapters/postgres", "benchmarks/"),
    "pyiceberg": ("adapters/iceberg", "adapters/lake", "benchmarks/"),
    "pyarrow": ("adapters/iceberg", "adapters/lake", "benchmarks/"),
    "boto3": ("adapters/s3.py",),
    "botocore": ("adapters/s3.py",),
    "pkcs11": ("adapters/key_pkcs11.py",),
    "eventsourcing": ("adapters/eventsourcing", "benchmarks/"),
}
# Where a connection is made; its errors and types may be named wherever the client may.
CONNECTION_PLACES: dict[str, tuple[str, ...]] = {
    "nats": ("adapters/jetstream/connection.py", "simulations/clients/", "simulations/chaos", "benchmarks/"),
}
# Pure packages: what they import besides these needs a discussion.
DOMAIN_MAY_USE = {"__future__", "collections", "dataclasses", "datetime", "enum", "functools", "math", "msgspec"}
DOMAIN_MAY_USE |= {"re", "typing"}
CLOCKS = {"now", "utcnow", "today"}
LEDGER_MAY_USE = {"cryptography"}


def import_faults(path: Path, source: str) -> list[str]:
    """One line for each import that `path` may not have."""
    top = path.parts[0]
    faults = []
    for module in imported_modules(source):
        name = module.split(".")[0]
        place = path.as_posix()
        if not name:
            faults.append(f"{place} imports relatively: write the full name")
        if name in PACKAGES and path.is_relative_to(OUTSIDE_CLIENTS):
            faults.append(f"{place} imports {module}: an outside client knows nothing of ours")
        elif name in PACKAGES and top in MAY_IMPORT and name != top and name not in MAY_IMPORT[top]:
            faults.append(f"{place} imports {module}: {top} may not know {name}")
        if name in CLIENT_PLACES and top != "tests" and not place.startswith(CLIENT_PLACES[name]):
            faults.append(f"{place} imports {module}: its place is {' or '.join(CLIENT_PLACES[name]) or 'nowhere'}")
        if top != "tests" and not place.startswith(CONNECTION_PLACES.get(module, "")):
            faults.append(f"{place} imports {module}: connections are made in {CONNECTION_PLACES[module][0]}")
        if top == "domain" and name not in DOMAIN_MAY_USE | set(PACKAGES):
            faults.append(f"{place} imports {module}: the domain is pure")
        if top == "ledger" and name not in sys.stdlib_module_names | LEDGER_MAY_USE | set(PACKAGES):
            faults.append(f"{place} imports {module}: auditors have the standard library and cryptography only")
    return faults


def test_the_domain_asks_no_clock():
    sources = [(ROOT / path).read_text(encoding="utf-8") for path in python_files("domain")]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    asked = [node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr in CLOCKS]

    assert len(nodes) > 1000
    assert asked == []


def test_every_import_goes_in_the_allowed_direction():
    files = python_files(*PACKAGES, "benchmarks")
    faults = [fault for path in files for fault in import_faults(path, (ROOT / path).read_text(encoding="utf-8"))]

    assert len(files) > 20
    assert faults == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("domain/x.py", "import bus.envelope"),
        ("domain/x.py", "import time"),
        ("ledger/x.py", "from domain import quest"),
        ("ledger/x.py", "import msgspec"),
        ("bus/x.py", "def f():\n    from adapters import settings"),
        ("bus/x.py", "import nats.errors"),
        ("projections/x.py", "import psycopg"),
        ("projections/x.py", "from ledger import tiles"),
        ("adapters/x.py", "import simulations"),
        ("adapters/x.py", "import nats"),
        ("adapters/commands/x.py", "import redis.asyncio"),
        ("simulations/x.py", "from nats.aio.client import Client"),
        ("simulations/clients/x.py", "from bus import subjects"),
        ("bus/x.py", "from . import subjects"),
    ],
)
def test_a_forbidden_import_is_found(path, source):
    assert len(import_faults(Path(path), source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ledger/x.py", "import hashlib, cryptography.exceptions, ledger.tiles"),
        ("adapters/x.py", "import nats.errors"),
        ("adapters/iceberg_x.py", "import pyiceberg, pyarrow, projections.x, bus.x"),
        ("simulations/clients/x.py", "import nats, json"),
        ("simulations/x.py", "import adapters.settings, ledger.tiles"),
        ("benchmarks/x.py", "import nats, psycopg, adapters.settings"),
    ],
)
def test_an_allowed_import_is_left_alone(path, source):
    assert import_faults(Path(path), source) == []


def test_auditors_need_the_standard_library_and_cryptography_only():
    import subprocess

    code = (
        "import sys, importlib.abc\n"
        "class OnlyTheBase(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.split('.')[0]\n"
        "        base = {'cryptography', 'cffi', '_cffi_backend', 'ledger', 'adapters'}\n"
        "        if top not in sys.stdlib_module_names and top not in base and not top.startswith('_'):\n"
        "            raise ModuleNotFoundError(f'{name} is not in the base install', name=name)\n"
        "sys.meta_path.insert(0, OnlyTheBase())\n"
        "from adapters.cli import main\n"
        "for command in ('verify', 'audit', 'witness'):\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit as ended: assert ended.code == 0\n"
        "import ledger.cli, ledger.writer, ledger.receipt\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (answer.returncode, answer.stderr) == (0, "")
    assert "tally verify" in answer.stdout


def test_the_command_line_starts_without_a_heavy_client():
    import subprocess

    code = "import sys, adapters.cli; print([m for m in ('nats', 'redis', 'psycopg', 'pyarrow') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"
