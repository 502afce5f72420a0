"""The whole way of an event into a signed checkpoint, while the server takes in as much as it can."""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_left
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

from adapters.jetstream.connection import connect
from adapters.published_log import log_dir_of
from adapters.tenants import create_tenant
from benchmarks.bare import BATCH_MESSAGES, BareStream, Copied
from benchmarks.commits import DEPTHS
from benchmarks.crew import SERVERS_ONLY, Crew, clock
from benchmarks.lab import Lab, lab
from benchmarks.measurement import Measurement
from benchmarks.pace import host_took
from ledger.checkpoint import parse_checkpoint
from ledger.tiles import CHECKPOINT
from simulations.corruption import NOVEMBER_MS, sample_event
from simulations.installation import run_async

SIGNER: Final = "signer"
OWNERS: Final = 1_000
EVENTS_PER_PLAYER: Final = 5
LOOK_EVERY_S: Final = 0.005
WITHIN_S: Final = 600
#: What one signer must keep up with, fresh within two seconds.
WANTED_PER_SECOND: Final = 40_000


def signer_vs_bare(*, rounds: int, size: int) -> Measurement:
    """Events/s from the first append to the checkpoint over the last one, over those of the append alone."""
    with lab(SERVERS_ONLY) as found:
        return signer_vs_bare_on(found, rounds=rounds, events=size * EVENTS_PER_PLAYER)


def signer_vs_bare_on(found: Lab, *, rounds: int, events: int) -> Measurement:
    """On servers that run; the append alone, beside the signer, and beside it at the wanted rate take turns."""
    alone: list[float] = []
    beside: list[dict[str, Any]] = []
    wanted: list[dict[str, Any]] = []
    for number in range(rounds):
        alone.append(max(_alone(found, f"alone-{number}-{depth}", events, depth) for depth in DEPTHS))
        beside.append(_beside(found, f"signed-{number}", events))
        wanted.append(_beside(found, f"wanted-{number}", events, WANTED_PER_SECOND))
    ratios = [one["signed_per_second"] / rate for one, rate in zip(beside, alone, strict=True)]
    return Measurement(
        value=round(median(ratios), 4),
        unit="of the bare append's rate",
        of=f"{events:,} events appended, read, integrated, fsynced, signed; baseline: events/s of the append alone",
        baseline=round(median(alone), 1),
        details={
            "signed_per_second": round(median(one["signed_per_second"] for one in beside), 1),
            "freshness_p99_s": round(max(one["freshness_p99_s"] for one in beside), 3),
            "rounds": beside,
            f"at_{WANTED_PER_SECOND}_per_second": wanted,
            "alone_per_second": [round(rate, 1) for rate in alone],
            **found.details(),
        },
    )


def _messages(tenant: str, events: int) -> list[Copied]:
    bodies = (sample_event(number, NOVEMBER_MS, tenant=tenant, owners=OWNERS) for number in range(events))
    return [Copied(f"token.o{number % OWNERS}", body, None) for number, body in enumerate(bodies)]


def _alone(found: Lab, name: str, events: int, depth: int) -> float:
    async def create() -> None:
        client = await connect(found.settings.nats_url, "tally-bench")
        await stream.create(client)
        await client.close()

    stream = BareStream(found.settings.nats_url, name)
    run_async(create())
    return events / stream.append(_messages(name, events), depth)


def _beside(found: Lab, tenant: str, events: int, per_second: float | None = None) -> dict[str, Any]:
    """As fast as the server takes them, fresh since they were stored; or at a rate, fresh since they were due."""
    run_async(create_tenant(found.settings, tenant))
    messages = _messages(tenant, events)
    stored: list[tuple[int, float]] = []
    with Crew(found, 1, SIGNER) as crew, _Watch(log_dir_of(found.settings, tenant)) as watch:
        watch.wait_for(0)
        used, took = clock(found, crew), host_took()
        seconds = BareStream(found.settings.nats_url, tenant).append(
            messages,
            DEPTHS[-1],
            stored=lambda count: stored.append((count, time.monotonic())),
            per_second=per_second,
        )
        signed_at = watch.wait_for(events)
        cpu, host = used(), took()
    (_, began), *answers = stored
    if per_second is not None:  # an open loop: what is sent late waits as well
        answers = [(count, began + (count - 1) // BATCH_MESSAGES * BATCH_MESSAGES / per_second) for count, _ in answers]
    waits = sorted(watch.first_at(count) - at for count, at in answers)
    return {
        "signed_per_second": round(events / (signed_at - began), 1),
        "appended_per_second": round(events / seconds, 1),
        "freshness_p50_s": round(waits[len(waits) // 2], 3),
        "freshness_p99_s": round(waits[min(len(waits) * 99 // 100, len(waits) - 1)], 3),
        "checkpoints": watch.count,
        "host_took": host,
        "signer_us_per_event": round(cpu["workers"] / events * 1e6, 2),
        "cpu_seconds": {SIGNER: cpu["workers"], **{name: used for name, used in cpu.items() if name != "workers"}},
    }


class _Watch:
    """Sees each checkpoint within milliseconds, as a reader of the published files would."""

    def __init__(self, log_dir: Path) -> None:
        self._path = log_dir / CHECKPOINT
        self._sizes: list[int] = []
        self._seen_at: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def count(self) -> int:
        return len(self._sizes)

    def first_at(self, size: int) -> float:
        """When the first checkpoint of at least this size was seen."""
        return self._seen_at[bisect_left(self._sizes, size)]

    def wait_for(self, size: int) -> float:
        """When a checkpoint of this size was seen; waits until then."""
        deadline = time.monotonic() + WITHIN_S
        while not self._sizes or self._sizes[-1] < size:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no checkpoint of size {size} within {WITHIN_S} s: {json.dumps(self._sizes[-3:])}")
            time.sleep(LOOK_EVERY_S)
        return self.first_at(size)

    def _look(self) -> None:
        known = b""
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                note = self._path.read_bytes()
            except FileNotFoundError:
                continue
            if note == known:
                continue
            known = note
            size = parse_checkpoint(CHECKPOINT, note)[0].tree_size
            if not self._sizes or size > self._sizes[-1]:
                self._seen_at.append(time.monotonic())
                self._sizes.append(size)
