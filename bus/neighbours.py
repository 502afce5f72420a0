"""What the partitions of one process know together of aggregates that several of them write, a limited quest first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from bus.owners import Actor
from domain.catalogue import Key

KEPT_MAX: Final = 10_000


class Neighbours:
    """Locks that keep the partitions from starving each other, and what each of these aggregates was last seen as."""

    def __init__(self) -> None:
        self._locks: dict[Key, asyncio.Lock] = {}
        self._newest: dict[Key, Actor] = {}

    def lock(self, key: Key) -> asyncio.Lock:
        """The lock of an aggregate."""
        if len(self._locks) > KEPT_MAX:
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(key, asyncio.Lock())

    def tell(self, key: Key, actor: Actor) -> None:
        """Say what an aggregate has become by a batch that is stored."""
        if len(self._newest) > KEPT_MAX:
            self._newest.clear()
        self._newest[key] = Actor(actor.state, actor.version, actor.stream_seq)

    def advance(self, key: Key, actor: Actor) -> bool:
        """Bring an actor to what others said of the aggregate; whether they knew more."""
        newest = self._newest.get(key)
        if newest is None or newest.stream_seq <= actor.stream_seq:
            return False
        actor.state, actor.version, actor.stream_seq = newest.state, newest.version, newest.stream_seq
        return True

    def forget(self) -> None:
        """Know nothing of states any more: the stream may be another one."""
        self._newest.clear()


class Hold:
    """The locks that a partition holds while it decides and commits one batch."""

    def __init__(self, neighbours: Neighbours) -> None:
        self.keys: set[Key] = set()
        self._neighbours = neighbours
        self._locks = AsyncExitStack()

    async def add(self, keys: Iterable[Key]) -> None:
        """Hold the locks of these aggregates too; all are taken anew, in one order everywhere."""
        self.keys.update(keys)
        await self._locks.aclose()
        for key in sorted(self.keys):
            await self._locks.enter_async_context(self._neighbours.lock(key))

    async def __aenter__(self) -> Self:
        """Hold nothing yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything."""
        await self._locks.aclose()
