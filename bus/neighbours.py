"""What the partitions of one process know together of aggregates that several of them write, a limited quest first."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Final, Self

from bus.owners import Actor
from bus.ports import Turns
from domain.catalogue import Key

KEPT_MAX: Final = 10_000
#: Who wrote what we held is expected to write again, for so long.
RIVAL_S: Final = 2.0
#: While other partitions of this process wait, a turn lasts so long.
TURN_S: Final = 0.1


class Neighbours:
    """Locks that keep the partitions from starving each other, and what each of these aggregates was last seen as.

    The locks are of this process. An aggregate that another process has written while its lock was held here is
    written in turns for a while.
    """

    def __init__(self, turns: Turns) -> None:
        #: Who writes snapshots at rest holds it: a burst that begins meets the next few of one partition, not of each.
        self.at_rest = asyncio.Lock()
        self._turns = turns
        self._locks: dict[Key, asyncio.Lock] = {}
        self._waiting: Counter[Key] = Counter()
        self._newest: dict[Key, Actor] = {}
        self._rivals_until: dict[Key, float] = {}
        self._turn_since: dict[Key, float] = {}

    def note_rival(self, key: Key) -> None:
        """Note that another process writes an aggregate."""
        if len(self._rivals_until) > KEPT_MAX:
            self._rivals_until.clear()
        self._rivals_until[key] = time.monotonic() + RIVAL_S

    @asynccontextmanager
    async def held(self, key: Key) -> AsyncIterator[bool]:
        """Hold an aggregate; true when it is our turn only now, and others may have written until then."""
        lock = self._lock(key)
        self._waiting[key] += 1
        try:
            await lock.acquire()
        except asyncio.CancelledError:
            self._waiting[key] -= 1
            if not self._waiting[key] and not lock.locked():  # the turn was kept for us alone
                await self._end_turn(key)
            raise
        self._waiting[key] -= 1
        try:
            is_new = key not in self._turn_since and self._rivals_until.get(key, 0.0) > time.monotonic()
            if is_new:
                await self._turns.take(key)
                self._turn_since[key] = time.monotonic()
            yield is_new
        finally:
            try:
                await self._end_turn(key)
            finally:
                lock.release()

    async def _end_turn(self, key: Key) -> None:
        """Let another process write, unless somebody here waits and the turn has not lasted long."""
        since = self._turn_since.get(key)
        if since is None or (self._waiting[key] and time.monotonic() - since < TURN_S):
            return
        del self._turn_since[key]
        await self._turns.give(key)

    def _lock(self, key: Key) -> asyncio.Lock:
        if len(self._locks) > KEPT_MAX:
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
            self._waiting = +self._waiting
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
    """What a partition holds while it decides and commits one batch."""

    def __init__(self, neighbours: Neighbours) -> None:
        self.keys: set[Key] = set()
        self._neighbours = neighbours
        self._held: AsyncExitStack | None = None

    async def add(self, keys: Iterable[Key]) -> set[Key]:
        """Hold these aggregates too, all taken anew in one order everywhere; returns those with a new turn."""
        self.keys.update(keys)
        await self._let_go()
        held = self._held = AsyncExitStack()
        found = set()
        for key in sorted(self.keys):
            if await held.enter_async_context(self._neighbours.held(key)):
                found.add(key)
        return found

    async def _let_go(self) -> None:
        if self._held is not None:
            await self._held.aclose()

    async def __aenter__(self) -> Self:
        """Hold nothing yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything."""
        await self._let_go()
