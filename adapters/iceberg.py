"""Analytics in Iceberg: one `events` table per tenant, rows and position in one snapshot.

One writer per table. The fence is Iceberg's own: a commit names the snapshot that it follows, and retries are off, so
that of two copies one is refused. After any failed commit the position is read again before anything else is done.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from adapters.iceberg_parking import keep, stored
from adapters.iceberg_table import (
    ARROW,
    COLUMNS,
    TIME,
    IcebergSettings,
    Made,
    ensure_table,
    events_table,
    made_of,
    position_of,
    require_ours,
    summary_of,
    unavailable,
)
from bus.envelope import Recorded
from bus.follower import Position, StreamIdentity
from projections import analytics
from projections.errors import Fenced, Inconsistent, ProjectionError, Switched
from projections.generations import LIVE
from projections.parking import Parked, project_or_park, ready
from projections.positions import NOTHING, advance, require_same_stream

log = logging.getLogger(__name__)

COMMIT_ROWS: Final = 50_000
COMMIT_AGE_S: Final = 10


def batch_of(records: Sequence[Recorded]) -> pa.RecordBatch:
    """The records as Arrow columns in the table's schema."""
    rows = analytics.project(records)
    columns = []
    for field in ARROW:
        values = getattr(rows, field.name)
        columns.append(pa.array(values).cast(TIME) if field.type == TIME else pa.array(values, type=field.type))
    return pa.RecordBatch.from_arrays(columns, schema=ARROW)


def append(table: Table, batches: Sequence[pa.RecordBatch], made: Made) -> None:
    """One snapshot with the rows, sorted by type, time and sequence, and the position behind them."""
    order = [("event_type", "ascending"), ("time", "ascending"), ("stream_seq", "ascending")]
    rows = pa.Table.from_batches(batches, schema=ARROW).sort_by(order)
    table.append(rows, snapshot_properties=summary_of(made))


def _tuning(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1_000_000):
        raise ProjectionError(f"{variable} is {text!r}, wanted a whole number from 1 to 1000000; correct or unset it")
    return int(text)


