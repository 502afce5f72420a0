"""Group commit: the small batches of several partitions of a process go to the server as one.

The server takes 7 ms and an fsync for an atomic batch however small, one after the other for a stream, so partitions
that commit a few commands each would wait for one another (docs/performance.md). Each keeps what it had: its own inbox
event is its fence and tells it what became of its batch, and what spoils a joined batch is left to whom it concerns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from bus.batch import MESSAGES_MAX
from bus.errors import AppendRefused, Conflict, OutcomeUnknown
from bus.ports import Message

#: While the server stores one, the next is there already; more would only be smaller.
ON_THEIR_WAY_MAX: Final = 2
#: With one inbox event more than a partition's own messages.
JOINED_MAX: Final = MESSAGES_MAX + 1
#: So many messages wait for nobody: the server has the next batch there while it stores the one before.
ENOUGH: Final = JOINED_MAX // 2
#: A batch that takes longer may be lost, which is known only seconds later: nobody who could go on waits for that.
LANDED_WITHIN_S: Final = 0.25


class _Waiting:
    """A batch that is to be stored: what became of it, and whether its task shall lead now."""

    __slots__ = ("batch_id", "found", "leads", "messages", "woken")

    def __init__(self, batch_id: str, messages: Sequence[Message]) -> None:
        self.batch_id = batch_id
        self.messages = messages
        self.found: int | Exception | None = None
        self.leads = False
        self.woken = asyncio.get_running_loop().create_future()

    def tell(self, found: int | Exception) -> None:
        """Say what became of the batch: its first sequence, or what went wrong."""
        self.found = found
        self._wake()

    def lead(self) -> None:
        """Say that its task shall lead."""
        self.leads = True
        self._wake()

    async def news(self) -> None:
        """Wait until there is something to know."""
        if self.woken.done():
            self.woken = asyncio.get_running_loop().create_future()
        await self.woken

    def _wake(self) -> None:
        _end(self.woken)


class GroupCommit:
    """Stores the batches of one tenant's event stream for all partitions of a process.

    Whoever comes while few are on their way leads: it stores what waits, its own among it, from its own task, so that
    nothing is between a decision and the socket. Then it lets the next one lead. `store` stores a batch as
    `bus.ports.EventStore.append` does, `new_id` gives an id for a joined one.
    """

    def __init__(self, store: Callable[[str, Sequence[Message]], Awaitable[int]], new_id: Callable[[], str]) -> None:
        self._append = store
        self._new_id = new_id
        self._waiting: list[_Waiting] = []
        self._leaders = 0
        #: Joined batches that are on their way, numbered as they left.
        self._in_flight: set[int] = set()
        self._departed = 0
        #: Who waits for everything up to a number.
        self._landings: list[tuple[int, asyncio.Future[None]]] = []

    async def landed(self) -> None:
        """Wait for the joined batches that are on their way now: who decides then goes with all the others.

        Who decided at once would wait, decided, until one is stored, and what comes to him meanwhile for the batch
        after that.
        """
        if self._in_flight:
            loop = asyncio.get_running_loop()
            landing = loop.create_future()
            self._landings.append((self._departed, landing))
            lost = loop.call_later(LANDED_WITHIN_S, _end, landing)
            try:
                await landing
            finally:
                lost.cancel()
        await asyncio.sleep(0)  # first everybody says what was stored

    async def append(self, batch_id: str, messages: Sequence[Message]) -> int:
        """Store all messages of a batch or none, maybe with those of others; raises what `store` raises."""
        if len(messages) >= ENOUGH:
            return await self._append(batch_id, messages)
        waiting = _Waiting(batch_id, messages)
        self._waiting.append(waiting)
        try:
            if self._leaders < ON_THEIR_WAY_MAX:
                self._leaders += 1
                await self._lead(is_new=True)
            while waiting.found is None:
                if waiting.leads:
                    waiting.leads = False
                    await self._lead(is_new=False)
                else:
                    await waiting.news()
        finally:
            if waiting in self._waiting:  # it was cancelled
                self._waiting.remove(waiting)
            if waiting.leads:
                self._let_next_lead()
        if isinstance(waiting.found, Exception):
            raise waiting.found
        return waiting.found

    async def _lead(self, *, is_new: bool) -> None:
        """Store what waits, as much as one batch holds; a new leader lets decide first who is ready at this moment."""
        try:
            if is_new:
                await asyncio.sleep(0)
            if self._waiting:
                await self._fly(self._take())
        finally:
            self._let_next_lead()

    async def _fly(self, group: list[_Waiting]) -> None:
        """Store batches, and tell who waits for that and nothing earlier any more."""
        self._departed += 1
        number = self._departed
        self._in_flight.add(number)
        try:
            await self._store(group)
        finally:
            self._in_flight.remove(number)
            first = min(self._in_flight, default=self._departed + 1)
            landings, self._landings = self._landings, []
            for last, landing in landings:
                if last >= first:
                    self._landings.append((last, landing))
                else:
                    _end(landing)

    def _let_next_lead(self) -> None:
        for waiting in self._waiting:
            if not waiting.leads:
                waiting.lead()
                return
        self._leaders -= 1

    def _take(self) -> list[_Waiting]:
        """The waiting batches that one atomic batch holds, in their order, at least one."""
        total = count = 0
        for waiting in self._waiting:
            total += len(waiting.messages)
            if count and total > JOINED_MAX:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def _store(self, group: list[_Waiting]) -> None:
        """Store batches as one; when that is refused, each by itself, so that it meets whom it concerns alone."""
        if len(group) == 1:
            await self._store_alone(group[0])
            return
        joined = [message for waiting in group for message in waiting.messages]
        found = await self._try(group, self._new_id(), joined)
        if isinstance(found, Conflict | AppendRefused):
            await asyncio.gather(*(self._store_alone(waiting) for waiting in group))
            return
        for waiting in group:
            waiting.tell(found)
            if isinstance(found, int):
                found += len(waiting.messages)

    async def _store_alone(self, waiting: _Waiting) -> None:
        waiting.tell(await self._try([waiting], waiting.batch_id, waiting.messages))

    async def _try(self, group: list[_Waiting], batch_id: str, messages: Sequence[Message]) -> int | Exception:
        """The first sequence, or what went wrong: whoever waits decides what that means."""
        try:
            return await self._append(batch_id, messages)
        except Exception as err:  # noqa: BLE001 - told to whoever waits, and raised there
            return err
        except asyncio.CancelledError:
            for waiting in group:
                waiting.tell(OutcomeUnknown(f"batch {batch_id} was on its way when the partition that sent it ended"))
            raise


def _end(waiting: asyncio.Future[None]) -> None:
    """Let whoever waits go on; he may have been cancelled."""
    if not waiting.done():
        waiting.set_result(None)
