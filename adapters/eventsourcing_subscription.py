"""A subscription: a synchronous iterator over what a pull reader brings."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from eventsourcing.persistence import ApplicationRecorder, InterfaceError, Notification, Subscription

from adapters.eventsourcing_log import Found, RecordReader
from adapters.eventsourcing_portal import Portal
from bus.errors import StoreUnavailable

log = logging.getLogger(__name__)

TAKE_MAX: Final = 500
RETRY_AFTER_S: Final = 0.5


class JetStreamSubscription(Subscription[ApplicationRecorder]):
    """Waits for new notifications until it is stopped, from any thread; no thread of its own.

    It rides out a server that is away, and raises `InterfaceError` when its factory is closed beneath it.
    """

    def __init__(
        self,
        recorder: ApplicationRecorder,
        *,
        portal: Portal,
        reader: RecordReader,
        convert: Callable[[Found], Notification],
        gt: int | None,
        topics: Sequence[str],
    ) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._portal = portal
        self._reader = reader
        self._convert = convert
        self._ready: deque[Notification] = deque()
        self._lock = threading.Lock()
        self._taking: concurrent.futures.Future[list[Found]] | None = None

    def __next__(self) -> Notification:
        """The next notification; ends when the subscription is stopped."""
        while not self._is_stopped():
            if not self._ready:
                self._ready.extend(self._convert(found) for found in self._take())
                continue
            notification = self._ready.popleft()
            self._last_notification_id = notification.id
            return notification
        raise StopIteration

    def stop(self) -> None:
        """End the iteration, also one that waits in another thread; again: nothing."""
        with self._lock:
            if self._has_been_stopped:
                return
            super().stop()
            taking, self._taking = self._taking, None
        if taking is not None:
            taking.cancel()
        self._portal.later(self._reader.close)

    def _is_stopped(self) -> bool:
        return self._has_been_stopped  # as a call: another thread may have changed it since the last look

    def _take(self) -> list[Found]:
        with self._lock:
            if self._is_stopped():
                return []
            taking = self._taking = self._portal.start(self._read())
        try:
            return self._portal.result(taking)
        except InterfaceError:
            if self._is_stopped():
                return []
            raise
        finally:
            with self._lock:
                self._taking = None

    async def _read(self) -> list[Found]:
        while True:
            try:
                found = await self._reader.take(TAKE_MAX)
            except StoreUnavailable as err:
                log.warning("subscription waits for the server: %s", err)
                await asyncio.sleep(RETRY_AFTER_S)
                continue
            wanted = [item for item in found if not self._topics or item[2].topic in self._topics]
            if wanted:
                return wanted
