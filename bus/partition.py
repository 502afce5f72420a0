"""One partition of a tenant's commands: take, decide, commit in one transaction, answer; then the next.

The partition's last inbox event is its position and its fence (DESIGN.md 3): who continues reads it, and whoever has
been overtaken has the whole batch refused. So nothing here is acknowledged, and a crash anywhere repeats nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from bus import subjects
from bus.answering import outcomes_of
from bus.batch import MESSAGES_MAX, Batch, BatchFull, RefusedAnswer
from bus.errors import Conflict, OutcomeUnknown
from bus.live import LiveOwners, Passivated
from bus.neighbours import Hold, Neighbours
from bus.owners import Room
from bus.poison import Failed, Poison
from bus.ports import CommandSource, CommandStream, DeadLetters, Delivery, EventStore, InboxHead, Outbox
from bus.reading import Task, read
from bus.restoring import ALL, BEHIND_MAX, BEHIND_SOON, SNAPSHOTS_A_FEW, Restorer
from domain.catalogue import Key
from domain.errors import Refused
from domain.values import to_time

log = logging.getLogger(__name__)
T = TypeVar("T")

CONFLICT_WAIT_S: Final = 0.02
#: Whoever writes what others write too meets so many now and then.
FEW_CONFLICTS: Final = 2
#: Whoever has fewer than that waits for the batch that is on its way, and decides with the others when it is stored.
FEW_COMMANDS: Final = 25
#: Without commands for so long, a partition writes its snapshots, if the process is at rest (`_is_at_rest`).
IDLE_S: Final = 1.0
#: Not later than after so many times as long, whatever keeps the process busy.
IDLE_LOOKS_MAX: Final = 10
#: A process that uses so much of a core is not at rest.
BUSY_CORE: Final = 0.5
#: Fewer commands than that may not fill a batch, and a small batch costs the server nearly as much as a full one.
TOP_UP_BELOW: Final = 333
#: More than that would keep a successor waiting; it reads them as tail.
DIRTY_AT_STOP_MAX: Final = 5_000


class Overtaken(Exception):
    """Another worker has written this partition's inbox or its fence: what we know of it is out of date."""


