"""Derived tables kept up with the events table: what is new is folded and added, with the position, in one commit.

Each table has its own position. A table that was made from another stream, version or generation of the events, or
that is ahead of them, is made anew: its first commit then takes all its old files out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any, Final

import msgspec
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import DateType, IcebergType, LongType, NestedField, StringType

from adapters import lake
from adapters.iceberg_table import CREATED, LEAF, PARKED_FIRST, SEQ
from projections.errors import Inconsistent
from projections.lake import DAY, VERSION, DerivedTable, Fact, Sums, fold, merge

#: So many events are folded into one commit; a table that is far behind takes several.
EVENTS_AT_ONCE: Final = 500_000
_READ: Final = ("stream_seq", "event_type", "time", "aggregate_id", "data", "leaf_hash")
#: What must be the same in the events table and in what was made from it; the first two are the events' own.
_SAME: Final = (CREATED, "tallyroot.projection-version", "tallyroot.generation")
_MADE_BY: Final = "tallyroot.derived-version"
_PROPERTIES: Final = {
    "format-version": "2",
    "commit.retry.num-retries": "0",
    "write.parquet.compression-codec": "zstd",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}


class Derived(msgspec.Struct, kw_only=True):
    """What became of a derived table."""

    table: str
    from_seq: int
    to_seq: int
    commits: int = 0
    anew: str | None = None


def derive(catalog: Catalog, tenant: str, events: Table, derived: DerivedTable, *, is_anew: bool = False) -> Derived:
    """Bring a derived table to the position of the events table; raises `Inconsistent` when events are missing."""
    table = _ensure(catalog, tenant, derived)
    report: Derived | None = None
    reason: str | None = "as asked" if is_anew else None
    while True:

        def step(now: Table, reason: str | None = reason) -> tuple[int, int, str | None]:
            return _step(events, now, derived, reason)

        start, end, reason = lake.persistently(table, step)
        if report is None:
            report = Derived(table=derived.name, from_seq=start, to_seq=end, anew=reason)
        if end == start:
            return report
        report.to_seq, report.commits, reason = end, report.commits + 1, None


def _step(events: Table, table: Table, derived: DerivedTable, reason: str | None) -> tuple[int, int, str | None]:
    """One commit: from where the table stands to at most `EVENTS_AT_ONCE` events on; returns both positions."""
    source = lake.positioned(events.refresh())
    here = lake.carried(lake.positioned(table))
    if source is None:
        return 0, 0, None
    there = lake.carried(source)
    reason = reason or _unfit(derived, here, there)
    start, goal = 0 if reason or not here else int(here[SEQ]), int(there[SEQ])
    if PARKED_FIRST in there:  # what is parked comes later, with a lower sequence: wait for it
        goal = min(goal, int(there[PARKED_FIRST]) - 1)
    if start >= goal:
        return start, start, None
    end = min(goal, start + EVENTS_AT_ONCE)
    rows = _window(events, source, start, end)
    if start and rows[0].as_py() != here[LEAF]:
        reason, start, end = f"event {start} is another one now", 0, min(goal, EVENTS_AT_ONCE)
        rows = _window(events, source, start, end)
    facts, leaf = rows[1], rows[2]
    added = fold([derived], facts)[derived.name]
    properties = {key: there[key] for key in _SAME if key in there} | {SEQ: str(end), LEAF: leaf}
    _commit(table, derived, added, properties | {_MADE_BY: str(VERSION)}, is_fresh=start == 0)
    return start, end, reason


def _unfit(derived: DerivedTable, here: Mapping[str, str], there: Mapping[str, str]) -> str | None:
    """Why a table cannot go on from where it stands, None when it can."""
    if not here:
        return None
    if here.get(_MADE_BY) != str(VERSION):
        return f"{derived.name} was derived by version {here.get(_MADE_BY)}, this is {VERSION}"
    for key in _SAME:
        if here.get(key) != there.get(key):
            return f"{key.removeprefix(lake.OURS)} of the events is {there.get(key)!r}, it was {here.get(key)!r}"
    if int(here[SEQ]) > int(there[SEQ]):
        return f"the events reach {there[SEQ]}, it was at {here[SEQ]}"
    return None


def _window(events: Table, source: Snapshot, start: int, end: int) -> tuple[Any, Iterator[Fact], str]:
    """The leaf hash of event `start`, the facts behind it up to `end`, and the leaf hash of event `end`."""
    scan = events.scan(
        row_filter=f"stream_seq >= {max(start, 1)} and stream_seq <= {end}",
        selected_fields=_READ,
        snapshot_id=source.snapshot_id,
    )
    with lake.told(events, source):
        found = scan.to_arrow().sort_by("stream_seq")
    wanted = pa.array(range(max(start, 1), end + 1), pa.int64())
    if not found.column("stream_seq").combine_chunks().equals(wanted):
        raise Inconsistent(
            f"events {max(start, 1)} to {end}: {found.num_rows:,} rows, {len(wanted):,} wanted, each once: "
            "write the events table again (tally rebuild analytics)"
        )
    leaves = found.column("leaf_hash")
    before = pa.scalar(leaves[0].as_py().hex())
    fresh = found.slice(1) if start else found
    return before, _facts(fresh), leaves[-1].as_py().hex()


def _facts(rows: pa.Table) -> Iterator[Fact]:
    days = rows.column("time").cast(pa.timestamp("us")).cast(pa.date32())
    columns = (rows.column("stream_seq"), rows.column("event_type"), days, rows.column("aggregate_id"))
    for values in zip(*(column.to_pylist() for column in (*columns, rows.column("data"))), strict=True):
        yield Fact(*values)


def _commit(table: Table, derived: DerivedTable, added: Sums, properties: Mapping[str, str], *, is_fresh: bool) -> None:
    """Add to the rows of the partitions that are touched; a fresh start takes all the others out."""
    snapshot = table.current_snapshot()
    tasks = lake.tasks_of(table, snapshot)
    touched = tasks if is_fresh else _touched(tasks, derived, added)
    there: Sums = {}
    if snapshot is not None and touched and not is_fresh:
        there = _sums_of(derived, lake.read_files(table, snapshot, touched))
    fresh = lake.write_files(table, _rows(derived, merge(there, added)))
    lake.replace(table, [task.file for task in touched], fresh, properties)


def _touched(tasks: list[FileScanTask], derived: DerivedTable, added: Sums) -> list[FileScanTask]:
    if not added:
        return []
    if not derived.is_daily:
        return tasks
    days = {key[0] for key in added}
    return [task for task in tasks if _day(task.file.partition[0]) in days]


def _day(value: int | date) -> date:
    """A partition's value, which Iceberg keeps as days since 1970."""
    return value if isinstance(value, date) else date.fromordinal(date(1970, 1, 1).toordinal() + value)


