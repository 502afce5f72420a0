"""How fast a worker that was restarted just before works a backlog off, beside one that has the players in memory."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from benchmarks.backlog import Done, work_off
from benchmarks.crew import SERVERS_ONLY, Crew
from benchmarks.lab import Lab, lab
from benchmarks.measurement import Measurement
from simulations.installation import run_async

WARM, TERMINATED, KILLED = "warm", "sigterm", "sigkill"
WAYS: Final[dict[str, signal.Signals | None]] = {
    WARM: None,
    TERMINATED: signal.SIGTERM,
    KILLED: signal.SIGKILL,
}
CLOCK: Final = (
    "cold: the players registered and accepted, their last outcome came, the worker was ended, the backlog loaded, "
    "another process started; the clock starts when it has imported everything and may begin: the interpreter's start "
    "is not in it, connecting, joining, taking over and restoring are, and after SIGKILL what is left of the dead "
    "worker's lease. It ends with the server's time of the last event. warm: the worker stood still while the backlog "
    "was loaded, the clock starts as it goes on"
)


def cold_vs_warm(*, rounds: int, size: int) -> Measurement:
    """Restarted by SIGTERM over warm, one worker; in details by SIGKILL too."""
    with lab(SERVERS_ONLY) as found:
        return cold_vs_warm_on(found, rounds=rounds, size=size)


def cold_vs_warm_on(found: Lab, *, rounds: int, size: int, ways: Sequence[str] = (TERMINATED, KILLED)) -> Measurement:
    """On servers that run; warm and cold take turns."""
    done: dict[str, list[Done]] = {way: [] for way in (WARM, *ways)}
    with Crew(found) as crew:
        for number in range(rounds):
            for way, finished in done.items():
                quest = f"{way}-{number}"
                finished.append(run_async(work_off(found, crew, quest, size, ended_by=WAYS[way])))
    return as_measurement(done, {"completions": size, "workers": 1, "clock": CLOCK, **found.details()})


def as_measurement(done: dict[str, list[Done]], details: dict[str, Any]) -> Measurement:
    """Ratios per round, as the machine may drift; the median of them."""
    warm = done[WARM]
    ratios = {
        way: median(cold.per_second / hot.per_second for cold, hot in zip(done[way], warm, strict=True))
        for way in done
        if way != WARM
    }
    rates = {way: round(median(one.per_second for one in rounds), 1) for way, rounds in done.items()}
    return Measurement(
        value=round(ratios[TERMINATED], 4),
        unit="of the warm rate",
        of="a backlog of completions by a worker restarted just before; baseline: completions/s of a warm one",
        baseline=rates[WARM],
        details={
            "completions_per_second": rates,
            "ratio": {way: round(ratio, 4) for way, ratio in ratios.items()},
            "first_commit_s": {
                way: round(median(one.first_commit_s for one in rounds), 3) for way, rounds in done.items()
            },
            "rounds": {way: [one.as_json() for one in rounds] for way, rounds in done.items()},
            **details,
        },
    )
