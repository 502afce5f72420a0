"""How fast completions are decided and committed, beside a bare client that appends the same messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from statistics import median
from typing import Any, Final

from adapters.errors import TallyError
from adapters.jetstream.connection import connect
from adapters.jetstream.messages import stream_info
from benchmarks.bare import BATCH_MESSAGES, BareStream, Copied, read_messages
from benchmarks.lab import NATS, POLL_S, TENANT, WORKER, Lab, clients_of, cpu_used, lab, prepare, quiet, sizes
from benchmarks.measurement import Measurement
from bus import subjects
from simulations import burst
from simulations.installation import run_async
from simulations.lag import Sampler, settled
from simulations.progress import Progress
from simulations.stores import Stores

Commit = Callable[[Lab, int, int], Coroutine[Any, Any, dict[str, Any]]]

DEPTHS: Final = (4, 16)
EVENTS_OF_A_COMPLETION: Final = 4
DEADLINE_S: Final = 300.0


class Bare:
    """Copies of the tenant's event stream, one per depth, kept up to date by the bare client."""

    def __init__(self, settings: Any) -> None:
        self._url = settings.nats_url
        self._streams = {depth: BareStream(self._url, f"bare{depth:02d}") for depth in DEPTHS}
        self._copied = 0
        self._created = False

    def rates(self, timed_after: int, last_seq: int) -> dict[int, float]:
        """Events/s by depth for the events after a sequence; those before are copied without a clock."""
        messages = run_async(self._read(last_seq))
        untimed = timed_after - self._copied
        self._copied = last_seq
        return {depth: self._rate(stream, messages, untimed, depth) for depth, stream in self._streams.items()}

    def _rate(self, stream: BareStream, messages: list[Copied], untimed: int, depth: int) -> float:
        stream.append(messages[:untimed], depth)
        return (len(messages) - untimed) / stream.append(messages[untimed:], depth)

    async def _read(self, last_seq: int) -> list[Copied]:
        client = await connect(self._url, "tally-bench")
        try:
            if not self._created:
                for stream in self._streams.values():
                    await stream.create(client)
                self._created = True
            return await read_messages(client, TENANT, self._copied, last_seq)
        finally:
            await client.close()


def commit_vs_bare(*, rounds: int, size: int) -> Measurement:
    """The worker over a preloaded backlog of completions; nothing else runs but the servers."""
    of = "worker over a backlog, warm, beside bare batches of the same events"
    return _rounds(of, WORKER, _backlog, rounds, size)


def commit_all_running_vs_bare(*, rounds: int, size: int) -> Measurement:
    """A live burst with signer and projectors running, beside a bare client on the same server when they are idle."""
    return _rounds("live burst, every consumer running, beside bare batches", None, _burst, rounds, size)


def _rounds(of: str, processes: str | None, commit: Commit, rounds: int, size: int) -> Measurement:
    """Commit, then let the bare client append the same, round by round on one server."""
    done: list[dict[str, Any]] = []
    with lab(processes) as found:
        bare = Bare(found.settings)
        for number in range(rounds):
            committed = run_async(commit(found, number, size))
            bare_rates = bare.rates(committed["first_seq"] - 1, committed["last_seq"])
            done.append(_beside(committed, bare_rates))
        details = found.details()
    return _measurement(of, done, size, details)


def _beside(committed: dict[str, Any], bare_rates: dict[int, float]) -> dict[str, Any]:
    best = max(bare_rates.values())
    by_depth = {str(depth): round(rate) for depth, rate in bare_rates.items()}
    return {**committed, "bare_per_second": best, "bare_by_depth": by_depth, "ratio": committed["per_second"] / best}


