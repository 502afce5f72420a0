"""What a program used: seconds, processor time, and the largest process among it and those that it started.

    python -m benchmarks.usage PROGRAM ARGUMENTS...

runs it and writes a `Usage` as one line of JSON. The system counts as a process's peak (`ru_maxrss`, getrusage(2)) also
what its starter held when it was started; a measurement that has held gigabytes before would find them in every program
that it starts. So this small process stands between.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

HERE: Final = Path(__file__).resolve().parents[1]


class Usage(msgspec.Struct, frozen=True):
    """Of a program and its children, the largest of which had `largest_process_bytes` in memory at its peak."""

    exit_code: int
    said: str
    seconds: float
    cpu_seconds: float
    largest_process_bytes: int


def used_by(program: Sequence[str]) -> Usage:
    """Run a program to its end, in the project's folder; raises `RuntimeError` unless it succeeds."""
    command = [sys.executable, "-m", "benchmarks.usage", *program]
    used = msgspec.json.decode(subprocess.check_output(command, cwd=HERE), type=Usage)
    if used.exit_code != 0:
        raise RuntimeError(f"{' '.join(program)}: expected success, got exit {used.exit_code}: {used.said.strip()}")
    return used


def main() -> None:
    """Run the program that the arguments are, and say what it used."""
    began = time.monotonic()
    ended = subprocess.run(sys.argv[1:], check=False, stdout=subprocess.PIPE, text=True)
    seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = Usage(
        exit_code=ended.returncode,
        said=ended.stdout,
        seconds=seconds,
        cpu_seconds=round(used.ru_utime + used.ru_stime, 2),
        largest_process_bytes=used.ru_maxrss * 1024,
    )
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")


if __name__ == "__main__":
    main()
