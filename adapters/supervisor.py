"""A whole installation on one machine: servers and processes, kept running, stopped in order, gone when we are gone."""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from adapters.embedded import EmbeddedServers, Ports
from adapters.embedded_probe import nats_request
from adapters.embedded_process import Child
from adapters.embedded_servers import EmbeddedServer
from adapters.errors import ServerFailed, TallyError
from adapters.files import change_endpoints, make_directory, write_endpoints
from adapters.generations import PROJECTIONS
from adapters.settings import ENDPOINTS_FILE, SOURCES, Settings
from adapters.supervisor_kept import Kept
from adapters.supervisor_lock import DataDirLock

#: Up to so many cores, one read of the events for all followers is worth more than what each would gain alone.
SHARED_UP_TO_CORES = 2
_WAITED_FOR = ",".join([*(name for name in PROJECTIONS if name != "analytics"), "timers"])
#: On more, what people wait for waits neither for hashing nor for columns (docs/adr/0002-one-shared-read.md).
FOLLOWER_GROUPS = (
    (f"signer,{_WAITED_FOR},analytics",)
    if (os.cpu_count() or 1) <= SHARED_UP_TO_CORES
    else (_WAITED_FOR, "signer,analytics")
)
DEFAULT_PROCESSES = " ".join(("worker", *FOLLOWER_GROUPS, "queries"))
POLL_S = 0.05
TENANTS_EVERY_S = 2.0
START_WITHIN_S = 120.0
STOP_WITHIN_S = 10.0
EVENT_STREAM_PREFIX = "EVENTS_"


def group_command(group: str, data_dir: Path) -> list[str]:
    """Return how one group of TALLY_PROCESSES is run."""
    return [sys.executable, "-P", "-m", "adapters.cli", "run", group, "--data", str(data_dir)]


def default_processes(data_dir: Path) -> str:
    """The groups that are run when nobody says which: a publisher where `roots.toml` names a bucket for the log."""
    from adapters.root_settings import load_roots_config  # it loads what only signing needs

    try:
        publication = load_roots_config(Settings.load(data_dir, need=())).publication
    except TallyError:  # the signer and tally status say what is wrong with the file
        publication = None
    return DEFAULT_PROCESSES if publication is None else f"{DEFAULT_PROCESSES} publisher"


