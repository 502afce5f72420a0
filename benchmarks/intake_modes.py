"""How fast individually published commands are acknowledged in both modes of intake."""

from __future__ import annotations

from statistics import median
from typing import Any, Final, get_args

from adapters.jetstream.streams import Intake
from adapters.tenants import create_tenant
from benchmarks.crew import SERVERS_ONLY
from benchmarks.lab import CLIENTS, Lab, lab
from benchmarks.measurement import Measurement
from simulations.burst import Clients, slices
from simulations.installation import run_async

MODES: Final[tuple[Intake, ...]] = get_args(Intake)
PROMISES: Final = {
    "fast": "acknowledged means received; an outcome means durable",
    "durable": "acknowledged means fsynced",
}


def intake_durable_vs_fast(*, rounds: int, size: int) -> Measurement:
    """Commands/s with durable intake over fast intake; no worker runs."""
    with lab(SERVERS_ONLY) as found:
        return intake_durable_vs_fast_on(found, rounds=rounds, size=size)


def intake_durable_vs_fast_on(found: Lab, *, rounds: int, size: int) -> Measurement:
    """On servers that run, a tenant for each mode; they take turns."""
    for mode in MODES:
        run_async(create_tenant(found.settings, f"intake-{mode}", intake=mode))
    rates: dict[str, list[float]] = {mode: [] for mode in MODES}
    for number in range(rounds):
        for mode in MODES:
            rates[mode].append(run_async(_rate(found, mode, f"intake-{number}", size)))
    return as_measurement(rates, {"commands": size, "clients": CLIENTS, **found.details()})


def as_measurement(rates: dict[str, list[float]], details: dict[str, Any]) -> Measurement:
    """Ratios per round, the median of them."""
    pairs = zip(rates["durable"], rates["fast"], strict=True)
    return Measurement(
        value=round(median(durable / fast for durable, fast in pairs), 4),
        unit="of the fast intake's rate",
        of="individually published commands, each acknowledged, intake durable; baseline: commands/s, intake fast",
        baseline=round(median(rates["fast"]), 1),
        details={
            "commands_per_second": {mode: round(median(rounds), 1) for mode, rounds in rates.items()},
            "promise": PROMISES,
            "rounds": {mode: [round(rate, 1) for rate in rounds] for mode, rounds in rates.items()},
            **details,
        },
    )


async def _rate(found: Lab, mode: str, quest: str, size: int) -> float:
    shares = slices(size, CLIENTS)
    async with Clients(found.settings.nats_url, f"intake-{mode}", quest, shares) as clients:
        await clients.order("prepare")
        loaded = await clients.order("load")
    return size / (max(one["acknowledged"] for one in loaded) - min(one["began"] for one in loaded))
