"""A worker process: runs the partitions of every tenant that fall to it, and shares them with its peers."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.nuid import NUID

from adapters.jetstream import streams
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import connect
from adapters.jetstream.dead_letters import JetStreamDeadLetters
from adapters.jetstream.membership import BEAT_S, Membership, share
from adapters.jetstream.snapshots import JetStreamSnapshots, SharedTail
from adapters.jetstream.store import JetStreamCommands, JetStreamEventStore, JetStreamOutbox
from bus.errors import BusError, StoreUnavailable, WrongStream
from bus.partition import ForeignLocks, Partition
from bus.restoring import Restorer

log = logging.getLogger(__name__)

OWNERS_MAX: Final = 400_000
RESTART_WAIT_MIN_S: Final = 0.25
RESTART_WAIT_MAX_S: Final = 2.0
#: A partition that ran for so long begins again with the shortest wait.
RAN_WELL_S: Final = 10.0
#: What a partition meets when the server is away; anything else is logged with its traceback.
EXPECTED: Final = (BusError, nats.errors.Error, TimeoutError, OSError)
STOP_PATIENCE_S: Final = 10.0


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
        self._owners_max = owners_max
        self._new_id = NUID()
        self.worker_id = self._id()
        self._running: dict[tuple[str, int], tuple[Partition, asyncio.Task[None]]] = {}
        self._locks: dict[str, ForeignLocks] = {}
        self._purged: dict[tuple[str, int], int] = {}
        self._tenants: dict[str, streams.Tenant] = {}
        self._refused: dict[str, str] = {}
        self._tails: dict[str, SharedTail] = {}
        self._batches: BatchPublisher | None = None

    async def run(self, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Join, decide, and hand over at once when `stop` is set."""
        client = await connect(self._nats_url, f"tally-worker-{self.worker_id}")
        membership = Membership(client, self.worker_id, self._only_tenants)
        try:
            await membership.join()
            while not stop.is_set():
                try:
                    await self._tend(client, membership)
                    ready.set()
                except (BusError, nats.errors.Error, TimeoutError) as err:
                    log.warning("worker %s: %s", self.worker_id, err)
                await _wait(stop, BEAT_S)
        finally:
            await self._hand_over(membership)
            await client.close()

    def of(self, tenant: str) -> set[int]:
        """The partitions of a tenant that run here now."""
        return {number for name, number in self._running if name == tenant}

    async def _tend(self, client: Client, membership: Membership) -> None:
        """Be seen, start and stop partitions as they fall to us, purge what is decided."""
        await membership.beat()
        members = await membership.members()
        await self._find_tenants(client)
        wanted = {
            (name, number)
            for name, tenant in self._tenants.items()
            for number in share(tenant.partitions, name, members, self.worker_id)
        }
        for key in set(self._running) - wanted:
            partition, task = self._running.pop(key)
            partition.stop()
            await _ended(task)
        for key in wanted - set(self._running):
            self._start(client, *key)
        await self._purge(client)

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
        store = JetStreamEventStore(client, tenant, self._publisher(client))
        snapshots = JetStreamSnapshots(client, tenant, self._publisher(client))
        tail = self._tails.setdefault(tenant, SharedTail(client, tenant))
        partition = Partition(
            tenant=tenant,
            partition=number,
            partitions=self._tenants[tenant].partitions,
            store=store,
            restorer=Restorer(number, store, snapshots, tail),
            commands=JetStreamCommands(client, tenant),
            outbox=JetStreamOutbox(client),
            dead=JetStreamDeadLetters(client, tenant),
            locks=self._locks.setdefault(tenant, ForeignLocks()),
            owners_max=max(1_000, self._owners_max // self._tenants[tenant].partitions),
            now_ms=now_ms,
            new_id=self._id,
        )
        self._running[tenant, number] = partition, asyncio.create_task(_keep_running(partition))

    def _publisher(self, client: Client) -> BatchPublisher:
        if self._batches is None:
            self._batches = BatchPublisher(client)
        return self._batches

    def _id(self) -> str:
        return self._new_id.next().decode()

    async def _purge(self, client: Client) -> None:
        for (tenant, number), (partition, _) in self._running.items():
            seq = partition.decided_seq
            if seq > self._purged.get((tenant, number), 0):
                await JetStreamCommands(client, tenant).purge(number, seq)
                self._purged[tenant, number] = seq

    async def _hand_over(self, membership: Membership) -> None:
        running, self._running = self._running, {}
        for partition, _ in running.values():
            partition.stop()
        for _, task in running.values():
            await _ended(task)
        try:
            await membership.leave()
        except StoreUnavailable as err:
            log.warning("worker %s leaves without saying so: %s", self.worker_id, err)


async def _keep_running(partition: Partition) -> None:
    """Run a partition again after a failure, whatever it was, waiting longer each time."""
    wait_s = RESTART_WAIT_MIN_S
    while True:
        began = time.monotonic()
        try:
            await partition.run()
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


async def _ended(task: asyncio.Task[None]) -> None:
    _, pending = await asyncio.wait({task}, timeout=STOP_PATIENCE_S)
    for late in pending:
        late.cancel()


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
