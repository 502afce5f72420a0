"""Ending a task that somebody else began, without swallowing an end that is meant for oneself."""

from __future__ import annotations

import asyncio
from typing import Any


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it is gone; what it failed with concerns nobody any more.

    To await the cancelled task itself, and to suppress `CancelledError`, would swallow our own cancellation when that
    comes at the same moment.
    """
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
