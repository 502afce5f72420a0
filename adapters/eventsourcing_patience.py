"""How long, and how, an answer of the server is waited for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, Final, TypeVar

from nats.aio.client import Client

from bus.errors import StoreUnavailable

T = TypeVar("T")

#: How long an unanswered insert, or a read of a server that is away, is tried again.
PATIENCE_S: Final = 30.0
PAUSE_MIN_S: Final = 0.002
PAUSE_MAX_S: Final = 0.5
LOOK_EVERY_S: Final = 0.1
#: For a short answer, before the same is asked again: a leader that died never answers.
ANSWER_WITHIN_S: Final = 2.0


class Unanswered(StoreUnavailable):
    """What was asked may have been done, but no answer will come, or none came in time."""


class Patience:
    """Longer pauses, with jitter, until there is no point in trying again."""

    def __init__(self) -> None:
        self._ends_at = asyncio.get_running_loop().time() + PATIENCE_S
        self._pause_s = PAUSE_MIN_S

    @property
    def is_over(self) -> bool:
        """Whether `PATIENCE_S` have passed."""
        return asyncio.get_running_loop().time() >= self._ends_at

    async def pause(self) -> None:
        """Wait a little, each time longer."""
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.5))  # noqa: S311 # jitter, not a secret
        self._pause_s = min(PAUSE_MAX_S, self._pause_s * 2)


async def answered(
    client: Client, work: Coroutine[Any, Any, T], *, within_s: float = inf, look_every_s: float = LOOK_EVERY_S
) -> T:
    """What the server answers; raises `Unanswered` after `within_s`, or as soon as the connection is gone."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + within_s
    reconnects = client.stats["reconnects"]
    asked = asyncio.ensure_future(work)
    try:
        while not asked.done():
            await asyncio.wait({asked}, timeout=look_every_s)
            if not asked.done() and (not client.is_connected or client.stats["reconnects"] != reconnects):
                line = "the connection to NATS was lost; it comes back by itself"
                raise Unanswered(line)
            if not asked.done() and loop.time() > ends_at:
                line = f"no answer within {within_s:.1f} s"
                raise Unanswered(line)
    finally:
        while not asked.done():  # the client may swallow a cancellation: again, until it is heard
            asked.cancel()
            await asyncio.wait({asked}, timeout=look_every_s)
    return asked.result()


async def patiently(read: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the server answers to a read, which is asked again until the patience is over."""
    patience = Patience()
    while True:
        try:
            return await read()
        except StoreUnavailable:
            if patience.is_over:
                raise
            await patience.pause()
