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

#: Of so many players each wave consists at most: their commands lie in the memory of the clients.
WAVE_MAX: Final = 50_000
#: How much more than what it had when the limit was reached a worker may take for all who come after.
GROWTH_MAX: Final = 1.25


def passivation(*, rounds: int, size: int) -> Measurement:
    """Ten times `size` players through one worker that may keep a fifth of `size`."""
    del rounds
    return passivation_of(players=10 * size, owners_max=max(1, size // 5))


def passivation_of(*, players: int, owners_max: int) -> Measurement:
    """Peak of the worker's memory when all have come, over what it was when twice the limit had."""
    with _limited(owners_max), lab(WORKER) as found:
        started = found.memory(WORKER)
        waves: list[dict[str, Any]] = []
        full = 0
        for number, (first, count) in enumerate(_waves(players, 2 * owners_max)):
            run_async(_play(found, f"wave-{number}", first, count))
            peak = peak_resident_bytes(found.pid(WORKER)) or 0
            full = full or peak
            waves.append({"players": first + count, "resident_bytes": found.memory(WORKER), "peak_bytes": peak})
        details = found.details()
    return Measurement(
        value=round(peak / full, 3),
        unit="of the memory at the limit",
        of=f"worker's peak after {players:,} players, at most {owners_max:,} in memory; baseline: MB at the limit",
        baseline=round(full / 1e6, 1),
        details={
            "players": players,
            "owners_max": owners_max,
            "peak_mb": round(peak / 1e6, 1),
            "bytes_per_player_that_left": round((peak - full) / max(1, players - 2 * owners_max), 1),
            "started_bytes": started,
            "wanted_at_most": GROWTH_MAX,
            "waves": waves,
            **details,
        },
    )


def _waves(players: int, at_first: int) -> Iterator[tuple[int, int]]:
    """(first player, players): the first wave reaches the limit."""
    first, count = 0, min(players, at_first)
    while count:
        yield first, count
        first += count
        count = min(WAVE_MAX, players - first)


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


async def _play(found: Lab, quest: str, first: int, count: int) -> None:
    """Register so many new players; each accepts and completes a quest of this wave."""
    shares = [Slice(first + share.first, share.players) for share in slices(count, CLIENTS)]
    async with Clients(found.settings.nats_url, TENANT, quest, shares) as clients:
        await prepare(clients, count, is_new=True)
        answers = await clients.order("complete", at=0.0)
    completed = sum(answer["answered"] for answer in answers)
    if completed != count or any(answer["refused"] for answer in answers):
        raise TallyError(f"{completed:,} of {count:,} completions answered, refused: {answers[0]['example'] or 'none'}")
