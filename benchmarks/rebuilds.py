"""How fast a projection is rebuilt from history, beside a bare consumer that reads the same stream."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from statistics import median
from typing import Any, Final, NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg

from adapters.commands.run import spare_the_collector
from adapters.generations import generations
from adapters.jetstream.connection import api, connect
from adapters.jetstream.frames import Frame, subscribe_frames
from adapters.jetstream.messages import stream_info
from adapters.rebuild import Rebuild
from benchmarks.backlog import work_off
from benchmarks.crew import SERVERS_ONLY, Crew
from benchmarks.lab import TENANT, Lab, cpu_used, lab
from benchmarks.measurement import Measurement
from bus import subjects
from simulations.installation import run_async

#: Who reads for comparison: nats-py with a callback (the baseline), and our own parser of whole frames (in details).
CALLBACK, FRAMES = "nats-py", "frames"
PULL_MESSAGES: Final = 4_000
READ_WITHIN_S: Final = 300.0
CLOCK: Final = (
    "bare: one raw pull consumer of nats-py with a callback that counts; frames: the same with our parser. Rebuild: "
    "from the order to the switch, the state hash of the new generation included, as `tally rebuild NAME` when there "
    "is no live one; filling is without hash and switch. In turns in one process; the live one is dropped before"
)


class Pass(NamedTuple):
    """One time through the stream; processor seconds of this process and of the servers."""

    events: int
    seconds: float
    filled_s: float
    cpu_s: dict[str, float]


def rebuild_redis_vs_reader(*, rounds: int, size: int) -> Measurement:
    """The leaderboards."""
    return _in_a_lab("leaderboards", rounds, size)


def rebuild_postgres_vs_reader(*, rounds: int, size: int) -> Measurement:
    """The read models."""
    return _in_a_lab("readmodels", rounds, size)


def rebuild_iceberg_vs_reader(*, rounds: int, size: int) -> Measurement:
    """The analytics."""
    return _in_a_lab("analytics", rounds, size)


def _in_a_lab(projection: str, rounds: int, size: int) -> Measurement:
    with lab(SERVERS_ONLY) as found:
        fill(found, size)
        return rebuild_vs_reader_on(found, projection, rounds=rounds)


def fill(found: Lab, size: int) -> None:
    """A stream as a worker writes it: players registered, a quest accepted and completed."""
    with Crew(found) as crew:
        run_async(work_off(found, crew, "history", size))


def rebuild_vs_reader_on(found: Lab, projection: str, *, rounds: int) -> Measurement:
    """On a stream that is there; reading and rebuilding take turns."""
    spare_the_collector()
    done: dict[str, list[Pass]] = {CALLBACK: [], FRAMES: [], projection: []}
    for number in range(rounds):
        for by in (CALLBACK, FRAMES):
            done[by].append(run_async(read(found, by=by)))
        done[projection].append(run_async(rebuild(found, projection, f"round-{number}")))
    return as_measurement(projection, done, {"rounds": rounds, "clock": CLOCK, **found.details()})


def as_measurement(projection: str, done: dict[str, list[Pass]], details: dict[str, Any]) -> Measurement:
    """Ratios per round, as the machine may drift; the median of them."""
    rebuilt, bare = done[projection], done[CALLBACK]
    pairs = list(zip(rebuilt, bare, strict=True))
    return Measurement(
        value=round(median(reader.seconds / one.seconds for one, reader in pairs), 4),
        unit="of the bare reader's rate",
        of=f"{projection} rebuilt from history, hash and switch included; baseline: events/s of a bare consumer",
        baseline=round(median(one.events / one.seconds for one in bare), 1),
        details={
            "events": rebuilt[0].events,
            "filling_ratio": round(median(reader.seconds / one.filled_s for one, reader in pairs), 4),
            "ratio_to_frames": round(
                median(reader.seconds / one.seconds for one, reader in zip(rebuilt, done[FRAMES], strict=True)), 4
            ),
            "events_per_second": {
                who: round(median(one.events / one.seconds for one in passes), 1) for who, passes in done.items()
            },
            "cpu_us_per_event": {
                who: {
                    name: round(median(1e6 * one.cpu_s[name] / one.events for one in passes), 2)
                    for name in passes[0].cpu_s
                }
                for who, passes in done.items()
            },
            "seconds": {who: [round(one.seconds, 3) for one in passes] for who, passes in done.items()},
            **details,
        },
    )


async def rebuild(found: Lab, projection: str, name: str) -> Pass:
    """Rebuild to the end of the stream."""
    client = await connect(found.settings.nats_url, "tally-bench")
    filled_at = 0.0

    def progress(phase: str, done: int, total: int) -> None:
        nonlocal filled_at
        if phase == "filling" and done == total:
            filled_at = time.perf_counter()

    try:
        store = generations(projection, found.settings, TENANT)
        await store.drop("")
        used, began = _cpu(found), time.perf_counter()
        done = await Rebuild(client, TENANT, store, progress, name).run(is_accepted=False)
        seconds = time.perf_counter() - began
        return Pass(done.stream_seq, seconds, filled_at - began, cpu_used(used, _cpu(found)))
    finally:
        await client.close()


async def read(found: Lab, *, by: str) -> Pass:
    """Read the whole stream: one consumer, one inbox, a callback that counts."""
    client = await connect(found.settings.nats_url, "tally-bench")
    stream = subjects.events_stream(TENANT)
    try:
        last_seq = int((await stream_info(client, stream))["state"]["last_seq"])
        used = _cpu(found)
        seconds = await _read(client, stream, last_seq, by)
        return Pass(last_seq, seconds, seconds, cpu_used(used, _cpu(found)))
    finally:
        await client.close()


async def _read(client: Client, stream: str, last_seq: int, by: str) -> float:
    began = time.perf_counter()
    config = {"ack_policy": "none", "deliver_policy": "all", "mem_storage": True, "inactive_threshold": 60_000_000_000}
    answer = await api(client, f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
    counter = _Counter(client, f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{answer['name']}", last_seq)
    if by == FRAMES:
        await subscribe_frames(client, counter.inbox, counter.on_frames)
    else:
        await client.subscribe(counter.inbox, cb=counter.on_message)
    await counter.ask()
    await asyncio.wait_for(counter.done.wait(), READ_WITHIN_S)
    return time.perf_counter() - began


class _Counter:
    """Counts what comes, and asks for more when half of what was asked for is there."""

    def __init__(self, client: Client, subject: str, wanted: int) -> None:
        self._client = client
        self._subject = subject
        self._wanted = wanted
        self._count = 0
        self._asked = 0
        self._asking: asyncio.Future[None] | None = None
        self.inbox = client.new_inbox()
        self.done = asyncio.Event()

    async def ask(self) -> None:
        self._asked += PULL_MESSAGES
        request = {"batch": PULL_MESSAGES, "expires": int(READ_WITHIN_S * 1e9)}
        await self._client.publish(self._subject, json.dumps(request).encode(), reply=self.inbox)

    def on_frames(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.reply and self._take():
                self._asking = asyncio.ensure_future(self.ask())

    async def on_message(self, message: Msg) -> None:
        if message.reply and self._take():
            await self.ask()

    def _take(self) -> bool:
        self._count += 1
        if self._count == self._wanted:
            self.done.set()
        return self._asked - self._count == PULL_MESSAGES // 2


def _cpu(found: Lab) -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"process": usage.ru_utime + usage.ru_stime, **found.cpu()}
