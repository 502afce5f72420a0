"""How long from an event's commit until it can be seen in each projection: in a burst, and at 2,000 commands/s."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from typing import Any, Final

from nats.aio.client import Client

from adapters import iceberg, postgres
from adapters.ending import ended
from adapters.errors import TallyError
from adapters.jetstream.connection import connect
from adapters.jetstream.messages import stream_info
from adapters.jetstream.reader import PullReader
from adapters.redis_ranks import Boards
from adapters.settings import Settings
from benchmarks.backlog import set_up
from benchmarks.lab import TENANT, Lab, clients_of, cpu_used, lab
from benchmarks.latency import RATE, SECONDS_MAX, SEED
from benchmarks.measurement import Measurement
from benchmarks.programs import Programs
from bus import subjects
from bus.follower import Position
from simulations.installation import run_async
from simulations.lag import percentiles

REDIS, POSTGRES, ICEBERG = "leaderboards", "readmodels", "analytics"
BURST, STEADY = "burst", f"at {RATE:,}/s"
#: How often a position is looked at: what is seen is late by so much at most, and by the time that a look takes.
LOOK_EVERY_S: Final = {REDIS: 0.02, POSTGRES: 0.02, ICEBERG: 1.0}
SETTLED_WITHIN_S: Final = 300.0
START_IN_S: Final = 0.5
READ_AT_ONCE: Final = 10_000
Look = Callable[[], Awaitable[Position | None]]
Freshness = dict[str, dict[str, float]]


class Seen:
    """When each sequence was first seen in a projection: positions that grow, each with its moment."""

    def __init__(self) -> None:
        self.positions: list[int] = [0]
        self.at_ns: list[int] = [0]

    def add(self, position: int, at_ns: int) -> None:
        """Note a look; one that shows nothing new is nothing."""
        if position > self.positions[-1]:
            self.positions.append(position)
            self.at_ns.append(at_ns)

    def waits_us(self, first_seq: int, committed_ns: Sequence[int]) -> list[int]:
        """For the events from a sequence on, from the commit until seen; raises `TallyError` for one that was not."""
        if first_seq + len(committed_ns) - 1 > self.positions[-1]:
            message = f"seen up to event {self.positions[-1]:,}, {len(committed_ns):,} came from {first_seq:,} on"
            raise TallyError(message)
        return [
            max(0, self.at_ns[bisect_left(self.positions, seq)] - at_ns) // 1_000
            for seq, at_ns in enumerate(committed_ns, first_seq)
        ]


def freshness_p99_ms(*, rounds: int, size: int) -> Measurement:
    """The default installation, everything running."""
    with lab(None) as found:
        return freshness_p99_ms_on(found, rounds=rounds, size=size)


def freshness_p99_ms_on(found: Lab, *, rounds: int, size: int, loads: Sequence[str] = (BURST, STEADY)) -> Measurement:
    """On an installation that runs; burst and steady load take turns."""
    done: dict[str, list[Freshness]] = {load: [] for load in loads}
    used: dict[str, list[dict[str, float]]] = {load: [] for load in loads}
    for number in range(rounds):
        for load, measured in done.items():
            work, count = (_burst, size) if load == BURST else (_steady, min(size, RATE * SECONDS_MAX))
            quest = f"fresh-{load.partition(' ')[0]}-{number}"
            freshness, cpu_s = run_async(_measured(found, quest, count, work))
            measured.append(freshness)
            used[load].append(cpu_s)
    details = {"completions": size, "rate": RATE, "look_every_s": LOOK_EVERY_S, "cpu_s": used, **found.details()}
    return as_measurement(done, details)


def as_measurement(done: dict[str, list[Freshness]], details: dict[str, Any]) -> Measurement:
    """Medians over the rounds of each percentile; the value is the slower of Redis and PostgreSQL, steady."""
    both = {
        load: {
            sink: {name: round(median(one[sink][name] for one in rounds), 3) for name in rounds[0][sink]}
            for sink in rounds[0]
        }
        for load, rounds in done.items()
    }
    return Measurement(
        value=max(both[STEADY][sink]["p99"] for sink in (REDIS, POSTGRES)),
        unit="ms, p99",
        of=f"event committed (the server's time) to visible, {RATE:,} completions/s, the slower of leaderboards and "
        "read models; analytics (a commit every 10 s) and the burst stand in details",
        baseline=None,
        details={"freshness_ms": both, **details},
    )


async def _measured(
    found: Lab, quest: str, size: int, load: Callable[[Lab, str, int], Awaitable[None]]
) -> tuple[Freshness, dict[str, float]]:
    """Prepare the players, wait until every projection is at the end, load.

    Returns what each event waited in each projection, and the processor seconds of each process while the load lasted;
    those of who looks stand under `looking`, those of who sends nowhere.
    """
    async with clients_of(found.settings, quest, size) as clients:
        await set_up(found, clients, quest, size)
    client = await connect(found.settings.nats_url, "tally-bench")
    try:
        async with _looking(found.settings) as seen:
            before = await _settled(client, seen)
            used = _cpu(found)
            await load(found, quest, size)
            used = cpu_used(used, _cpu(found))
            await _settled(client, seen)
        committed_ns = await _committed(client, before)
    finally:
        await client.close()
    return {sink: percentiles(one.waits_us(before + 1, committed_ns)) for sink, one in seen.items()}, used


def _cpu(found: Lab) -> dict[str, float]:
    return {"looking": time.process_time(), **found.cpu()}


async def _burst(found: Lab, quest: str, size: int) -> None:
    async with clients_of(found.settings, quest, size) as clients:
        await clients.order("prepare")
        await clients.order("complete", at=time.time() + START_IN_S)


async def _steady(found: Lab, quest: str, size: int) -> None:
    arguments = ["--nats", found.settings.nats_url, "--tenant", TENANT, "--quest", quest, "--players", str(size)]
    async with Programs("open_loop_client", [[*arguments, "--rate", str(RATE), "--seed", str(SEED)]]) as client:
        (answer,) = await client.order("commands")
    if answer["answered"] != answer["sent"] or answer["refused"]:
        message = f"{answer['sent']:,} published, {answer['answered']:,} answered, {answer['refused']:,} refused"
        raise TallyError(message)


@asynccontextmanager
async def _looking(settings: Settings) -> AsyncIterator[dict[str, Seen]]:
    """Look at every projection's position again and again."""
    seen = {sink: Seen() for sink in LOOK_EVERY_S}
    async with AsyncExitStack() as stack:
        boards = await stack.enter_async_context(Boards(settings, TENANT))
        connection = await stack.enter_async_context(await postgres.connect(settings, TENANT))
        looks: dict[str, Look] = {
            REDIS: boards.position,
            POSTGRES: lambda: postgres.stored_position(connection),
            ICEBERG: lambda: iceberg.read_position(settings, TENANT),
        }
        for look in looks.values():
            await look()  # the first one imports and connects: not under load
        tasks = [asyncio.create_task(_look(looks[sink], one, LOOK_EVERY_S[sink])) for sink, one in seen.items()]
        try:
            yield seen
        finally:
            await asyncio.gather(*map(ended, tasks))


