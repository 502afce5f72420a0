"""Which processes of an installation are alive: what the tests of starting and stopping ask."""

import time
from collections.abc import Callable
from pathlib import Path


def processes_of(directory: Path) -> list[str]:
    """The command lines of all living processes that name `directory` or work in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                place = (entry / "cwd").readlink()  # PostgreSQL and Valkey rewrite their command lines
            except OSError:
                continue
            if str(directory) in line or place.is_relative_to(directory):
                found.append(line)
    return found


def wait_for(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