class AnalyticsFollower:
    """Feeds the events table of one tenant; commits by size or age."""

    name = analytics.NAME
    apply_every_s = 0.1

    def __init__(
        self,
        settings: IcebergSettings,
        generation: str = "",
        *,
        commit_rows: int | None = None,
        commit_age_s: float | None = None,
    ) -> None:
        self._settings = settings
        self._generation = generation
        self._commit_rows = commit_rows or _tuning("TALLY_ANALYTICS_COMMIT_ROWS", COMMIT_ROWS)
        age_s = _tuning("TALLY_ANALYTICS_COMMIT_AGE_S", COMMIT_AGE_S) if commit_age_s is None else commit_age_s
        self._commit_age_s: float = age_s
        self._table: Table | None = None
        self._parked: list[Parked] = []
        self._parked_first: dict[str, int] = {}
        self._is_parked_fresh = False
        self._forget()

    async def open(self, tenant: str, stream: StreamIdentity) -> Position:
        """Make or load the table; returns the committed position. Raises `ForeignPosition`, `SinkUnavailable`."""
        self._let_go()
        self._table = await asyncio.to_thread(ensure_table, self._settings, tenant, self._generation)
        try:
            made = made_of(self._table)
            require_ours(self._table, tenant, made)
            self._committed = require_same_stream(self.name, made.position if made else None, stream)
            self._opened = made or Made(self._committed, analytics.VERSION, "")
            await self._retry_parked(self._table)
        except ProjectionError:
            self._let_go()
            raise
        self._reached = self._committed
        return self._committed

    async def apply(self, records: Sequence[Recorded]) -> None:
        """Take the records; commit when enough wait. Raises `OutOfOrder`, `Fenced`, `Switched`, `SinkUnavailable`."""
        reached = advance(self.name, self._reached, records)
        if reached is self._reached:
            return
        if not self._waiting:
            self._since = time.monotonic()
        is_live = self._generation == LIVE
        batch, parked = project_or_park(self.name, batch_of, records, self._parked_first, is_live=is_live)
        self._batches.append(batch)
        self._park(parked)
        self._waiting += len(records)
        self._reached = reached
        if self._waiting >= self._commit_rows:
            await self._commit()

    async def idle(self) -> None:
        """Commit what has waited long enough."""
        if self._waiting and time.monotonic() - self._since >= self._commit_age_s:
            await self._commit()

    async def close(self) -> None:
        """Commit what waits and let go."""
        try:
            if self._waiting:
                await self._commit()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._forget()
        table, self._table = self._table, None
        if table is not None:
            table.catalog.close()

    def _park(self, parked: Sequence[Parked]) -> None:
        self._parked += parked
        self._is_parked_fresh |= bool(parked)
        for one in parked:
            self._parked_first.setdefault(one.subject, one.stream_seq)

    async def _retry_parked(self, table: Table) -> None:
        """Add what can be projected now, each aggregate in order and in one commit."""
        self._parked, self._parked_first, self._is_parked_fresh = [], {}, False
        self._park(await asyncio.to_thread(stored, table, self._opened))
        self._is_parked_fresh = False
        if self._generation != LIVE:
            return
        for subject, batch in ready(batch_of, self._parked):
            left = [one for one in self._parked if one.subject != subject]
            try:
                made = await asyncio.to_thread(keep, table, self._opened, left)
                await asyncio.to_thread(append, table, [batch], made)
            except Exception as err:
                raise unavailable(err) from err
            log.info("%s: the parked events of %s are applied", self.name, subject)
            self._parked, self._opened = left, made
            del self._parked_first[subject]

    def _forget(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._waiting = 0
        self._since = 0.0

    async def _commit(self) -> None:
        if self._table is None:
            raise Inconsistent(f"{self.name}: not open; open it first")
        before, after = self._committed, self._opened.at(self._reached)
        try:
            if self._is_parked_fresh:
                after = await asyncio.to_thread(keep, self._table, after, self._parked)
            await asyncio.to_thread(append, self._table, self._batches, after)
        except Exception as err:  # noqa: BLE001 - whatever it was, the table says whether the commit landed
            seq = after.position.stream_seq
            log.info("%s: a commit to %d failed (%s), looking again", self.name, seq, type(err).__name__)
            try:
                after = await asyncio.to_thread(self._settle, self._table, before, after, err)
            except ProjectionError:
                self._let_go()  # the table is fresh now: what waits would pass the fence if it were tried again
                raise
        self._committed, self._opened, self._is_parked_fresh = after.position, after, False
        self._forget()

    def _settle(self, table: Table, before: Position, after: Made, err: Exception, tries: int = 5) -> Made:
        """Find out what became of a failed commit; returns what landed after all or now, else raises."""
        try:
            made = made_of(table.refresh())
        except Exception as again:
            raise unavailable(again) from again
        found = made.position if made else None
        if made is not None and made.generation != self._opened.generation:
            raise Switched(self.name) from err
        if made is not None and found == after.position:
            return made
        found_seq = found.stream_seq if found is not None else NOTHING
        if found_seq != before.stream_seq:
            raise Fenced(self.name, before.stream_seq, found_seq) from err
        if tries == 0 or not isinstance(err, (CommitFailedException, FileNotFoundError)):
            raise unavailable(err) from err
        try:  # maintenance was faster, and left the position where it was
            append(table, self._batches, after)
        except Exception as again:  # noqa: BLE001 - as in _commit
            return self._settle(table, before, after, again, tries - 1)
        return after


async def read_position(settings: IcebergSettings, tenant: str) -> Position | None:
    """Where the analytics stand, None before the first commit; raises `SinkUnavailable`."""

    def read() -> Position | None:
        with events_table(settings, tenant) as table:
            return None if table is None else position_of(table)

    return await asyncio.to_thread(read)


def scan(settings: IcebergSettings, tenant: str, columns: Iterable[str]) -> pa.Table:
    """These columns of all rows, in stream order; raises `SinkUnavailable`."""
    wanted = tuple(dict.fromkeys([*columns, "stream_seq"]))
    with events_table(settings, tenant) as table:
        if table is None:
            return ARROW.empty_table().select(wanted)
        return table.scan(selected_fields=wanted).to_arrow().sort_by("stream_seq")


def count_by_type(settings: IcebergSettings, tenant: str) -> dict[str, int]:
    """How many rows there are of each event type, counted in the rows themselves."""
    counted = scan(settings, tenant, ["event_type"]).group_by("event_type").aggregate([([], "count_all")])
    return dict(zip(*(counted.column(name).to_pylist() for name in ("event_type", "count_all")), strict=True))


def read_rows(settings: IcebergSettings, tenant: str) -> list[dict[str, Any]]:
    """All rows in stream order, in the form of `analytics.Rows`."""
    return rows_of(scan(settings, tenant, [name for name, _, _ in COLUMNS]))


def iterate_rows(settings: IcebergSettings, tenant: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The position and all rows, in portions and any order, from one snapshot."""
    with events_table(settings, tenant) as table:
        position = position_of(table) if table is not None else None
        if table is None or position is None:
            return
        for batch in table.scan().to_arrow_batch_reader():
            yield position.stream_seq, rows_of(pa.Table.from_batches([batch]))


def rows_of(found: pa.Table) -> list[dict[str, Any]]:
    """As Python values, times in the form of the events."""
    for name in ("time", "recorded_time"):
        text = pc.strftime(found.column(name).cast(pa.timestamp("ms", tz="UTC")), format="%Y-%m-%dT%H:%M:%SZ")
        found = found.set_column(found.schema.get_field_index(name), name, text)
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows
