"""Ending a task that somebody else began, without swallowing an end that is meant for oneself."""

from __future__ import annotations

import asyncio
from typing import Any, Final

#: Longer than an orderly end takes: it is cut short by the next request.
AGAIN_AFTER_S: Final = 3.0


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it is gone; what it failed with concerns nobody any more.

    To await the cancelled task itself, and to suppress `CancelledError`, would swallow our own cancellation when that
    comes at the same moment. And one request may get lost: `asyncio.wait_for` of Python 3.11, which the clients of NATS
    and Redis wait with, drops it when the answer has just come (python/cpython#86296). So it is asked again.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_AFTER_S)
    if not task.cancelled():
        task.exception()
