"""The installation that a simulation runs on: the one that is up in the data directory, else one of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from adapters.embedded_process import python_path
from adapters.settings import Settings
from adapters.supervisor import Supervisor
from adapters.supervisor_lock import is_locked, living_supervisor

EXIT_INTERRUPTED: Final = 130
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def installation(data_dir: Path) -> Iterator[Settings]:
    """Settings of a running installation; one that was started here ends with the context."""
    if is_up(data_dir):
        yield Settings.load(data_dir)
        return
    with Supervisor(data_dir) as supervisor:
        yield supervisor.settings()


def is_up(data_dir: Path) -> bool:
    """Whether somebody keeps an installation running there."""
    return is_locked(data_dir) and living_supervisor(data_dir) is not None


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it, the first request to end raises KeyboardInterrupt, further ones cannot cut the orderly stop short."""
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def client_command(module: str, *arguments: str) -> list[str]:
    """How a client is started: a program of its own, in a process of its own."""
    return [sys.executable, "-P", "-m", f"simulations.clients.{module}", *arguments]


def client_environment() -> dict[str, str]:
    """A client finds its module wherever it is started from."""
    return {**os.environ, "PYTHONPATH": python_path()}
