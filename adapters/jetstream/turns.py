"""Whose turn it is, among the workers, to write an aggregate that several of them write (a hint, never a right).

A worker says that it wants to write and says when it is done, to everybody; each keeps the queue as it hears it. Two
that see different queues write at once: then the versions decide, and one of them decides again.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from bus import subjects
from domain.catalogue import Key

FORMAT: Final = "worker-turn/1"
#: Who is first for so long and does not say that he is done is taken for dead.
FIRST_MAX_S: Final = 1.0
#: Nobody waits longer than that.
WAIT_MAX_S: Final = 5.0
QUEUES_MAX: Final = 10_000


class Turn(msgspec.Struct, frozen=True):
    """What a worker says: that it wants to write an aggregate, or that it is done."""

    format: str
    worker: str
    wants: bool


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Turn).decode


class _Queue:
    """The workers that want to write one aggregate, as far as they were heard."""

    def __init__(self) -> None:
        self.workers: list[str] = []
        self.first_since = 0.0
        self.changed = asyncio.Event()

    def note(self, turn: Turn) -> None:
        """Take in what a worker says."""
        first = self.workers[:1]
        if turn.wants and turn.worker not in self.workers:
            self.workers.append(turn.worker)
        elif not turn.wants and turn.worker in self.workers:
            self.workers.remove(turn.worker)
        if self.workers[:1] != first:
            self.first_since = time.monotonic()
            self.changed.set()

    async def until_first(self, worker: str) -> None:
        """Wait until a worker is the first; whoever is it for too long is passed over."""
        while self.workers[:1] != [worker]:
            self.changed.clear()
            left_s = self.first_since + FIRST_MAX_S - time.monotonic() if self.workers else FIRST_MAX_S
            try:
                await asyncio.wait_for(self.changed.wait(), max(0.001, left_s))
            except TimeoutError:
                if self.workers and time.monotonic() - self.first_since >= FIRST_MAX_S:
                    self.note(Turn(FORMAT, self.workers[0], wants=False))


class JetStreamTurns:
    """`bus.ports.Turns` over core NATS, for one tenant."""

    def __init__(self, client: Client, tenant: str, worker_id: str) -> None:
        self._client = client
        self._tenant = tenant
        self._worker = worker_id
        self._queues: dict[str, _Queue] = {}
        self._is_listening = False

    async def take(self, key: Key) -> None:
        """Wait until it is our turn, five seconds at most."""
        if not self._is_listening:
            self._is_listening = True
            await self._client.subscribe(subjects.turns(self._tenant, "*", "*"), cb=self._on_turn)
        subject = subjects.turns(self._tenant, key.aggregate, key.id)
        await self._say(subject, wants=True)
        try:
            async with asyncio.timeout(WAIT_MAX_S):
                await self._queue(subject).until_first(self._worker)
        except TimeoutError:
            return
        except asyncio.CancelledError:
            await self._say(subject, wants=False)
            raise

    async def give(self, key: Key) -> None:
        """Let the next one have its turn."""
        await self._say(subjects.turns(self._tenant, key.aggregate, key.id), wants=False)

    async def _say(self, subject: str, *, wants: bool) -> None:
        turn = Turn(FORMAT, self._worker, wants)
        if not wants:
            self._queue(subject).note(turn)  # else our next wish would find us first still
        await self._client.publish(subject, _encode(turn))

    async def _on_turn(self, message: Msg) -> None:
        try:
            turn = _decode(message.data)
        except msgspec.MsgspecError:
            return
        if turn.format == FORMAT:
            self._queue(message.subject).note(turn)

    def _queue(self, subject: str) -> _Queue:
        if len(self._queues) > QUEUES_MAX:
            self._queues = {name: queue for name, queue in self._queues.items() if queue.workers}
        return self._queues.setdefault(subject, _Queue())
