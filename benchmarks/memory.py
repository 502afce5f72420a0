"""What a live player costs a worker in memory."""

from __future__ import annotations

from typing import Final

from benchmarks.lab import WORKER, Lab, clients_of, lab, prepare
from benchmarks.measurement import Measurement
from simulations.installation import run_async

WARM_UP_PLAYERS: Final = 1_000
LIMIT_BYTES: Final = 1_000_000_000


def worker_bytes_per_actor(*, rounds: int, size: int) -> Measurement:
    """Growth of the worker while players register, accept and complete, divided by the players."""
    del rounds
    with lab(WORKER) as found:
        run_async(_play(found, "warm-up", WARM_UP_PLAYERS))
        before = found.memory(WORKER)
        run_async(_play(found, "memory", size))
        after = found.memory(WORKER)
        details = found.details()
    return Measurement(
        value=round((after - before) / (size - WARM_UP_PLAYERS), 1),
        unit="bytes per player",
        of=f"worker with {size:,} live players and accounts in memory; baseline: 1 GB shared by them",
        baseline=LIMIT_BYTES / size,
        details={"worker_bytes": after, "worker_bytes_before": before, "players": size, **details},
    )


async def _play(found: Lab, quest: str, size: int) -> None:
    async with clients_of(found.settings, quest, size) as clients:
        await prepare(clients, size, is_new=True)
        await clients.order("complete", at=0.0)
