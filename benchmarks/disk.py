"""How long the disk takes to sync a small write: what every durable answer waits for at least once."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Final

from simulations.lag import percentiles

WRITES: Final = 200
WRITE_BYTES: Final = 4_096


def fsync_ms(folder: Path, writes: int = WRITES) -> dict[str, float]:
    """Percentiles of the milliseconds that an appended block and its fsync took, one after the other."""
    block = os.urandom(WRITE_BYTES)
    took_us: list[int] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(writes):
            began = time.perf_counter_ns()
            file.write(block)
            os.fsync(file.fileno())
            took_us.append((time.perf_counter_ns() - began) // 1_000)
    return percentiles(took_us)
