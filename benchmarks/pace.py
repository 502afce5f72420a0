"""How fast the processor was: two cores of a host that others use as well are not the same in every minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from simulations.lag import percentiles

LOOPS: Final = 60
ADDITIONS: Final = 50_000
#: First line: the processors' time in user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)).
STAT: Final = Path("/proc/stat")
STEAL: Final = 7


def pace_ms(loops: int = LOOPS) -> dict[str, float]:
    """Percentiles of the milliseconds of processor that a fixed loop of Python takes, a few milliseconds each."""
    return percentiles([_loop_us() for _ in range(loops)])


def host_took() -> Callable[[], float]:
    """Start looking; the result tells which share of the processors the host gave to others since (0 to 1)."""
    before = _processor_times()

    def since() -> float:
        passed = [after - at for at, after in zip(before, _processor_times(), strict=True)]
        return round(passed[STEAL] / max(sum(passed), 1), 3)

    return since


def _processor_times() -> list[int]:
    return [int(word) for word in STAT.read_text("ascii").split("\n", 1)[0].split()[1 : STEAL + 2]]


def _loop_us() -> int:
    began = time.process_time_ns()
    total = 0
    for number in range(ADDITIONS):
        total += number * number % 7
    return (time.process_time_ns() - began) // 1_000
