"""How fast commands are taken, and how soon a crowd has its answers."""

from __future__ import annotations

from statistics import median
from typing import Any, Final

from benchmarks.lab import CLIENTS, TENANT, WORKER, Lab, clients_of, lab, prepare
from benchmarks.measurement import Measurement
from simulations import burst
from simulations.installation import run_async
from simulations.lag import Sampler, settled
from simulations.progress import Progress
from simulations.stores import Stores

CROWD: Final = 1_700
WITHIN_MS: Final = 1_000.0


def accept_rate(*, rounds: int, size: int) -> Measurement:
    """Individually published commands that JetStream acknowledged one by one, while no worker takes part."""
    with lab(WORKER) as found:
        rates = [run_async(_accept(found, f"accept-{number}", size)) for number in range(rounds)]
        details = found.details()
    return Measurement(
        value=round(median(rates), 1),
        unit="commands/s",
        of=f"individually published commands, each acknowledged, {CLIENTS} client processes, intake fast",
        baseline=None,
        details={"rounds": [round(rate, 1) for rate in rates], "commands": size, **details},
    )


async def _accept(found: Lab, quest: str, size: int) -> float:
    async with clients_of(found.settings, quest, size) as clients:
        await clients.order("prepare")
        found.pause(WORKER)
        try:
            loaded = await clients.order("load")
        finally:
            found.go_on(WORKER)
    return size / (max(one["acknowledged"] for one in loaded) - min(one["began"] for one in loaded))


def burst_1700(*, rounds: int, size: int) -> Measurement:
    """The slowest outcome of 1,700 completions at one moment, everything running; the worst of all rounds."""
    del size
    with lab(None) as found:
        done = [run_async(_crowd(found, number)) for number in range(rounds)]
        details = found.details()
    return Measurement(
        value=round(max(one["latency_ms"]["max"] for one in done), 1),
        unit="ms until the last outcome",
        of=f"{CROWD:,} completions at one moment, everything running; baseline: the limit",
        baseline=WITHIN_MS,
        details={"rounds": done, "answered": [one["answered"] for one in done], **details},
    )


async def _crowd(found: Lab, number: int) -> dict[str, Any]:
    quest = f"crowd-{number}"
    async with Stores(found.settings, TENANT) as stores, clients_of(found.settings, quest, CROWD) as clients:
        await prepare(clients, CROWD, is_new=number == 0)
        async with Sampler(stores) as samples:
            await settled(samples, patience_s=burst.SETTLE_PATIENCE_S)
        shares = burst.slices(CROWD, len(clients.pids))
        finishes = {player: elapsed for share in shares for player, elapsed in share.finishes().items()}
        fired = await burst.fire(clients, stores, quest, finishes, Progress(is_quiet=True))
    report = fired.as_json()
    return {key: report[key] for key in ("answered", "refused", "resent", "latency_ms", "accepted", "committed")}
