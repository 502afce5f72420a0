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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.transforms import HourTransform, IdentityTransform
from pyiceberg.types import FixedType, IcebergType, LongType, NestedField, StringType, TimestamptzType

from bus.envelope import Recorded
from bus.follower import Position, StreamIdentity
from projections import analytics
from projections.errors import Fenced, Inconsistent, ProjectionError, SinkUnavailable, Switched
from projections.positions import NOTHING, advance, require_same_stream

log = logging.getLogger(__name__)

CATALOG: Final = "tallyroot"
EVENTS: Final = "events"
LEAF_BYTES: Final = 32
COMMIT_ROWS: Final = 50_000
COMMIT_AGE_S: Final = 10

# Keys of a snapshot's summary.
_CREATED: Final = "tallyroot.stream-created"
_SEQ: Final = "tallyroot.stream-seq"
_LEAF: Final = "tallyroot.leaf-hash"
_VERSION: Final = "tallyroot.projection-version"
_GENERATION: Final = "tallyroot.generation"

_PROPERTIES: Final = {
    "format-version": "2",
    "commit.retry.num-retries": "0",
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    "write.parquet.compression-codec": "zstd",
    "write.parquet.compression-level": "1",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}

_COLUMNS: Final[tuple[tuple[str, IcebergType, bool], ...]] = (
    ("tenant", StringType(), True),
    ("event_type", StringType(), True),
    ("time", TimestamptzType(), True),
    ("recorded_time", TimestamptzType(), True),
    ("stream_seq", LongType(), True),
    ("event_id", StringType(), True),
    ("aggregate", StringType(), True),
    ("aggregate_id", StringType(), True),
    ("version", LongType(), True),
    ("causation_id", StringType(), True),
    ("correlation_id", StringType(), False),
    ("actor", StringType(), False),
    ("traceparent", StringType(), False),
    ("data", StringType(), True),
    ("leaf_hash", FixedType(LEAF_BYTES), True),
)
SCHEMA: Final = Schema(
    *(NestedField(number, name, kind, required=needed) for number, (name, kind, needed) in enumerate(_COLUMNS, 1))
)
PARTITIONS: Final = PartitionSpec(
    PartitionField(source_id=1, field_id=1000, transform=IdentityTransform(), name="tenant"),
    PartitionField(source_id=2, field_id=1001, transform=IdentityTransform(), name="event_type"),
    PartitionField(source_id=3, field_id=1002, transform=HourTransform(), name="time_hour"),
)

_TIME: Final = pa.timestamp("us", tz="UTC")
_ARROW_TYPES: Final[dict[IcebergType, Any]] = {
    StringType(): pa.string(),
    LongType(): pa.int64(),
    TimestamptzType(): _TIME,
}
_ARROW: Final = pa.schema(
    [
        pa.field(name, _ARROW_TYPES.get(kind) or pa.binary(LEAF_BYTES), nullable=not needed)
        for name, kind, needed in _COLUMNS
    ]
)


class Made(NamedTuple):
    """What a snapshot says of its making: the position, the version of the projector, the id of the generation."""

    position: Position
    version: int
    generation: str

    def at(self, position: Position) -> Made:
        """The same generation, further on."""
        return self._replace(position=position)


class IcebergSettings(Protocol):
    """What the analytics need to know of an installation."""

    @property
    def iceberg_catalog_uri(self) -> str: ...
    @property
    def iceberg_warehouse(self) -> str: ...


def unavailable(err: Exception) -> ProjectionError:
    """A failure of catalog or warehouse as one line."""
    said = " ".join(str(err).split())[:200]
    return SinkUnavailable(
        f"Iceberg refuses: {type(err).__name__}: {said}; see that catalog and warehouse can be reached and written "
        "(TALLY_ICEBERG_CATALOG_URI, TALLY_ICEBERG_WAREHOUSE)"
    )


def open_catalog(settings: IcebergSettings) -> Catalog:
    """The catalog: of a file or database (sqlite:, postgresql:) or a REST service (http:), as its address says."""
    where = {"uri": settings.iceberg_catalog_uri, "warehouse": _warehouse(settings.iceberg_warehouse)}
    try:
        return load_catalog(CATALOG, **where)
    except Exception:  # noqa: BLE001 - two that start at once may both try to make a SQL catalog's own tables
        return load_catalog(CATALOG, **where)


