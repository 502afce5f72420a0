"""How the commit rate goes with the number of worker processes."""

from __future__ import annotations

from statistics import median
from typing import Any, Final

from benchmarks.backlog import Done, work_off
from benchmarks.crew import SERVERS_ONLY, Crew
from benchmarks.lab import Lab, lab
from benchmarks.measurement import Measurement
from simulations.installation import run_async

WORKERS: Final = (1, 2, 4)


def workers_1_2_4(*, rounds: int, size: int) -> Measurement:
    """The best of 1, 2 and 4 worker processes over one, each from a backlog, warm."""
    with lab(SERVERS_ONLY) as found:
        return workers_1_2_4_on(found, rounds=rounds, size=size)


def workers_1_2_4_on(found: Lab, *, rounds: int, size: int, counts: tuple[int, ...] = WORKERS) -> Measurement:
    """On servers that run; the numbers of workers take turns."""
    done: dict[int, list[Done]] = {workers: [] for workers in counts}
    for number in range(rounds):
        for workers in counts:
            with Crew(found, workers) as crew:
                done[workers].append(run_async(work_off(found, crew, f"by-{workers}-{number}", size)))
    return as_measurement(done, {"completions": size, **found.details()})


def as_measurement(done: dict[int, list[Done]], details: dict[str, Any]) -> Measurement:
    """Ratios per round, the median of them; one worker is among those of whom the best counts."""
    one_worker = done[1]
    ratios = {
        workers: median(many.per_second / one.per_second for many, one in zip(rounds, one_worker, strict=True))
        for workers, rounds in done.items()
    }
    rates = {workers: round(median(one.per_second for one in rounds), 1) for workers, rounds in done.items()}
    return Measurement(
        value=round(max(ratios.values()), 4),
        unit="times one worker",
        of="a backlog of completions by the best of 1, 2 and 4 warm workers; baseline: completions/s of one",
        baseline=rates[1],
        details={
            "completions_per_second": {str(workers): rate for workers, rate in rates.items()},
            "ratio": {str(workers): round(ratio, 4) for workers, ratio in ratios.items()},
            "rounds": {str(workers): [one.as_json() for one in rounds] for workers, rounds in done.items()},
            **details,
        },
    )