class Partition:
    """Runs one partition until it is cancelled; restarts itself from the inbox when it was overtaken."""

    def __init__(
        self,
        *,
        tenant: str,
        partition: int,
        partitions: int,
        store: EventStore,
        commands: CommandStream,
        outbox: Outbox,
        dead: DeadLetters,
        restorer: Restorer,
        neighbours: Neighbours,
        room: Room,
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self.tenant = tenant
        self.number = partition
        self.decided_seq = 0
        self._store = store
        self._commands = commands
        self._outbox = outbox
        self._poison = Poison(tenant, dead)
        self._restorer = restorer
        self._neighbours = neighbours
        self._now_ms = now_ms
        self._new_id = new_id
        self._live = LiveOwners(
            partition,
            partitions,
            room=room,
            store=store,
            restorer=restorer,
            neighbours=neighbours,
            note_unreadable=self._poison.note_unreadable,
        )
        self.is_stopping = False
        self._taking: asyncio.Future[Any] | None = None
        self._contended: set[Key] = set()
        self._head: InboxHead | None = None
        self._source: CommandSource | None = None

    @property
    def decided_ns(self) -> int:
        """When the last decided command was received, in nanoseconds since 1970; 0 when that is not known."""
        return 0 if self._head is None else self._head.decided.last_received_ns

    @property
    def purgeable_seq(self) -> int:
        """Up to where the stream may forget this partition's commands; 0 while it is not known where it stands."""
        return self.decided_seq if self._source is not None and self._source.is_current else 0

    @property
    def _head_seq(self) -> int:
        return 0 if self._head is None else self._head.stream_seq

    @property
    def live_owners(self) -> int:
        """How many owners are in memory."""
        return len(self._live)

    async def run(self) -> None:
        """Take, decide, commit, answer, until `stop` is called."""
        while not self.is_stopping:
            source = await self._unless_stopped(self._taken_over())
            if source is None:
                return
            try:
                self.decided_seq, self._source = source.after_seq, source
                await self._follow(source)
            except Overtaken:
                log.info("partition %s.%d was written by another worker; reading it anew", self.tenant, self.number)
                await asyncio.sleep(random.uniform(0.05, 0.3))  # noqa: S311 - jitter
            finally:
                self._source = None
                await source.close()
        if self._restorer.dirty <= DIRTY_AT_STOP_MAX:
            await self._restorer.snapshot(self._head_seq, self._now_ms())

    def stop(self) -> None:
        """Let `run` return: at once when it takes over or waits for commands, else when the batch is answered."""
        self.is_stopping = True
        if self._taking is not None:
            self._taking.cancel()

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the work found; None when `stop` was called before it came to its end."""
        self._taking = asyncio.ensure_future(work)
        try:
            return await self._taking
        except asyncio.CancelledError:
            if not self.is_stopping:
                raise
            return None
        finally:
            self._taking = None

    async def _taken_over(self) -> CommandSource:
        """The commands behind where the partition stands."""
        await self.take_over()
        return await self._commands.open(self.number, self.decided_seq, self.decided_ns)

    async def take_over(self) -> None:
        """Read where the partition stands: its inbox, whom it has refused lately, who has a history."""
        self._head = await self._store.inbox_head(self.number)
        self.decided_seq = 0 if self._head is None else self._head.decided.last_seq
        await self._poison.take_over(self._live.is_own)
        self._neighbours.forget()
        self._live.restart(await self._restorer.take_over(self._live.is_own, self._head_seq, self._now_ms()))

    async def _follow(self, source: CommandSource) -> None:
        deliveries: list[Delivery] = []
        tasks: list[Task | RefusedAnswer] = []
        while not self.is_stopping:
            if not deliveries or (len(deliveries) < TOP_UP_BELOW and source.has_more()):
                taken = await self._take(source)
                if taken and len(deliveries) + len(taken) < FEW_COMMANDS:
                    await self._store.landed()
                    taken += await source.take(MESSAGES_MAX) if source.has_more() else []
                more, their_tasks = await self.prepare(taken)
                deliveries += more
                tasks += their_tasks
            if deliveries:
                done = await self.process(deliveries, tasks)
                del deliveries[:done], tasks[:done]

    async def _take(self, source: CommandSource) -> list[Delivery]:
        """The next commands, none when `stop` was called meanwhile."""
        if source.has_more():
            return await source.take(MESSAGES_MAX)
        looks = 0
        while not self.is_stopping:
            began_s, used_s = time.monotonic(), time.process_time()
            taken = await self._unless_stopped(source.take(MESSAGES_MAX, timeout_s=IDLE_S))
            if taken:
                return taken
            looks += 1
            is_due = _is_at_rest(began_s, used_s) or looks >= IDLE_LOOKS_MAX
            if is_due and not self._neighbours.at_rest.locked():
                async with self._neighbours.at_rest:
                    await self.snapshot(self._a_few_until_wanted(source))
                looks = 0
        return []

    def _a_few_until_wanted(self, source: CommandSource) -> Iterator[int]:
        while not (source.has_more() or self.is_stopping):
            yield SNAPSHOTS_A_FEW

    async def prepare(self, taken: Sequence[Delivery]) -> tuple[list[Delivery], list[Task | RefusedAnswer]]:
        """Read what was taken, and make live whom it needs; an operator's word that is not true is taken back."""
        now_ms = self._now_ms()
        tasks = [read(self.tenant, delivery, now_ms) for delivery in taken]
        deliveries = await self._poison.checked(taken, tasks)
        await self._live.load(tasks)
        return deliveries, tasks

    async def process(self, deliveries: list[Delivery], tasks: list[Task | RefusedAnswer]) -> int:
        """Decide and commit the first of the deliveries in one transaction, answer them; returns how many.

        `tasks` says of each delivery what `prepare` made of it.
        """
        is_fresh = False
        conflicts = 0
        async with Hold(self._neighbours) as held:
            if self._contended:
                reads = {key for task in tasks if isinstance(task, Task) for key in task.plan.reads}
                await self._hold(held, self._contended & reads)
            while True:
                few = _fewer(len(deliveries), conflicts)
                decided = await self._try_to_decide(deliveries[:few], tasks[:few])
                if decided is None:
                    continue
                batch, count = decided
                if not batch.shared_written <= held.keys:
                    await self._hold(held, batch.shared_written)
                    await self._live.refresh(batch, batch.shared_written, held.keys)
                    continue
                if batch.doubtful and not is_fresh:
                    is_fresh = True
                    if await self._live.refresh(batch, batch.doubtful):
                        continue
                await self._poison.keep(deliveries, tasks, batch.answers)
                first_seq = await self._commit(batch, deliveries[:count], held.keys, conflicts)
                if first_seq is not None:
                    break
                conflicts += 1
                await asyncio.sleep(random.uniform(0, CONFLICT_WAIT_S * min(conflicts, 10)))  # noqa: S311 - jitter
        self._contended = (self._contended - held.keys) | batch.shared_written
        at = to_time(self._now_ms())
        sent = await outcomes_of(self.tenant, self._store, batch, deliveries[:count], first_seq, at)
        await self._outbox.send(sent)
        await self._keep_memory_bounded(count)
        return count

    async def _hold(self, held: Hold, keys: set[Key]) -> None:
        """Hold aggregates that others write too, and know what they have become."""
        new_turns = await held.add(keys)
        self._live.learn(held.keys)
        if new_turns:
            await self._live.catch_up({key.id for key in new_turns})

    async def _try_to_decide(
        self, deliveries: list[Delivery], tasks: list[Task | RefusedAnswer]
    ) -> tuple[Batch, int] | None:
        """A batch of the first commands and how many they are; None when it must be tried again."""
        await self._live.complete(tasks)
        try:
            batch, count = self._decide(deliveries, tasks)
        except Failed as failed:
            wait_s = self._poison.try_again_after_s(failed)
            if wait_s is not None:
                for owner_id in failed.task.owner_ids:
                    self._live.drop(owner_id)
                await asyncio.sleep(wait_s)
            return None
        return (batch, count) if count else None

    async def snapshot(self, portions: Iterable[int] = ALL) -> None:
        """Write what a successor would otherwise have to read from the tail; who need not stay in memory may go.

        `portions` says how many owners at once, and ends before all are written.
        """
        await self._restorer.snapshot(self._head_seq, self._now_ms(), portions)
        if self._restorer.is_fenced_off(self._now_ms()):
            raise Overtaken  # or an answer was lost: without snapshots nobody would ever leave memory again
        self._live.passivate(self._restorer.may_go)

    async def _keep_memory_bounded(self, decided: int) -> None:
        """Passivate; write snapshots when too many may not go without, or when the tail has become long.

        Where few commands come they are written in parts, by one partition of the process at a time.
        """
        is_calm = decided < FEW_COMMANDS
        behind_max = BEHIND_SOON if is_calm else BEHIND_MAX
        if not self._live.passivate(self._restorer.may_go):
            await self.snapshot()
        elif not self._restorer.is_due(self._head_seq, self._now_ms(), behind_max):
            return
        elif not is_calm:
            await self.snapshot()
        elif not self._neighbours.at_rest.locked():
            async with self._neighbours.at_rest:
                await self.snapshot((SNAPSHOTS_A_FEW,))

    def _decide(self, deliveries: list[Delivery], tasks: list[Task | RefusedAnswer]) -> tuple[Batch, int]:
        """Decide as many as one transaction holds; raises `Failed` for a command that our own code cannot decide."""
        batch = Batch(self.tenant, to_time(self._now_ms()), self._live.owner, self._live.is_foreign)
        count = 0
        for delivery, task in zip(deliveries, tasks, strict=True):
            if batch.is_full:
                break
            try:
                self._decide_one(batch, delivery, task)
            except (BatchFull, Passivated):
                break
            except Exception as err:
                if isinstance(task, Task):
                    raise Failed(task) from err
                raise
            count += 1
        return batch, count

    def _decide_one(self, batch: Batch, delivery: Delivery, task: Task | RefusedAnswer) -> None:
        seq = delivery.stream_seq
        subject = task.subject
        if isinstance(task, Task):
            owner_id, command_id = task.request.target.id, task.request.id
        else:
            owner_id, command_id = subjects.owner_of(subject), task.command_id
        earlier = self._restorer.refusals.get(owner_id, command_id) or batch.refused(owner_id, command_id)
        if earlier is not None:
            batch.answers.append(RefusedAnswer(command_id, subject, *earlier))
        elif isinstance(task, RefusedAnswer):
            batch.refuse(seq, command_id, subject, task.code, task.message)
        elif delivery.redrive is not None and delivery.redrive.is_discard:
            batch.refuse(seq, command_id, subject, "discarded", "an operator discarded this command; send a new one")
        elif (reason := self._poison.reason_to_park(delivery, task)) is not None:
            batch.park(seq, command_id, subject, reason)
        else:
            self._poison.require_readable(task)
            try:
                batch.decide(task.request, task.subject, task.plan)
            except Refused as refusal:
                batch.note_refusal(task.plan)
                batch.refuse(seq, command_id, subject, refusal.code, refusal.message)

    async def _commit(
        self, batch: Batch, deliveries: list[Delivery], held: Collection[Key], conflicts: int
    ) -> int | None:
        """Store the batch; returns its first sequence, None when it must be decided again.

        After few conflicts, what others write as a rule is read anew, or else everything; after more, everything: what
        they write all the time would hide that they have also written what is ours.
        """
        batch_id = self._new_id()
        batch.close(self.number, self._head, deliveries[0], deliveries[-1], batch_id)
        try:
            first_seq = await self._store.append(batch_id, batch.messages)
        except (Conflict, OutcomeUnknown) as err:
            head = await self._store.inbox_head(self.number)
            if head is not None and head.decided.batch == batch_id:
                first_seq = head.stream_seq - len(batch.messages) + 1
            elif (head.stream_seq if head else 0) != self._head_seq:
                raise Overtaken from err
            else:
                if conflicts >= FEW_CONFLICTS or not await self._live.refresh(batch, batch.shared, held):
                    await self._live.refresh(batch, batch.looked_at, held)
                return None
        batch.commit(first_seq)
        for key in batch.shared_written:
            self._neighbours.tell(key, self._live.owner(key.id).actor(key.aggregate))
        for owner_id in batch.own_written:
            self._restorer.changed(owner_id, self._live.owner(owner_id))
        self._head = batch.head(first_seq)
        self.decided_seq = deliveries[-1].stream_seq
        self._poison.forget_tries()
        self._restorer.refusals.remember(self._head.decided, self._now_ms())
        return first_seq


def _is_at_rest(began_s: float, used_s: float) -> bool:
    """Whether there was really nothing to do since then, by the clock and by the processor time used until then.

    A process that others keep busy (partitions that are taken over, a burst), or that stood still, has not looked yet
    whether there are commands; what it wrote now would keep them waiting.
    """
    passed_s = time.monotonic() - began_s
    return passed_s < 2 * IDLE_S and time.process_time() - used_s < BUSY_CORE * passed_s


def _fewer(count: int, conflicts: int) -> int:
    """How many commands to try after so many conflicts: what a large batch looks at is never at rest."""
    return max(1, count >> max(0, conflicts - FEW_CONFLICTS))