class Supervisor:
    """Starts everything of one data directory and keeps it running; a context manager.

    `processes` is in the form of TALLY_PROCESSES: spaces separate processes, commas group tasks within one.
    `on_event` gets one line for a person, from a thread of ours. `command` says how a group is run.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        ports: Ports | None = None,
        processes: str | None = None,
        on_event: Callable[[str], None] | None = None,
        command: Callable[[str, Path], list[str]] = group_command,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.endpoints: dict[str, Any] = {}
        self._ports = ports
        self._groups = (processes or os.environ.get("TALLY_PROCESSES") or default_processes(self.data_dir)).split()
        self._on_event = on_event or (lambda _: None)
        self._command = command
        self._lock = DataDirLock(self.data_dir)
        self._servers: EmbeddedServers | None = None
        self._kept: list[Kept] = []
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None
        self._keeper_failure: BaseException | None = None

    def start(self) -> None:
        """Return when everything is ready; raises TallyError in one line, with nothing left running."""
        self._lock.acquire()
        try:
            (self.data_dir / ENDPOINTS_FILE).unlink(missing_ok=True)  # of a supervisor that was killed
            self._servers = EmbeddedServers(self.data_dir, ports=self._ports, keep_open=(self._lock.fileno,))
            self._servers.start()
            self.endpoints = {**self._servers.endpoints(), "pid": os.getpid()}
            self._kept = [self._keep_server(server) for server in self._servers.servers]
            self._kept += [self._keep_group(group, name) for group, name in self._named_groups()]
            self._keeper = threading.Thread(target=self._keep, name="tally-keeper", daemon=True)
            self._keeper.start()
            self._wait_until_ready()
            self.endpoints["tenants"] = self._tenants() or []
            write_endpoints(self.data_dir, self.endpoints | {"processes": self.processes()})
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the processes, then the servers; returns when all are gone."""
        self._stopping.set()
        if self._keeper is not None and self._keeper is not threading.current_thread():
            self._keeper.join()
        servers = self._servers.servers if self._servers else ()
        server_names = {server.name for server in servers}
        groups = [kept.child for kept in self._kept if kept.name not in server_names and kept.child is not None]
        for child in groups:
            child.signal_stop()
        deadline = time.monotonic() + STOP_WITHIN_S
        for child in groups:
            child.stop(within_s=max(0.1, deadline - time.monotonic()))
        if self._servers is not None:
            self._servers.stop()
        if self._lock.held:
            (self.data_dir / ENDPOINTS_FILE).unlink(missing_ok=True)
            self._lock.release()

    def wait(self) -> None:
        """Return when `stop` was called; raises what made it impossible to go on."""
        while not self._stopping.wait(0.5):
            if self._keeper_failure is not None:
                raise self._keeper_failure

    def settings(self) -> Settings:
        """Return the settings of this installation, whatever the environment says."""
        return Settings.load(self.data_dir, self._environ())

    def processes(self) -> dict[str, int | None]:
        """Return the process number of everything that is kept running."""
        return {kept.name: kept.child.pid if kept.child else None for kept in self._kept}

    def _named_groups(self) -> list[tuple[str, str]]:
        """Give each group a name: `worker`, and `worker-2` for the second of a kind."""
        named: list[tuple[str, str]] = []
        for group in self._groups:
            count = 1 + sum(other == group for other, _ in named)
            named.append((group, group if count == 1 else f"{group}-{count}"))
        return named

    def _keep_server(self, server: EmbeddedServer) -> Kept:
        return Kept(
            name=server.name,
            start=server.restart,
            serves=server.serves,
            child=server.child,
            ready=True,
            was_ready=True,
        )

    def _keep_group(self, group: str, name: str) -> Kept:
        file_name = name.replace(",", "+")
        ready_file = make_directory(self.data_dir / "run") / f"{file_name}.ready"

        def start() -> Child:
            ready_file.unlink(missing_ok=True)
            child = Child(
                name=name,
                argv=self._command(group, self.data_dir),
                log_path=self.data_dir / "logs" / f"{file_name}.log",
                environ={**self._environ(), "TALLY_READY_FILE": str(ready_file)},
                keep_open=(self._lock.fileno,),
            )
            child.start()
            return child

        return Kept(name=name, start=start, serves=ready_file.exists)

    def _environ(self) -> dict[str, str]:
        return {variable: str(self.endpoints[key]) for variable, key in SOURCES.values()}

    def _keep(self) -> None:
        tenants_at = time.monotonic() + TENANTS_EVERY_S
        try:
            while not self._stopping.wait(POLL_S):
                for kept in self._kept:
                    self._look_at(kept)
                if time.monotonic() > tenants_at:
                    self._refresh_tenants()
                    tenants_at = time.monotonic() + TENANTS_EVERY_S
        except Exception as err:  # noqa: BLE001 (a thread's error belongs to who waits for it)
            self._keeper_failure = err

    def _look_at(self, kept: Kept) -> None:
        again = kept.was_ready and not kept.ready
        if (line := kept.poll()) is None:
            return
        self._on_event(line)
        if again and kept.ready:
            change_endpoints(self.data_dir, lambda known: known.update(processes=self.processes()))

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        while waiting := [kept for kept in self._kept if not kept.ready]:
            if self._keeper_failure is not None:
                raise self._keeper_failure
            for kept in waiting:
                if kept.given_up():
                    raise ServerFailed(f"{kept.name} ended at start ({kept.last_ending})")
            if time.monotonic() > deadline:
                names = ", ".join(kept.name for kept in waiting)
                raise ServerFailed(f"{names} not ready within {START_WITHIN_S:g} s: see {self.data_dir / 'logs'}")
            time.sleep(POLL_S)

    def _refresh_tenants(self) -> None:
        """Show tenants that were provisioned meanwhile, by whatever program, to those who read endpoints.json."""
        tenants = self._tenants()
        if "tenants" in self.endpoints and tenants is not None and tenants != self.endpoints["tenants"]:
            self.endpoints["tenants"] = tenants
            change_endpoints(self.data_dir, lambda known: known.update(tenants=tenants))

    def _tenants(self) -> list[str] | None:
        """Return the tenants that have an event stream, None when the server does not answer just now."""
        answer = nats_request(self._servers.servers[0].port, "$JS.API.STREAM.NAMES") if self._servers else None
        if answer is None or "error" in answer:
            return None
        names = answer.get("streams") or []
        return sorted(name.removeprefix(EVENT_STREAM_PREFIX) for name in names if name.startswith(EVENT_STREAM_PREFIX))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