async def _look(look: Look, seen: Seen, every_s: float) -> None:
    while True:
        position = await look()
        if position is not None:
            seen.add(position.stream_seq, time.time_ns())
        await asyncio.sleep(every_s)


async def _settled(client: Client, seen: dict[str, Seen]) -> int:
    """Wait until the stream rests and every projection is at its end; returns the last sequence."""
    deadline = time.monotonic() + SETTLED_WITHIN_S
    before = -1
    while time.monotonic() < deadline:
        last_seq = int((await stream_info(client, subjects.events_stream(TENANT)))["state"]["last_seq"])
        if last_seq == before and all(one.positions[-1] >= last_seq for one in seen.values()):
            return last_seq
        before = last_seq
        await asyncio.sleep(0.5)
    stands = ", ".join(f"{sink} {one.positions[-1]:,}" for sink, one in seen.items())
    message = f"{stands} of {before:,} events after {SETTLED_WITHIN_S:.0f} s"
    raise TallyError(message)


async def _committed(client: Client, after_seq: int) -> list[int]:
    """When the server stored each event after a sequence, nanoseconds since 1970."""
    stream = subjects.events_stream(TENANT)
    last_seq = int((await stream_info(client, stream))["state"]["last_seq"])
    reader = PullReader(client, stream, after_seq)
    found: list[int] = []
    try:
        while after_seq + len(found) < last_seq:
            taken = await reader.take(READ_AT_ONCE)
            found += [int(frame.reply.rsplit(b".", 2)[1]) for _, frame in taken]
    finally:
        await reader.close()
    return found[: last_seq - after_seq]
