"""A fresh installation for a measurement: its processes, their processor time and memory, its tenant."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from adapters.jetstream.connection import connect
from adapters.jetstream.messages import stream_info
from adapters.settings import Settings
from adapters.supervisor import Supervisor
from adapters.tenants import create_tenant
from bus import subjects
from simulations.burst import Clients, set_up, slices
from simulations.installation import run_async
from simulations.machine import cpu_seconds, describe, resident_bytes
from simulations.progress import Progress

TENANT: Final = "bench"
CLIENTS: Final = 3
WORKER: Final = "worker"
NATS: Final = "nats-server"
POLL_S: Final = 0.05
QUIET_CPU_S: Final = 0.05
QUIET_WITHIN_S: Final = 60


class Lab:
    """One installation under measurement."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.settings: Settings = supervisor.settings()

    def pid(self, name: str) -> int:
        """The process of a server or group."""
        pid = self._supervisor.processes()[name]
        if pid is None:
            message = f"{name} is not running"
            raise ProcessLookupError(message)
        return pid

    def cpu(self) -> dict[str, float]:
        """Processor seconds that each process used so far."""
        pids = self._supervisor.processes()
        return {name: cpu_seconds(pid) or 0.0 for name, pid in pids.items() if pid is not None}

    def memory(self, name: str) -> int:
        """Bytes that a process has in RAM."""
        return resident_bytes(self.pid(name)) or 0

    def pause(self, name: str) -> None:
        """Stop a process where it stands; it keeps all that it has in memory."""
        os.kill(self.pid(name), signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Let it run again."""
        os.kill(self.pid(name), signal.SIGCONT)

    def details(self) -> dict[str, Any]:
        """The machine and the versions."""
        return {"machine": describe(self.settings)}


@contextmanager
def lab(processes: str | None) -> Iterator[Lab]:
    """Servers and processes in a temporary directory, with a tenant; all gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="tally-bench-") as folder,
        Supervisor(Path(folder), processes=processes) as supervisor,
    ):
        found = Lab(supervisor)
        run_async(create_tenant(found.settings, TENANT))
        yield found


def clients_of(settings: Settings, quest: str, size: int, *, ack_every: int = 10) -> Clients:
    """Client processes for so many players."""
    return Clients(settings.nats_url, TENANT, quest, slices(size, CLIENTS), ack_every=ack_every)


async def quiet(found: Lab, name: str) -> None:
    """Wait until a process does nothing more of its own accord (a worker writes snapshots when nobody asks)."""
    for _ in range(QUIET_WITHIN_S):
        before = found.cpu()[name]
        await asyncio.sleep(1)
        if found.cpu()[name] - before < QUIET_CPU_S:
            return


async def prepare(clients: Clients, size: int, *, is_new: bool = True) -> None:
    """Everybody registered (by the first round), the quest accepted by all, the completions composed."""
    await set_up(clients, Progress(is_quiet=True), size, is_new=is_new)


async def sizes(settings: Settings) -> tuple[int, int]:
    """(all events, inbox events) of the tenant."""
    client = await connect(settings.nats_url, "tally-bench")
    try:
        body = {"subjects_filter": f"tally.evt.{TENANT}.{subjects.INBOX}.*"}
        state = (await stream_info(client, subjects.events_stream(TENANT), body=body))["state"]
        return int(state["last_seq"]), sum((state.get("subjects") or {}).values())
    finally:
        await client.close()


def cpu_used(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Processor seconds between two readings."""
    return {name: round(after[name] - before.get(name, 0.0), 2) for name in after}
