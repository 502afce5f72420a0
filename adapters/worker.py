"""A worker process: runs the partitions of every tenant that fall to it, and shares them with its peers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable
from typing import Final

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.nuid import NUID

from adapters.jetstream import streams
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.commands import JetStreamCommands
from adapters.jetstream.connection import connect
from adapters.jetstream.dead_letters import JetStreamDeadLetters
from adapters.jetstream.membership import BEAT_S, Membership
from adapters.jetstream.snapshots import JetStreamSnapshots, SharedTail
from adapters.jetstream.store import JetStreamEventStore, JetStreamOutbox
from adapters.jetstream.turns import JetStreamTurns
from adapters.purging import Purging
from bus.errors import BusError, WrongStream
from bus.joining import GroupCommit
from bus.neighbours import Neighbours
from bus.owners import Room
from bus.partition import Partition
from bus.restoring import Restorer
from bus.sharing import Member, shares

log = logging.getLogger(__name__)

#: Live owners of a worker, over all tenants: of about 3 kB each (docs/performance.md).
OWNERS_MAX: Final = 400_000
RESTART_WAIT_MIN_S: Final = 0.25
RESTART_WAIT_MAX_S: Final = 1.0
#: A partition that ran for so long begins again with the shortest wait.
RAN_WELL_S: Final = 10.0
#: What a partition meets when the server is away; anything else is logged with its traceback.
EXPECTED: Final = (BusError, nats.errors.Error, TimeoutError, OSError)
#: So often a worker looks who is there and what falls to it: of a killed peer it knows by then.
LOOK_S: Final = 0.5
STOP_PATIENCE_S: Final = 10.0
#: Whoever comes waits so long for a partition that was just taken over: it is decided again before it moves on.
RUNS_AT_LEAST_S: Final = 3.0
#: A partition that another has in hand is started all the same after so long: its owner may hang (the fence decides).
WAIT_MAX_S: Final = 15.0


def now_ms() -> int:
    """The wall clock in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Worker:
    """Takes part in deciding the commands of all tenants until `stop` is set."""

    def __init__(
        self, nats_url: str, *, owners_max: int = OWNERS_MAX, only_tenants: frozenset[str] | None = None
    ) -> None:
        self._nats_url = nats_url
        self._only_tenants = only_tenants
        self.room = Room(owners_max)
        self.worker_id = NUID().next().decode()
        self._batch_numbers = itertools.count(1)
        self._running: dict[tuple[str, int], tuple[Partition, asyncio.Task[None]]] = {}
        self._ending: dict[tuple[str, int], asyncio.Task[None]] = {}
        #: Partitions that fall to us and are in another's hand, and since when.
        self._waiting_since: dict[tuple[str, int], float] = {}
        self._started_at: dict[tuple[str, int], float] = {}
        self._changed = asyncio.Event()
        self._is_leaving = False
        self._has_left = False
        self._neighbours: dict[str, Neighbours] = {}
        self._purgings: dict[str, Purging] = {}
        self._tenants: dict[str, streams.Tenant] = {}
        self._refused: dict[str, str] = {}
        self._tails: dict[str, SharedTail] = {}
        self._writing: tuple[BatchPublisher, JetStreamOutbox] | None = None
        self._groups: dict[str, GroupCommit] = {}

    async def run(self, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Join, decide, and hand over at once when `stop` is set."""
        client = await connect(self._nats_url, f"tally-worker-{self.worker_id}")
        membership = Membership(client, self.worker_id)
        try:
            await self._join(membership, stop)
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(self._beat(membership)), group.create_task(self._purge(client))]
                try:
                    await self._tend_until(stop, ready, client, membership)
                finally:
                    await self._hand_over(membership)
                    self._has_left = True
                    for task in beside:  # a request whose answer comes at this moment swallows it: see `_has_left`
                        task.cancel()
        finally:
            await client.close()

    def of(self, tenant: str) -> set[int]:
        """The partitions of a tenant that run here now."""
        return {number for name, number in self._running if name == tenant}

    def _said(self) -> Member:
        """What the others may know of us."""
        serves = None if self._only_tenants is None else tuple(sorted(self._only_tenants))
        runs, ends = _by_tenant(self._running), _by_tenant(self._ending)
        return Member(serves=serves, runs=runs, ends=ends, is_leaving=self._is_leaving)

    async def _beat(self, membership: Membership) -> None:
        """Be seen every second, and at once when there is something to say, whatever else takes its time."""
        while not self._has_left:
            try:
                await membership.beat(self._said())
            except EXPECTED as err:
                log.warning("worker %s is not seen: %s", self.worker_id, err)
            await _first_of(self._changed)

    async def _join(self, membership: Membership, stop: asyncio.Event) -> None:
        """Be seen; a cluster that elects its leaders takes its time."""
        while not stop.is_set():
            try:
                await membership.join(self._said())
            except EXPECTED as err:
                log.warning("worker %s cannot join: %s", self.worker_id, err)
                await _first_of(stop, membership.news)
            else:
                return

    async def _tend_until(
        self, stop: asyncio.Event, ready: asyncio.Event, client: Client, membership: Membership
    ) -> None:
        """Look after everything every half second, and at once when another worker has something to say."""
        while not stop.is_set():
            try:
                await self._tend(client, membership)
                ready.set()
            except EXPECTED as err:
                log.warning("worker %s: %s", self.worker_id, err)
            await _first_of(stop, membership.news, within_s=LOOK_S)

    async def _tend(self, client: Client, membership: Membership) -> None:
        """Start and stop partitions as they fall to us; one that another has in hand still is waited for."""
        is_away = membership.is_away
        others = await membership.members()
        await self._find_tenants(client)
        ours = msgspec.structs.replace(self._said(), is_away=is_away)
        members = {**others, self.worker_id: ours}
        wanted = {
            (name, number)
            for name, tenant in self._tenants.items()
            for number, worker_id in shares(tenant.partitions, name, members).items()
            if worker_id == self.worker_id
        }
        for key in self._running.keys() - wanted:
            is_young = time.monotonic() - self._started_at[key] < RUNS_AT_LEAST_S
            if not is_young or any(key[1] in member.runs.get(key[0], ()) for member in others.values()):
                self._end(key)
        missing = wanted - self._running.keys() - self._ending.keys()
        self._waiting_since = {key: self._waiting_since.get(key, time.monotonic()) for key in missing}
        for key in missing:
            is_taken = any(member.has(*key) for member in others.values())
            if not is_taken or time.monotonic() - self._waiting_since[key] > WAIT_MAX_S:
                self._start(client, *key)
        if is_away:
            membership.come_back()

    async def _find_tenants(self, client: Client) -> None:
        """Learn of new tenants; one whose streams are not as they must be is refused and does not stop the others."""
        for name in await streams.tenants(client):
            if name in self._tenants or (self._only_tenants is not None and name not in self._only_tenants):
                continue
            try:
                self._tenants[name] = await streams.describe(client, name)
            except WrongStream as err:
                if self._refused.get(name) != str(err):
                    log.error("tenant %s is refused: %s", name, err)  # noqa: TRY400 - one line says it all
                self._refused[name] = str(err)

    def _start(self, client: Client, tenant: str, number: int) -> None:
        if self._writing is None:
            self._writing = BatchPublisher(client), JetStreamOutbox(client)
        batches, outbox = self._writing
        if tenant not in self._neighbours:
            self._neighbours[tenant] = Neighbours(JetStreamTurns(client, tenant, self.worker_id))
        store = JetStreamEventStore(
            client, tenant, self._groups.setdefault(tenant, GroupCommit(batches.append, self._batch_id))
        )
        snapshots = JetStreamSnapshots(client, tenant, batches)
        tail = self._tails.setdefault(tenant, SharedTail(client, tenant))
        partition = Partition(
            tenant=tenant,
            partition=number,
            partitions=self._tenants[tenant].partitions,
            store=store,
            restorer=Restorer(number, store, snapshots, tail),
            commands=JetStreamCommands(client, tenant),
            outbox=outbox,
            dead=JetStreamDeadLetters(client, tenant),
            neighbours=self._neighbours[tenant],
            room=self.room,
            now_ms=now_ms,
            new_id=self._batch_id,
        )
        log.info("worker %s takes partition %s.%d", self.worker_id, tenant, number)
        self._started_at[tenant, number] = time.monotonic()
        self._running[tenant, number] = partition, asyncio.create_task(_keep_running(partition))
        self._changed.set()

    def _end(self, key: tuple[str, int]) -> None:
        """Let a partition come to its end; the others see when it has."""
        log.info("worker %s gives up partition %s.%d", self.worker_id, *key)
        partition, task = self._running.pop(key)
        partition.stop()
        self._ending[key] = asyncio.create_task(self._ended(key, task))
        self._changed.set()

    async def _ended(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        _, pending = await asyncio.wait({task}, timeout=STOP_PATIENCE_S)
        for late in pending:
            late.cancel()
            await asyncio.wait({late})
        del self._ending[key]
        self._changed.set()

    def _batch_id(self) -> str:
        """An id for a batch; the worker's own one is random."""
        return f"{self.worker_id}-{next(self._batch_numbers)}"

    async def _purge(self, client: Client) -> None:
        """Look every second for what is decided, or what no partition can decide, and remove it from the streams."""
        while not self._has_left:
            await asyncio.sleep(BEAT_S)
            for name in {tenant for tenant, _ in self._running}:
                running = {number: self._running[name, number][0] for number in sorted(self.of(name))}
                if name not in self._purgings:
                    self._purgings[name] = Purging(client, name, self._tenants[name].partitions)
                try:
                    await self._purgings[name].look(running, now_ms())
                except EXPECTED as err:  # a tenant's own trouble leaves the command streams of the others to be purged
                    log.warning("worker %s: %s", self.worker_id, err)

    async def _hand_over(self, membership: Membership) -> None:
        """End every partition; each is free for the others as soon as it has come to its end."""
        self._is_leaving = True
        for key in list(self._running):
            self._end(key)
        self._changed.set()
        await asyncio.gather(*self._ending.values())
        try:
            await membership.beat(self._said())
        except EXPECTED as err:
            log.warning("worker %s leaves without saying so: %s", self.worker_id, err)


async def _keep_running(partition: Partition) -> None:
    """Run a partition again after a failure, whatever it was, waiting longer each time."""
    wait_s = RESTART_WAIT_MIN_S
    while True:
        began = time.monotonic()
        try:
            await _run(partition)
        except Exception as err:  # a partition that nobody runs any more would stop its players for ever
            if time.monotonic() - began > RAN_WELL_S:
                wait_s = RESTART_WAIT_MIN_S
            line = "partition %s.%d: %s; again in %.2g s"
            is_strange = not isinstance(err, EXPECTED)
            log.warning(line, partition.tenant, partition.number, err, wait_s, exc_info=is_strange)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RESTART_WAIT_MAX_S)
        else:
            return


async def _run(partition: Partition) -> None:
    """Run a partition in a task of its own: should that be cancelled and not we, something in it went wrong."""
    try:
        await asyncio.create_task(partition.run())
    except asyncio.CancelledError as err:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise BusError("it ended though nobody had told it to") from err


async def _first_of(*events: asyncio.Event, within_s: float = BEAT_S) -> None:
    """Wait until one of the events is set, a beat at most if nothing else is said; the last one is cleared."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
        events[-1].clear()


def _by_tenant(keys: Iterable[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for tenant, number in sorted(keys):
        found[tenant] = (*found.get(tenant, ()), number)
    return found
