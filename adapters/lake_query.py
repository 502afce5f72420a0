"""What an analyst asks of the lake without another engine: which tables there are, and their rows at any sequence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression
from pyiceberg.expressions.parser import parse
from pyiceberg.table import Table

from adapters import lake
from adapters.iceberg_table import EVENTS, IcebergSettings
from bus.timetravel import Moment, TravelRefused, parse_at, sequence_at
from domain.values import to_time
from projections.errors import NotFound, ProjectionError
from projections.lake_upkeep import Standing, standing_at


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot as people see it; `stream_seq` is None when another engine wrote it."""

    snapshot_id: int
    written_at: str
    stream_seq: int | None
    operation: str
    rows: int


class TableInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A table of a tenant."""

    table: str
    stream_seq: int | None
    rows: int
    files: int
    bytes: int
    snapshots: list[SnapshotInfo]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a table as it was after event `stream_seq`; `matching` counts those not shown too."""

    table: str
    stream_seq: int
    snapshot_id: int
    matching: int
    rows: list[dict[str, Any]]


def tables(settings: IcebergSettings, tenant: str) -> list[TableInfo]:
    """The tables of a tenant with their snapshots from old to new; raises `NotFound` when there is none."""
    with lake.opened(settings) as catalog:
        found = []
        for name in lake.table_names(catalog, tenant):
            try:
                found.append(_table_info(catalog.load_table((tenant, name))))
            except NoSuchTableError:  # a generation was dropped in the meantime
                continue
        return found or [_table_info(lake.load(catalog, tenant, EVENTS))]


def _table_info(table: Table) -> TableInfo:
    snapshots = []
    for one in lake.ancestors(table):
        at = lake.standing_of(one).stream_seq
        snapshots.append(
            SnapshotInfo(
                snapshot_id=one.snapshot_id,
                written_at=to_time(one.timestamp_ms),
                stream_seq=None if at < 0 else at,
                operation=str(one.summary.operation.value) if one.summary else "unknown",
                rows=lake.rows_and_bytes(one)["rows"],
            )
        )
    positioned = lake.positioned(table)
    at_seq = None if positioned is None else lake.standing_of(positioned).stream_seq
    counts = lake.rows_and_bytes(table.current_snapshot())
    return TableInfo(table=table.name()[-1], stream_seq=at_seq, snapshots=snapshots, **counts)


def files(settings: IcebergSettings, tenant: str, name: str, as_of: str | None = None) -> list[str]:
    """The Parquet files that hold exactly the rows of a snapshot: what any engine can read. Raises `NotFound`."""
    with lake.opened(settings) as catalog:
        table = lake.load(catalog, tenant, name)
        standing, _ = _standing(catalog, tenant, table, as_of)
        snapshot = table.snapshot_by_id(standing.snapshot_id)
        return sorted(task.file.file_path for task in lake.tasks_of(table, snapshot))


def query(
    settings: IcebergSettings,
    tenant: str,
    name: str,
    *,
    as_of: str | None = None,
    where: str | None = None,
    columns: Sequence[str] = (),
    rows_max: int = 20,
) -> Answer:
    """Rows of a table, now or at a past sequence or moment: of events the newest, of other tables the first by key.

    Raises `NotFound` for what is not there, `ProjectionError` for a filter that cannot be read.
    """
    condition = AlwaysTrue() if where is None else _parsed(where)
    with lake.opened(settings) as catalog:
        table = lake.load(catalog, tenant, name)
        standing, stream_seq = _standing(catalog, tenant, table, as_of)
        snapshot = table.snapshot_by_id(standing.snapshot_id)
        if snapshot is None:
            raise NotFound(f"snapshot {standing.snapshot_id} of {name} has just expired: ask again")
        is_events = _holds_events(table)
        if is_events and stream_seq < standing.stream_seq:
            condition = And(condition, parse(f"stream_seq <= {stream_seq}"))
        order, shown = _order(table, columns)
        with lake.told(table, snapshot):
            matching, found = _first(table, snapshot.snapshot_id, condition, order, rows_max)
        rows = [{key: _plain(value) for key, value in row.items() if key in shown} for row in found.to_pylist()]
        return Answer(table=name, stream_seq=stream_seq, snapshot_id=snapshot.snapshot_id, matching=matching, rows=rows)


