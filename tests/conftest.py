"""What every test may ask for: real servers of this run's own, settings for them, a tenant of its own."""

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.embedded import EmbeddedServers
from adapters.embedded_servers import NatsServer
from adapters.settings import SOURCES, Settings

# What the shell of the person who runs the tests points at is nothing that a test may touch.
_MUST_RUN_ALL = os.environ.get("TALLY_SKIP_NOTHING", "") == "1"
for _name in [name for name in os.environ if name.startswith("TALLY_")]:
    del os.environ[_name]
_SKIPPED_FILES: set[str] = set()
# A shell that runs us in the background (`make test &`) has Ctrl-C ignored here and in every program that a test starts
# and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the crash tests of the projectors go on, and with which random choices."""
    parser.addoption("--projector-kills", type=int, default=3, metavar="N", help="kills for each projector")
    parser.addoption("--projector-seed", type=int, default=None, metavar="SEED", help="repeat what a run printed")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that skips itself while it is collected; with pytest-xdist nobody but its process hears of it."""
    if report.skipped:
        _SKIPPED_FILES.add(report.nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """A process of pytest-xdist has ended and says what it skipped."""
    _SKIPPED_FILES.update(getattr(node, "workeroutput", {}).get("skipped_files", ()))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With TALLY_SKIP_NOTHING=1, as `.ci/run` sets it, a test that is skipped is a failure of the run."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["skipped_files"] = sorted(_SKIPPED_FILES)
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = {report.nodeid for report in reporter.stats.get("skipped", [])} | _SKIPPED_FILES if reporter else ()
    if _MUST_RUN_ALL and skipped:
        reporter.write_line(f"{len(skipped)} tests were skipped, none may be here (TALLY_SKIP_NOTHING=1)", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """NATS, PostgreSQL and Valkey on free ports, their data in a temporary directory; two test runs do not meet."""
    # A folder as people name them: a space and an accent have broken configuration files and addresses before.
    with EmbeddedServers(tmp_path_factory.mktemp("servers d'été")) as started:
        yield started


@pytest.fixture(scope="session")
def settings(servers: EmbeddedServers) -> Settings:
    """The settings of an installation on these servers."""
    endpoints = servers.endpoints()
    environ = {variable: endpoints[key] for variable, key in SOURCES.values()}
    return Settings.load(servers.data_dir, environ)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A NATS server of the test's own, which it may stop, kill or let hang."""
    found = NatsServer(tmp_path / "nats", tmp_path / "nats.log", fixed_port=None, keep_open=())
    found.start()
    yield found
    found.stop()


@pytest.fixture
def tenant() -> str:
    """A valid tenant name that no other test uses."""
    return f"t-{uuid.uuid4().hex[:12]}"
