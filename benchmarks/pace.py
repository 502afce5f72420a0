"""How fast the processor was: two cores of a host that others use as well are not the same in every minute."""

from __future__ import annotations

import time
from typing import Final

from simulations.lag import percentiles

LOOPS: Final = 60
ADDITIONS: Final = 50_000


def pace_ms(loops: int = LOOPS) -> dict[str, float]:
    """Percentiles of the milliseconds of processor that a fixed loop of Python takes, a few milliseconds each."""
    return percentiles([_loop_us() for _ in range(loops)])


def _loop_us() -> int:
    began = time.process_time_ns()
    total = 0
    for number in range(ADDITIONS):
        total += number * number % 7
    return (time.process_time_ns() - began) // 1_000
