"""How far each projection is behind the event stream, measured while the work goes on.

A sample notes, at one moment, how many events the stream holds and where each projection stands. From the samples
follows the lag in time without reading a clock in the events: a projection that stands at event p was complete at the
last moment when the stream held no more than p events.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from hdrh.histogram import HdrHistogram

from adapters.ending import ended

EVENTS: Final = "events"
PERCENTILES: Final = (50.0, 95.0, 99.0, 99.9, 100.0)
EVERY_S: Final = 0.1
LAG_MAX_US: Final = 3_600_000_000


class Lag(NamedTuple):
    """Of one projection: how far it was behind, in events and seconds, and when it reached the end (None: not yet)."""

    events_max: int
    median_s: float
    p99_s: float
    worst_s: float
    complete_at: float | None


class Samples:
    """Positions over time; `add` must be called with rising times."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._sizes: list[int] = []
        self._lags_us: dict[str, HdrHistogram] = {}
        self._events_behind: dict[str, int] = {}
        self._reached: dict[str, tuple[int, float]] = {}
        self.latest: dict[str, int] = {}

    def add(self, at: float, positions: Mapping[str, int]) -> None:
        """Note a sample; `positions` has the stream's size under `EVENTS`."""
        size = positions[EVENTS]
        self._times.append(at)
        self._sizes.append(size)
        self.latest = dict(positions)
        for name, position in positions.items():
            if name == EVENTS:
                self._reached.setdefault(name, (size, at))
            else:
                histogram = self._lags_us.setdefault(name, HdrHistogram(1, LAG_MAX_US, 3))
                histogram.record_value(max(1, int(1e6 * self._behind_s(at, position))))
                self._events_behind[name] = max(self._events_behind.get(name, 0), size - position)
            if self._reached.get(name, (-1, 0.0))[0] != position:
                self._reached[name] = (position, at)

    def _behind_s(self, at: float, position: int) -> float:
        """Since when the stream holds more than the projection; 0 when it does not."""
        first_beyond = bisect_right(self._sizes, position)
        return at - self._times[first_beyond] if first_beyond < len(self._times) else 0.0

    def __len__(self) -> int:
        return len(self._times)

    def lags(self) -> dict[str, Lag]:
        """The lag of each projection over all samples."""
        end = self._sizes[-1] if self._sizes else 0
        found = {}
        for name, histogram in self._lags_us.items():
            median, p99, worst = (histogram.get_value_at_percentile(p) / 1e6 for p in (50.0, 99.0, 100.0))
            position, at = self._reached[name]
            found[name] = Lag(self._events_behind[name], median, p99, worst, at if position >= end else None)
        return found

    def grown_at(self) -> float:
        """When the stream last grew."""
        return self._reached[EVENTS][1]

    def since(self, at: float) -> list[tuple[float, int]]:
        """(time, size of the stream) from a moment on."""
        return [(time_, size) for time_, size in zip(self._times, self._sizes, strict=True) if time_ >= at]


class HasPositions(Protocol):
    """Where positions come from."""

    async def positions(self) -> Mapping[str, int]: ...


class Sampler:
    """Samples in the background; a context manager."""

    def __init__(self, stores: HasPositions, on_sample: Callable[[Samples], None] | None = None) -> None:
        self.samples = Samples()
        self._stores = stores
        self._on_sample = on_sample
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Samples:
        self._task = asyncio.create_task(self._run())
        return self.samples

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await ended(self._task)

    async def _run(self) -> None:
        while True:
            positions = await self._stores.positions()
            self.samples.add(time.time(), positions)
            if self._on_sample is not None:
                self._on_sample(self.samples)
            await asyncio.sleep(EVERY_S)


async def settled(samples: Samples, *, patience_s: float, besides: str = "") -> bool:
    """Wait until every projection, besides one perhaps, is at the stream's end; False when none moves for so long.

    What was read before the call, or while it came, says nothing: a burst may be over between two samples.
    """
    loop = asyncio.get_running_loop()
    needed = len(samples) + 2
    before: dict[str, int] = {}
    moved_at = loop.time()
    while True:
        latest = {name: position for name, position in samples.latest.items() if name != besides}
        if len(samples) >= needed and all(position >= latest[EVENTS] for position in latest.values()):
            return True
        if latest != before:
            before, moved_at = latest, loop.time()
        elif loop.time() - moved_at > patience_s:
            return False
        await asyncio.sleep(EVERY_S)


def percentiles(values_us: Any) -> dict[str, float]:
    """p50 to max of latencies in microseconds, as milliseconds, by HdrHistogram."""
    histogram = HdrHistogram(1, LAG_MAX_US, 3)
    for value in values_us:
        histogram.record_value(max(1, value))
    names = ("p50", "p95", "p99", "p99.9", "max")
    return {name: histogram.get_value_at_percentile(p) / 1000 for name, p in zip(names, PERCENTILES, strict=True)}
