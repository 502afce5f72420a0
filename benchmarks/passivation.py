"""What a worker takes in memory while far more players pass through it than it may keep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from adapters.errors import TallyError
from benchmarks.lab import CLIENTS, TENANT, WORKER, Lab, lab, prepare
from benchmarks.measurement import Measurement
from simulations.burst import Clients, Slice, slices
from simulations.installation import run_async
from simulations.machine import peak_resident_bytes

#: All waves are of one size, as what waits and what is written at once take memory too: about as many as may stay.
WAVES: Final = 48
#: How much more a worker may take for all who come after.
GROWTH_MAX: Final = 1.25


def passivation(*, rounds: int, size: int) -> Measurement:
    """Ten times `size` players through one worker that may keep a fifth of `size`."""
    del rounds
    return passivation_of(players=10 * size, owners_max=max(1, size // 5))


def passivation_of(*, players: int, owners_max: int, waves_max: int = WAVES) -> Measurement:
    """Peak of the worker's memory when all have come, over what it was when a quarter had.

    By then everything that has a limit has reached it.
    """
    with _limited(owners_max), lab(WORKER) as found:
        started = found.memory(WORKER)
        waves: list[dict[str, Any]] = []
        for number, share in enumerate(slices(players, waves_max)):
            run_async(_play(found, f"wave-{number}", share))
            peak = peak_resident_bytes(found.pid(WORKER)) or 0
            resident = found.memory(WORKER)
            waves.append({"players": share.first + share.players, "resident_bytes": resident, "peak_bytes": peak})
        details = found.details()
    full = waves[len(waves) // 4 - 1]
    came_since = waves[-1]["players"] - full["players"]
    growth = waves[-1]["peak_bytes"] - full["peak_bytes"]
    return Measurement(
        value=round(waves[-1]["peak_bytes"] / full["peak_bytes"], 3),
        unit="of that after a quarter",
        of=f"worker's peak after {players:,} players, at most {owners_max:,} in memory; baseline: MB after a quarter",
        baseline=round(full["peak_bytes"] / 1e6, 1),
        details={
            "players": players,
            "owners_max": owners_max,
            "peak_mb": round(waves[-1]["peak_bytes"] / 1e6, 1),
            "bytes_per_player_that_left": round(growth / came_since, 1),
            "started_bytes": started,
            "wanted_at_most": GROWTH_MAX,
            "waves": waves,
            **details,
        },
    )


@contextmanager
def _limited(owners_max: int) -> Iterator[None]:
    """The limit for every worker that is started within."""
    before = os.environ.get("TALLY_OWNERS_MAX")
    os.environ["TALLY_OWNERS_MAX"] = str(owners_max)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TALLY_OWNERS_MAX"]
        else:
            os.environ["TALLY_OWNERS_MAX"] = before


async def _play(found: Lab, quest: str, wave: Slice) -> None:
    """Register new players; each accepts and completes a quest of this wave."""
    shares = [Slice(wave.first + share.first, share.players) for share in slices(wave.players, CLIENTS)]
    async with Clients(found.settings.nats_url, TENANT, quest, shares) as clients:
        await prepare(clients, wave.players, is_new=True)
        answers = await clients.order("complete", at=0.0)
    completed = sum(answer["answered"] for answer in answers)
    if completed != wave.players or any(answer["refused"] for answer in answers):
        said = answers[0]["example"] or "nothing refused"
        raise TallyError(f"{completed:,} of {wave.players:,} completions answered: {said}")
