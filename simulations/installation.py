"""The installation that a simulation runs on: the one that is up in the data directory, else one of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn, TypeVar

from adapters.embedded_process import python_path
from adapters.ending import AGAIN_AFTER_S
from adapters.settings import Settings
from adapters.supervisor import Supervisor
from adapters.supervisor_lock import is_locked, living_supervisor

EXIT_INTERRUPTED: Final = 130
Result = TypeVar("Result")
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


def run_async(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end; a request to end cancels the work, lets it clean up, and then raises KeyboardInterrupt.

    A second request cannot cut the orderly end short at once; one that comes later can, as the first may have got lost
    (`adapters.ending`).
    """
    interrupted = False
    again_at = 0.0
    done: list[Result] = []

    async def guarded() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def on_signal() -> None:
            nonlocal interrupted, again_at
            if loop.time() >= again_at and task is not None:
                interrupted = True
                again_at = loop.time() + AGAIN_AFTER_S
                task.cancel()

        for number in _SIGNALS:
            loop.add_signal_handler(number, on_signal)
        try:
            done.append(await work)
        except asyncio.CancelledError:
            if not interrupted:
                raise

    before = [signal.getsignal(number) for number in _SIGNALS]
    asyncio.run(guarded())
    for number, handler in zip(_SIGNALS, before, strict=True):
        signal.signal(number, signal.SIG_IGN if interrupted else handler)
    if interrupted:
        raise KeyboardInterrupt
    return done[0]


def client_command(module: str, *arguments: str) -> list[str]:
    """How a client is started: a program of its own, in a process of its own."""
    return [sys.executable, "-P", "-m", f"simulations.clients.{module}", *arguments]


def client_environment() -> dict[str, str]:
    """A client finds its module wherever it is started from."""
    return {**os.environ, "PYTHONPATH": python_path()}
