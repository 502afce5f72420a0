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
from bus.errors import AppendRefused, Conflict
from bus.ports import Message

#: While the server stores one, the next is there already; more would only be smaller.
ON_THEIR_WAY_MAX: Final = 2
#: With one inbox event more than a partition's own messages.
JOINED_MAX: Final = MESSAGES_MAX + 1
#: So many messages do not wait for more: the server has the next batch there while it stores the one before.
ENOUGH: Final = JOINED_MAX // 2


class _Waiting:
    """A batch that is to be stored, and who waits for its first sequence."""

    __slots__ = ("batch_id", "first_seq", "messages")

    def __init__(self, batch_id: str, messages: Sequence[Message], first_seq: asyncio.Future[int]) -> None:
        self.batch_id = batch_id
        self.messages = messages
        self.first_seq = first_seq


class GroupCommit:
    """Stores the batches of one tenant's event stream for all partitions of a process.

    `store` stores a batch as `bus.ports.EventStore.append` does, `new_id` gives an id for a joined one.
    """

    def __init__(self, store: Callable[[str, Sequence[Message]], Awaitable[int]], new_id: Callable[[], str]) -> None:
        self._append = store
        self._new_id = new_id
        self._waiting: list[_Waiting] = []
        self._on_their_way: set[asyncio.Task[None]] = set()
        self._is_due = False

    async def append(self, batch_id: str, messages: Sequence[Message]) -> int:
        """Store all messages of a batch or none, maybe with those of others; raises what `store` raises."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(batch_id, messages, loop.create_future())
        self._waiting.append(waiting)
        if len(messages) >= ENOUGH:
            self._send()
        elif not self._is_due:
            self._is_due = True
            loop.call_soon(self._send)  # after whoever is ready at this moment, too, has decided
        try:
            return await waiting.first_seq
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def _send(self) -> None:
        """Let go what may go: whatever waits, as long as not too much is on its way, and what fills a batch at once."""
        self._is_due = False
        while self._waiting:
            count, messages = self._that_fit()
            if len(self._on_their_way) >= ON_THEIR_WAY_MAX and messages < ENOUGH:
                return
            group = self._waiting[:count]
            del self._waiting[:count]
            task = asyncio.create_task(self._store(group))
            self._on_their_way.add(task)
            task.add_done_callback(self._has_come_back)

    def _that_fit(self) -> tuple[int, int]:
        """How many of the waiting batches one atomic batch holds, in their order, at least one; and their messages."""
        total = 0
        for count, waiting in enumerate(self._waiting):
            if count and total + len(waiting.messages) > JOINED_MAX:
                return count, total
            total += len(waiting.messages)
        return len(self._waiting), total

    def _has_come_back(self, task: asyncio.Task[None]) -> None:
        self._on_their_way.discard(task)
        self._send()

    async def _store(self, group: list[_Waiting]) -> None:
        """Store batches as one; when that is refused, each by itself, so that it meets whom it concerns alone."""
        if len(group) == 1:
            await self._store_alone(group[0])
            return
        joined = [message for waiting in group for message in waiting.messages]
        found = await self._try(self._new_id(), joined)
        if isinstance(found, Conflict | AppendRefused):
            await asyncio.gather(*(self._store_alone(waiting) for waiting in group))
            return
        for waiting in group:
            _tell(waiting, found)
            if isinstance(found, int):
                found += len(waiting.messages)

    async def _store_alone(self, waiting: _Waiting) -> None:
        _tell(waiting, await self._try(waiting.batch_id, waiting.messages))

    async def _try(self, batch_id: str, messages: Sequence[Message]) -> int | BaseException:
        """The first sequence, or what went wrong: whoever waits decides what that means."""
        (found,) = await asyncio.gather(self._append(batch_id, messages), return_exceptions=True)
        return found


def _tell(waiting: _Waiting, found: int | BaseException) -> None:
    if waiting.first_seq.done():  # it was cancelled
        return
    if isinstance(found, int):
        waiting.first_seq.set_result(found)
    else:
        waiting.first_seq.set_exception(found)
