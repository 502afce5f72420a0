"""Locks between the partitions of one process."""

from __future__ import annotations

import asyncio
from typing import Final

from domain.catalogue import Key

LOCKS_MAX: Final = 10_000


class ForeignLocks:
    """Keeps the partitions of one process from starving each other over an aggregate that several of them write."""

    def __init__(self) -> None:
        self._locks: dict[Key, asyncio.Lock] = {}

    def of(self, key: Key) -> asyncio.Lock:
        """The lock of an aggregate."""
        if len(self._locks) > LOCKS_MAX:
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(key, asyncio.Lock())
