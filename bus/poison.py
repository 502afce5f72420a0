"""Commands that our own code cannot decide: tried again, then parked with what comes after them (DESIGN.md 5)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bus.batch import Answer, ParkedAnswer, RefusedAnswer
from bus.envelope import one_line
from bus.ports import DeadLetters, Delivery, Redrive
from bus.reading import Task
from domain.catalogue import Key

log = logging.getLogger(__name__)

#: A command is tried so often, within two seconds in all.
TRIES_MAX: Final = 3
TRY_AGAIN_S: Final = 0.3
EARLIER_PARKED: Final = "an earlier command of this aggregate is parked; an operator redrives or discards it"


class Failed(Exception):
    """Our own code could not decide a command; the cause says why."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.request.stream_seq)
        self.task = task


class Poison:
    """What one partition knows of its parked aggregates and of commands that fail."""

    def __init__(self, tenant: str, dead: DeadLetters) -> None:
        self._tenant = tenant
        self._dead = dead
        self._parked: dict[Key, str] = {}
        self._unreadable: dict[str, Exception] = {}
        self._tries: dict[int, int] = {}
        self._broken: set[int] = set()

    async def take_over(self, is_own: Callable[[str], bool]) -> None:
        """Learn which aggregates are parked."""
        self._parked = {key: EARLIER_PARKED for key in await self._dead.parked() if is_own(key.id)}
        self._unreadable.clear()
        self.forget_tries()

    def reason_to_park(self, delivery: Delivery, task: Task) -> str | None:
        """Why a command must wait; None when it may be decided."""
        reason = self._parked.get(task.request.target)
        is_redriven = delivery.redrive is not None and delivery.stream_seq not in self._broken
        return None if is_redriven else reason

    def note_unreadable(self, owner_id: str, err: Exception) -> None:
        """Note that an owner's history cannot be read."""
        self._unreadable[owner_id] = err

    def require_readable(self, task: Task) -> None:
        """Raise what went wrong when the history of anybody was read whom the command needs."""
        for owner_id in self._unreadable.keys() & task.owner_ids if self._unreadable else ():
            raise self._unreadable[owner_id]

    def try_again_after_s(self, failed: Failed) -> float | None:
        """Seconds after which the command is tried again; None when its aggregate is parked instead."""
        request = failed.task.request
        target, seq = request.target, request.stream_seq
        tries = self._tries[seq] = self._tries.get(seq, 0) + 1
        if tries < TRIES_MAX:
            for owner_id in failed.task.owner_ids:
                self._unreadable.pop(owner_id, None)
            return TRY_AGAIN_S * tries
        reason = one_line(f"{type(failed.__cause__).__name__}: {failed.__cause__}")
        log.error("command %d of %s is parked: %s/%s: %s", seq, self._tenant, target.aggregate, target.id, reason)
        self._parked[target] = reason
        self._broken.add(seq)
        return None

    def forget_tries(self) -> None:
        """A batch is stored: what was tried is decided."""
        self._tries.clear()
        self._broken.clear()

    async def keep(
        self, deliveries: Sequence[Delivery], tasks: Sequence[Task | RefusedAnswer], answers: Sequence[Answer]
    ) -> None:
        """Keep what a batch parks before the batch says so; a crash in between keeps it twice, which does no harm."""
        for delivery, task, answer in zip(deliveries, tasks, answers, strict=False):
            if isinstance(answer, ParkedAnswer) and isinstance(task, Task) and delivery.redrive is None:
                await self._dead.park(task.request.target, delivery, answer.command_id, answer.reason)

    async def checked(self, deliveries: Sequence[Delivery], tasks: Sequence[Task | RefusedAnswer]) -> list[Delivery]:
        """The deliveries, an operator's word that is not true taken back; looks too who of them is parked still."""
        if self._parked and any(isinstance(task, Task) and task.request.target in self._parked for task in tasks):
            parked = await self._dead.parked()
            self._parked = {key: reason for key, reason in self._parked.items() if key in parked}
        return [
            delivery
            if delivery.redrive is None or not isinstance(task, Task) or await self._is_true(delivery.redrive, task)
            else msgspec.structs.replace(delivery, redrive=None)
            for delivery, task in zip(deliveries, tasks, strict=True)
        ]

    async def _is_true(self, word: Redrive, task: Task) -> bool:
        return await self._dead.holds(task.request.target, word.dead_seq, task.request.id)