def _holds_events(table: Table) -> bool:
    return "stream_seq" in table.schema().column_names


def _parsed(where: str) -> BooleanExpression:
    try:
        return parse(where)
    except Exception as err:
        said = " ".join(str(err).split())[:120]
        raise ProjectionError(
            f"--where is {where[:80]!r}, wanted a filter like event_type == 'xp-awarded/1' and version > 3 ({said})"
        ) from err


def _standing(catalog: Catalog, tenant: str, table: Table, as_of: str | None) -> tuple[Standing, int]:
    """The snapshot to read, and the sequence at which its rows are shown."""
    found, is_events = lake.standings(table), _holds_events(table)
    if as_of is None:
        newest = standing_at(table.name()[-1], found, max((one.stream_seq for one in found), default=0), is_cut=False)
        return newest, newest.stream_seq
    try:
        at = parse_at(as_of)
    except TravelRefused as err:
        raise ProjectionError(
            f"--as-of is {as_of[:60]!r}, wanted a sequence from 0 or a time with its zone, like 2026-11-21T10:00:00Z"
        ) from err
    stream_seq = at if isinstance(at, int) else _sequence_at(lake.load(catalog, tenant, EVENTS), at)
    standing = standing_at(table.name()[-1], found, stream_seq, is_cut=is_events)
    return standing, stream_seq if is_events else standing.stream_seq


def _sequence_at(events: Table, moment: Moment) -> int:
    """The same sequence that `tally replay` finds for a moment, among the events that the lake has."""
    source = lake.positioned(events)
    if source is None:
        return 0

    async def recorded_ms(stream_seq: int) -> int:
        scan = events.scan(
            row_filter=f"stream_seq == {stream_seq}",
            selected_fields=("recorded_time",),
            snapshot_id=source.snapshot_id,
        )
        with lake.told(events, source):
            rows = scan.to_arrow()
        return int(rows.column("recorded_time").cast(pa.int64())[0].as_py()) // 1000

    return asyncio.run(sequence_at(moment.at_ms, lake.standing_of(source).stream_seq, recorded_ms))


def _order(table: Table, columns: Sequence[str]) -> tuple[list[tuple[str, str]], set[str]]:
    """How rows are ordered, and which columns are shown; raises `NotFound` for one that the table has not."""
    there = table.schema().column_names
    for column in columns:
        if column not in there:
            raise NotFound(f"{table.name()[-1]} has no column {column[:60]!r}; there is {', '.join(there)}")
    order = [("stream_seq", "descending")] if _holds_events(table) else [(name, "ascending") for name in there]
    return order, set(columns or there)


def _first(
    table: Table, snapshot_id: int, condition: BooleanExpression, order: list[tuple[str, str]], rows_max: int
) -> tuple[int, pa.Table]:
    """How many rows match, and the first of them: read in portions, so that memory stays bounded."""
    try:
        # A snapshot is read in the schema that it was written in; the newest in the one that the table has now.
        is_newest = snapshot_id == table.metadata.current_snapshot_id
        scan = table.scan(row_filter=condition, snapshot_id=None if is_newest else snapshot_id)
        reader = scan.to_arrow_batch_reader()
    except (ValueError, TypeError) as err:
        raise ProjectionError(f"--where does not fit {table.name()[-1]}: {' '.join(str(err).split())[:160]}") from err
    matching, found = 0, reader.schema.empty_table()
    for batch in reader:
        matching += batch.num_rows
        found = pa.concat_tables([found, pa.Table.from_batches([batch])]).sort_by(order).slice(0, rows_max)
    return matching, found


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case _:
            return value
