"""Crash tests: real processes under load, killed and stopped by a schedule, and everything counted afterwards.

The processes are our own nats-server (or three) and workers. The senders are plain NATS clients. After the last fault
the whole event stream and every outcome are read and judged by `simulations/chaos_check.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from nats.aio.client import Client

from adapters.errors import TallyError
from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.jetstream.messages import history, stream_info
from bus import subjects
from bus.errors import BusError
from simulations.chaos_check import check
from simulations.chaos_network import Network
from simulations.chaos_processes import Processes, cluster_leader, cont, stop
from simulations.chaos_recording import Recording, Verdict, takeovers
from simulations.chaos_schedule import Fault, Plan, duration_s, schedule
from simulations.chaos_sender import Script, Sender

SETTLE_WITHIN_S: Final = 90.0
TAKEOVER_MAX_MS: Final = 10_000
#: A server that was struck within so long before a worker is killed is still on its way back.
SERVER_CALM_MS: Final = 10_000
#: Tenants of a run: name -> intake; a replicated stream knows one intake only.
TENANTS: Final[dict[str, streams.Intake]] = {"fast": "fast", "durable": "durable"}
REPLICATED: Final[dict[str, streams.Intake]] = {"three": "durable"}
Say = Callable[[str], None]


class Struck(NamedTuple):
    """A fault that was carried out."""

    fault: Fault
    at_ms: int
    whom: str


class Result(NamedTuple):
    """What a run came to."""

    plan: Plan
    seed: int
    seconds: float
    struck: list[Struck]
    verdicts: list[Verdict]
    waits_ms: dict[str, list[int]]
    fenced: int
    restarted: int

    @property
    def ok(self) -> bool:
        """Whether every check holds, the takeovers included."""
        late = [wait for wait in self.waits_ms.get("kill worker", ()) if not 0 <= wait <= TAKEOVER_MAX_MS]
        return all(verdict.ok for verdict in self.verdicts) and not late

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "plan": self.plan.name,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "ok": self.ok,
            "faults": dict(Counter(struck.fault.kind for struck in self.struck)),
            "waits_ms": self.waits_ms,
            "fenced": self.fenced,
            "restarted": self.restarted,
            "tenants": {
                verdict.tenant: {"classes": verdict.classes, "counts": verdict.counts, "faults": list(verdict.faults)}
                for verdict in self.verdicts
            },
        }


async def run(plan: Plan, seed: int, folder: Path, say: Say) -> Result:
    """Carry a plan out in an empty folder and judge it; what was recorded stays there as `<tenant>.recording`."""
    began = time.monotonic()
    network = Network(plan.nodes) if plan.nodes > 1 else None
    processes = Processes(folder, network=network, workers=plan.workers)
    try:
        if network is not None:
            await network.open()
        await asyncio.to_thread(processes.start)
        recordings, struck, restarted = await _under_load(processes, plan, seed, say)
        fenced = processes.fenced()
    finally:
        await asyncio.to_thread(processes.close)
        if network is not None:
            await network.close()
    for recording in recordings:
        (folder / f"{recording.tenant}.recording").write_bytes(msgspec.msgpack.encode(recording))
    verdicts = [await asyncio.to_thread(check, recording) for recording in recordings]
    waits = _waits(struck, verdicts, plan.partitions)
    return Result(plan, seed, time.monotonic() - began, struck, verdicts, waits, fenced, restarted)


async def _under_load(
    processes: Processes, plan: Plan, seed: int, say: Say
) -> tuple[list[Recording], list[Struck], int]:
    """Load, faults, and what is left of both when everything has come to rest."""
    faults = schedule(plan, seed)
    tenants = TENANTS if plan.nodes == 1 else REPLICATED
    senders = {name: _senders(plan, name, seed) for name in tenants}
    every = [sender for group in senders.values() for sender in group]
    client = await connect(",".join(processes.urls), "chaos")
    try:
        for name, intake in tenants.items():
            await create_patiently(client, name, plan, intake)
        await asyncio.to_thread(processes.start_workers)
        await asyncio.gather(*(sender.connect(processes.urls) for sender in every))
        for group in senders.values():
            await group[0].prepare()
            await asyncio.gather(*(sender.prepare() for sender in group[1:]))
        until = time.monotonic() + duration_s(plan, faults)
        loads = [asyncio.create_task(sender.run(plan.rate / len(every), until)) for sender in every]
        struck, restarted = await _strike(processes, client, next(iter(tenants)), faults, say)
        await asyncio.gather(*loads)
        await asyncio.gather(*(sender.drain() for sender in every))
        left = {name: await _settled(client, name) for name in tenants}
        await asyncio.to_thread(processes.stop_workers)
        was_killed = any(each.fault.kind == "kill server" for each in struck)
        recordings = [
            Recording(
                tenant=name,
                partitions=plan.partitions,
                may_forget=intake == "fast" and was_killed,
                operations=[operation for sender in senders[name] for operation in sender.operations],
                events=await _events(client, name),
                left=left[name],
            )
            for name, intake in tenants.items()
        ]
    finally:
        await asyncio.gather(*(sender.close() for sender in every))
        await client.close()
    return recordings, struck, restarted


def _senders(plan: Plan, tenant: str, seed: int) -> list[Sender]:
    names = [[f"p{number}-{at}" for at in range(plan.players)] for number in range(plan.senders)]
    others = [player for players in names for player in players]
    return [
        Sender(number, Script(tenant, players, others), f"{seed}/{tenant}/{number}")
        for number, players in enumerate(names)
    ]


async def create_patiently(client: Client, name: str, plan: Plan, intake: streams.Intake) -> None:
    """Create a tenant; a young cluster may not place streams at once."""
    deadline = time.monotonic() + SETTLE_WITHIN_S
    while True:
        try:
            await streams.create_tenant(
                client, name, partitions=plan.partitions, intake=intake, replicas=min(3, plan.nodes)
            )
        except BusError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)
        else:
            return


async def _strike(
    processes: Processes, client: Client, tenant: str, faults: list[Fault], say: Say
) -> tuple[list[Struck], int]:
    """Carry the faults out, each at its time; what was struck comes back while others go on."""
    start = time.monotonic()
    struck: list[Struck] = []
    restarted = 0
    async with asyncio.TaskGroup() as group:
        for number, fault in enumerate(faults, 1):
            while (wait_s := start + fault.at_s - time.monotonic()) > 0:
                await asyncio.sleep(min(0.5, wait_s))
                restarted += await asyncio.to_thread(processes.restart_dead_workers)
            whom, back = await _carry_out(processes, client, tenant, fault)
            struck.append(Struck(fault, whom[1], whom[0]))
            say(f"{number}/{len(faults)} {fault.kind} ({whom[0]}) for {fault.lasts_s:.1f} s")
            group.create_task(_later(fault.lasts_s, back))
    restarted += await asyncio.to_thread(processes.restart_dead_workers)
    return struck, restarted


async def _later(seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await asyncio.sleep(seconds)
    await work()


async def _carry_out(
    processes: Processes, client: Client, tenant: str, fault: Fault
) -> tuple[tuple[str, int], Callable[[], Coroutine[Any, Any, None]]]:
    """Strike; returns whom and when, and what brings it back."""
    if fault.kind.endswith("worker"):
        number = _alive(processes, fault.victim)
        child = processes.workers[number]
        at_ms = time.time_ns() // 1_000_000
        if fault.kind == "stop worker":
            stop(child)
            return (child.name, at_ms), lambda: asyncio.to_thread(cont, child)
        await asyncio.to_thread(child.kill)
        return (child.name, at_ms), lambda: asyncio.to_thread(processes.restart_worker, number)
    leader = await _leader(client, tenant) if fault.kind.endswith("leader") else ""
    index = next(
        (at for at, node in enumerate(processes.nodes) if node.directory.name == leader),
        fault.victim % len(processes.nodes),
    )
    node = processes.nodes[index]
    if node.child is None:
        message = f"{node.name} was never started"
        raise TallyError(message)
    stopped = node.child
    at_ms = time.time_ns() // 1_000_000
    name = node.directory.name
    network = processes.network
    if fault.kind.startswith("cut") and network is not None:
        silently = bool(fault.victim % 2)
        network.cut(index, with_clients=fault.kind == "cut node", silently=silently)
        how = "silently" if silently else "openly"

        async def mend() -> None:
            network.mend(index)

        return (f"{name}, {how}", at_ms), mend
    if fault.kind.startswith("stop"):
        stop(stopped)
        return (name, at_ms), lambda: asyncio.to_thread(cont, stopped)
    await asyncio.to_thread(stopped.kill)

    async def restart() -> None:
        await asyncio.to_thread(node.restart)

    return (name, at_ms), restart


def _alive(processes: Processes, victim: int) -> int:
    alive = [number for number, child in enumerate(processes.workers) if child.alive]
    return alive[victim % len(alive)] if alive else 0


async def _leader(client: Client, tenant: str) -> str:
    try:
        return cluster_leader(await stream_info(client, subjects.events_stream(tenant)))
    except BusError:
        return ""


async def _settled(client: Client, tenant: str) -> int:
    """Wait until the workers have purged everything from the command stream; returns what is left."""
    deadline = time.monotonic() + SETTLE_WITHIN_S
    left = -1
    while left and time.monotonic() < deadline:
        try:
            left = int((await stream_info(client, subjects.commands_stream(tenant)))["state"]["messages"])
        except BusError:
            left = -1
        await asyncio.sleep(0.25)
    return left


async def _events(client: Client, tenant: str) -> list[tuple[int, bytes]]:
    """The whole event stream; a replica that answers may be behind for a moment."""
    stream = subjects.events_stream(tenant)
    deadline = time.monotonic() + SETTLE_WITHIN_S
    while True:
        last_seq = int((await stream_info(client, stream))["state"]["last_seq"])
        found = [(seq, body) for seq, _, body in await history(client, stream, subjects.all_events(tenant))]
        if len(found) == last_seq:
            return found
        if time.monotonic() > deadline:
            message = f"stream {stream} has {last_seq} events, {len(found)} could be read"
            raise TallyError(message)
        await asyncio.sleep(0.5)


def _waits(struck: list[Struck], verdicts: list[Verdict], partitions: int) -> dict[str, list[int]]:
    """After each fault, how long until every partition of every tenant decided again.

    A worker that is killed while the servers themselves are down or have just come back is counted apart.
    """
    moments = [each.at_ms for each in struck]
    of_tenants = [takeovers(moments, verdict.batches, partitions) for verdict in verdicts]
    worst = [-1 if min(each) < 0 else max(each) for each in zip(*of_tenants, strict=True)]
    servers = [each.at_ms for each in struck if not each.fault.kind.endswith("worker")]
    waits: dict[str, list[int]] = defaultdict(list)
    for each, wait_ms in zip(struck, worst, strict=True):
        first_ms, last_ms = each.at_ms - SERVER_CALM_MS, each.at_ms + wait_ms
        is_both = each.fault.kind == "kill worker" and any(first_ms <= at_ms <= last_ms for at_ms in servers)
        waits["kill worker and server" if is_both else each.fault.kind].append(wait_ms)
    return dict(waits)