def _warehouse(address: str) -> str:
    """The address as pyiceberg takes it: for a folder it does not resolve the %20 of a URI, and would make `%20`."""
    if not address.startswith("file://") or Path(address.removeprefix("file://")).exists():
        return address
    return unquote(address)


def table_name(tenant: str, generation: str = "") -> tuple[str, str]:
    """Namespace and table; a generation in the making has a table beside the live one."""
    return tenant, EVENTS if not generation else f"{EVENTS}@{generation}"


@contextmanager
def events_table(settings: IcebergSettings, tenant: str, generation: str = "") -> Iterator[Table | None]:
    """The events table of a tenant as it is now, None before the first start; raises `SinkUnavailable`."""
    try:
        with open_catalog(settings) as catalog:
            try:
                table = catalog.load_table(table_name(tenant, generation))
            except NoSuchTableError:
                table = None
            yield table
    except ProjectionError:
        raise
    except Exception as err:
        raise unavailable(err) from err


def ensure_table(settings: IcebergSettings, tenant: str, generation: str = "") -> Table:
    """The events table of a tenant, made when it is not there; raises `SinkUnavailable`."""
    name = table_name(tenant, generation)
    try:
        with ExitStack() as unless_it_succeeds:
            catalog = unless_it_succeeds.enter_context(open_catalog(settings))
            if not catalog.table_exists(name):
                _make_table(catalog, tenant, name)
            table = catalog.load_table(name)
            unless_it_succeeds.pop_all()
            return table
    except Exception as err:
        raise unavailable(err) from err


def _make_table(catalog: Catalog, tenant: str, name: tuple[str, str]) -> None:
    """Another copy may be a moment faster, which catalogs say in many ways: what counts is what is there then."""
    try:
        catalog.create_namespace(tenant)
    except Exception:
        if not catalog.namespace_exists(tenant):
            raise
    try:
        catalog.create_table(name, schema=SCHEMA, partition_spec=PARTITIONS, properties=_PROPERTIES)
    except Exception:
        if not catalog.table_exists(name):
            raise


def position_of(table: Table) -> Position | None:
    """The position in the newest snapshot that has one: maintenance may add snapshots without, events may not."""
    made = made_of(table)
    return None if made is None else made.position


def made_of(table: Table) -> Made | None:
    """What the newest snapshot with a position says, None before the first commit."""
    snapshot: Snapshot | None = table.current_snapshot()
    while snapshot is not None:
        found = snapshot.summary
        if found is not None and found[_SEQ] is not None:
            position = Position(str(found[_CREATED]), int(str(found[_SEQ])), str(found[_LEAF]))
            return Made(position, int(str(found[_VERSION] or 1)), str(found[_GENERATION] or ""))
        parent = snapshot.parent_snapshot_id
        snapshot = table.snapshot_by_id(parent) if parent is not None else None
    return None


def summary_of(made: Made) -> dict[str, str]:
    """The same for a new snapshot."""
    at = made.position
    summary = {_CREATED: at.stream_created, _SEQ: str(at.stream_seq), _LEAF: at.leaf_hash}
    return summary | {_VERSION: str(made.version), _GENERATION: made.generation}


def batch_of(records: Sequence[Recorded]) -> pa.RecordBatch:
    """The records as Arrow columns in the table's schema."""
    rows = analytics.project(records)
    columns = []
    for field in _ARROW:
        values = getattr(rows, field.name)
        columns.append(pa.array(values).cast(_TIME) if field.type == _TIME else pa.array(values, type=field.type))
    return pa.RecordBatch.from_arrays(columns, schema=_ARROW)


def append(table: Table, batches: Sequence[pa.RecordBatch], made: Made) -> None:
    """One snapshot with the rows, sorted by type, time and sequence, and the position behind them."""
    order = [("event_type", "ascending"), ("time", "ascending"), ("stream_seq", "ascending")]
    rows = pa.Table.from_batches(batches, schema=_ARROW).sort_by(order)
    table.append(rows, snapshot_properties=summary_of(made))