def _measurement(of: str, done: list[dict[str, Any]], size: int, details: dict[str, Any]) -> Measurement:
    rounded = [
        {key: round(value, 3) if isinstance(value, float) else value for key, value in one.items()} for one in done
    ]
    return Measurement(
        value=round(median(one["ratio"] for one in done), 4),
        unit="of bare events/s",
        of=of,
        baseline=round(median(one["bare_per_second"] for one in done), 1),
        details={
            "events_per_second": round(median(one["per_second"] for one in done), 1),
            "completions_per_second": round(median(one["completions_per_second"] for one in done), 1),
            "completions": size,
            "batch": BATCH_MESSAGES,
            "rounds": rounded,
            **details,
        },
    )


async def _backlog(found: Lab, number: int, size: int) -> dict[str, Any]:
    """Load the backlog while the worker stands still, then let it go; it keeps the players in memory meanwhile."""
    async with clients_of(found.settings, f"backlog-{number}", size) as clients:
        await prepare(clients, size, is_new=number == 0)
        await quiet(found, WORKER)
        events, inboxes = await sizes(found.settings)
        found.pause(WORKER)
        try:
            loaded = await clients.order("load")
        finally:
            cpu, began = found.cpu(), time.time()
            found.go_on(WORKER)
        last_seq, inbox_events, ended = await _wait_for(found, events, inboxes, EVENTS_OF_A_COMPLETION * size)
        used = cpu_used(cpu, found.cpu())
    accept_s = max(one["acknowledged"] for one in loaded) - min(one["began"] for one in loaded)
    return {
        "first_seq": events + 1,
        "last_seq": last_seq,
        "batches": inbox_events,
        "per_second": (last_seq - events) / (ended - began),
        "completions_per_second": size / (ended - began),
        "accepted_per_second": size / accept_s,
        "cpu_s": {name: used[name] for name in (WORKER, NATS)},
    }


async def _wait_for(found: Lab, events: int, inboxes: int, wanted: int) -> tuple[int, int, float]:
    """Wait until so many domain events came; (last sequence, inbox events, time of the last event by the server)."""
    client = await connect(found.settings.nats_url, "tally-bench")
    body = {"subjects_filter": f"tally.evt.{TENANT}.{subjects.INBOX}.*"}
    deadline = time.monotonic() + DEADLINE_S
    try:
        while time.monotonic() < deadline:
            state = (await stream_info(client, subjects.events_stream(TENANT), body=body))["state"]
            batches = sum((state.get("subjects") or {}).values()) - inboxes
            if state["last_seq"] - events - batches >= wanted:
                ended = datetime.fromisoformat(state["last_ts"]).timestamp()
                return int(state["last_seq"]), batches, ended
            await asyncio.sleep(POLL_S)
    finally:
        await client.close()
    message = f"{wanted:,} events were not committed within {DEADLINE_S:.0f} s"
    raise TallyError(message)


async def _burst(found: Lab, number: int, size: int) -> dict[str, Any]:
    progress, quest = Progress(is_quiet=True), f"burst-{number}"
    async with Stores(found.settings, TENANT) as stores, clients_of(found.settings, quest, size) as clients:
        await prepare(clients, size, is_new=number == 0)
        await quiet(found, WORKER)
        async with Sampler(stores) as samples:
            await settled(samples, patience_s=burst.SETTLE_PATIENCE_S)
        cpu = found.cpu()
        shares = burst.slices(size, len(clients.pids))
        finishes = {player: elapsed for share in shares for player, elapsed in share.finishes().items()}
        fired = await burst.fire(clients, stores, quest, finishes, progress)
        used = cpu_used(cpu, found.cpu())
        failed = [finding for finding in await burst.check(stores, fired, progress) if not finding.ok]
    if failed:
        message = f"the burst lost or doubled something: {failed[0].name}: {failed[0].detail}"
        raise TallyError(message)
    report = fired.as_json()
    return {
        "first_seq": fired.events_before + 1,
        "last_seq": fired.events,
        "per_second": report["committed"]["per_second"],
        "completions_per_second": size / report["committed"]["seconds"],
        "accepted_per_second": report["accepted"]["per_second"],
        "latency_ms": report["latency_ms"],
        "visible": report["visible"],
        "cpu_s": used,
    }