def _sums_of(derived: DerivedTable, rows: pa.Table) -> Sums:
    keys = zip(*(rows.column(name).to_pylist() for name in derived.key), strict=True)
    sums = zip(*(rows.column(name).to_pylist() for name in derived.sums), strict=True)
    return {key: list(values) for key, values in zip(keys, sums, strict=True)}


def _rows(derived: DerivedTable, sums: Sums) -> pa.Table:
    keys = list(zip(*sums, strict=True)) or [()] * len(derived.key)
    amounts = list(zip(*sums.values(), strict=True)) or [()] * len(derived.sums)
    schema = pa.schema(
        [pa.field(name, pa.date32() if name == DAY else pa.string(), nullable=False) for name in derived.key]
        + [pa.field(name, pa.int64(), nullable=False) for name in derived.sums]
    )
    columns = [pa.array(values, field.type) for values, field in zip([*keys, *amounts], schema, strict=True)]
    return pa.Table.from_arrays(columns, schema=schema).sort_by([(name, "ascending") for name in derived.key])


def _ensure(catalog: Catalog, tenant: str, derived: DerivedTable) -> Table:
    """The table, made when it is not there; another run may be a moment faster."""
    name = (tenant, derived.name)
    if not catalog.table_exists(name):
        columns: list[tuple[str, IcebergType]] = [
            (key, DateType() if key == DAY else StringType()) for key in derived.key
        ]
        columns += [(column, LongType()) for column in derived.sums]
        schema = Schema(*(NestedField(at, column, kind, required=True) for at, (column, kind) in enumerate(columns, 1)))
        by_day = PartitionField(source_id=1, field_id=1000, transform=IdentityTransform(), name=DAY)
        spec = PartitionSpec(by_day) if derived.is_daily else PartitionSpec()
        try:
            catalog.create_table(name, schema=schema, partition_spec=spec, properties=_PROPERTIES)
        except Exception:
            if not catalog.table_exists(name):
                raise
    return catalog.load_table(name)