def _tuning(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1_000_000):
        raise ProjectionError(f"{variable} is {text!r}, wanted a whole number from 1 to 1000000; correct or unset it")
    return int(text)


class AnalyticsFollower:
    """Feeds the events table of one tenant; commits by size or age."""

    name = analytics.NAME

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
        self._forget()

    async def open(self, tenant: str, stream: StreamIdentity) -> Position:
        """Make or load the table; returns the committed position. Raises `ForeignPosition`, `SinkUnavailable`."""
        self._let_go()
        self._table = await asyncio.to_thread(ensure_table, self._settings, tenant, self._generation)
        try:
            made = made_of(self._table)
            self._committed = require_same_stream(self.name, made.position if made else None, stream)
            self._opened = made or Made(self._committed, analytics.VERSION, "")
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
        self._batches.append(batch_of(records))
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

    def _forget(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._waiting = 0
        self._since = 0.0

    async def _commit(self) -> None:
        if self._table is None:
            raise Inconsistent(f"{self.name}: not open; open it first")
        before, after = self._committed, self._reached
        try:
            await asyncio.to_thread(append, self._table, self._batches, self._opened.at(after))
        except Exception as err:  # noqa: BLE001 - whatever it was, the table says whether the commit landed
            log.info("%s: a commit to %d failed (%s), looking again", self.name, after.stream_seq, type(err).__name__)
            try:
                await asyncio.to_thread(self._settle, self._table, before, after, err)
            except ProjectionError:
                self._let_go()  # the table is fresh now: what waits would pass the fence if it were tried again
                raise
        self._committed = after
        self._forget()

    def _settle(self, table: Table, before: Position, after: Position, err: Exception, tries: int = 5) -> None:
        """Find out what became of a failed commit; returns when it landed after all or now, else raises."""
        try:
            made = made_of(table.refresh())
        except Exception as again:
            raise unavailable(again) from again
        found = made.position if made else None
        if made is not None and made.generation != self._opened.generation:
            raise Switched(self.name) from err
        if found == after:
            return
        found_seq = found.stream_seq if found is not None else NOTHING
        if found_seq != before.stream_seq:
            raise Fenced(self.name, before.stream_seq, found_seq) from err
        if tries == 0 or not isinstance(err, (CommitFailedException, FileNotFoundError)):
            raise unavailable(err) from err
        try:  # maintenance was faster, and left the position where it was
            append(table, self._batches, self._opened.at(after))
        except Exception as again:  # noqa: BLE001 - as in _commit
            self._settle(table, before, after, again, tries - 1)


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
            return _ARROW.empty_table().select(wanted)
        return table.scan(selected_fields=wanted).to_arrow().sort_by("stream_seq")


def count_by_type(settings: IcebergSettings, tenant: str) -> dict[str, int]:
    """How many rows there are of each event type, counted in the rows themselves."""
    counted = scan(settings, tenant, ["event_type"]).group_by("event_type").aggregate([([], "count_all")])
    return dict(zip(*(counted.column(name).to_pylist() for name in ("event_type", "count_all")), strict=True))


def read_rows(settings: IcebergSettings, tenant: str) -> list[dict[str, Any]]:
    """All rows in stream order, in the form of `analytics.Rows`."""
    return _rows(scan(settings, tenant, [name for name, _, _ in _COLUMNS]))


def iterate_rows(settings: IcebergSettings, tenant: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The position and all rows, in portions and any order, from one snapshot."""
    with events_table(settings, tenant) as table:
        position = position_of(table) if table is not None else None
        if table is None or position is None:
            return
        for batch in table.scan().to_arrow_batch_reader():
            yield position.stream_seq, _rows(pa.Table.from_batches([batch]))


def _rows(found: pa.Table) -> list[dict[str, Any]]:
    """As Python values, times in the form of the events."""
    for name in ("time", "recorded_time"):
        text = pc.strftime(found.column(name).cast(pa.timestamp("ms", tz="UTC")), format="%Y-%m-%dT%H:%M:%SZ")
        found = found.set_column(found.schema.get_field_index(name), name, text)
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows
