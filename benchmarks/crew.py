"""Processes of an installation that a measurement starts, holds, pauses, ends and starts again itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from adapters.embedded_process import Child
from adapters.jetstream.connection import connect
from adapters.jetstream.membership import BEAT_S, STREAM
from adapters.jetstream.messages import direct_get
from adapters.settings import SOURCES
from adapters.worker import RUNS_AT_LEAST_S
from benchmarks.lab import NATS, WORKER, Lab
from simulations.machine import cpu_seconds

#: For `lab`: the servers alone, the processes are a crew's.
SERVERS_ONLY: Final = " "
START_WITHIN_S: Final = 60.0
#: By then every worker knows of every other, and what the first one took has moved on.
SHARED_OUT_S: Final = RUNS_AT_LEAST_S + 2 * BEAT_S + 0.5
_EVERY_WORKER: Final = "tally.workers.*"
#: Over all crews: no process may take the files of an earlier one for its own.
_NUMBERS: Final = count(1)


class Crew:
    """Some processes of one group; a context manager that leaves none behind."""

    def __init__(self, found: Lab, processes: int = 1, group: str = WORKER) -> None:
        self._lab = found
        self._group = group
        self._processes = processes
        self._members: list[tuple[Child, Path]] = []
        #: When they could begin or go on the last time, seconds since 1970.
        self.began_at = 0.0

    def __enter__(self) -> Self:
        try:
            self.hold()
            self.begin()
            self.wait_until_ready()
        except BaseException:
            self.end(signal.SIGKILL)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(signal.SIGTERM)

    def hold(self) -> None:
        """Start the processes; returns when each has imported everything and waits for `begin`."""
        folder = self._lab.settings.data_dir / "crew"
        folder.mkdir(exist_ok=True)
        held: list[tuple[Child, Path]] = []
        for _ in range(self._processes):
            name = f"{self._group.partition(',')[0]}-{next(_NUMBERS)}"
            held_file, ready_file = folder / f"{name}.held", folder / f"{name}.ready"
            child = Child(
                name=name,
                argv=[
                    *(sys.executable, "-P", "-m", "benchmarks.held"),
                    *(self._group, "--data", str(self._lab.settings.data_dir)),
                ],
                log_path=folder / f"{name}.log",
                environ={
                    **{variable: str(getattr(self._lab.settings, field)) for field, (variable, _) in SOURCES.items()},
                    "TALLY_HELD_FILE": str(held_file),
                    "TALLY_READY_FILE": str(ready_file),
                },
            )
            self._members.append((child, ready_file))
            held.append((child, held_file))
            child.start()
        for child, held_file in held:
            child.wait_until(held_file.exists, START_WITHIN_S)

    def begin(self) -> None:
        """Let those that are held begin their work."""
        self.began_at = time.time()
        self._send(signal.SIGUSR1)

    def wait_until_ready(self) -> None:
        """Wait until each serves, and several workers have shared the partitions out."""
        for child, ready_file in self._members:
            child.wait_until(ready_file.exists, START_WITHIN_S)
        if self._group == WORKER and self._processes > 1:
            time.sleep(SHARED_OUT_S)

    def end(self, how: signal.Signals) -> None:
        """End them all by this signal; returns when they are gone."""
        self._send(how)
        for child, _ in self._members:
            child.stop()
        self._members.clear()

    @asynccontextmanager
    async def standing_still(self) -> AsyncIterator[None]:
        """Within it none runs, and none is taken for dead: somebody else gives their signs of life."""
        self._send(signal.SIGSTOP)
        stop = asyncio.Event()
        beating = asyncio.create_task(_beat_for_others(self._lab.settings.nats_url, stop))
        try:
            yield
        finally:
            stop.set()
            try:
                await beating
            finally:
                self.began_at = time.time()
                self._send(signal.SIGCONT)

    def cpu(self) -> float:
        """Processor seconds that they used so far."""
        return sum(cpu_seconds(child.pid) or 0.0 for child, _ in self._members if child.pid is not None)

    def _send(self, number: signal.Signals) -> None:
        for child, _ in self._members:
            if child.pid is not None and child.alive:
                os.kill(child.pid, number)


async def _beat_for_others(nats_url: str, stop: asyncio.Event) -> None:
    """Repeat every worker's sign of life as it was, the last time when `stop` is set."""
    client = await connect(nats_url, "tally-bench")
    try:
        found = await direct_get(client, STREAM, {"multi_last": [_EVERY_WORKER]})
        is_last = False
        while not is_last:
            try:
                await asyncio.wait_for(stop.wait(), BEAT_S)
            except TimeoutError:
                pass
            else:
                is_last = True
            for _, subject, body in found:
                await client.request(subject, body)
    finally:
        await client.close()


def clock(found: Lab, crew: Crew) -> Callable[[], dict[str, float]]:
    """Start counting processor time; the result tells what crew and server used since."""
    crew_before, nats_before = crew.cpu(), found.cpu()[NATS]
    return lambda: {"workers": round(crew.cpu() - crew_before, 2), NATS: round(found.cpu()[NATS] - nats_before, 2)}
