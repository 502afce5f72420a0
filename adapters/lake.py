"""The Iceberg tables of a tenant as maintenance and analysts see them: files, snapshots, positions, one commit.

`replace` is the one way in which maintenance writes: files out and files in, in one snapshot that carries the position
and what else the projector wrote in the summary. Its fence is Iceberg's own; whoever is refused looks again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException, NoSuchNamespaceError, NoSuchTableError, ValidationException
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, _dataframe_to_data_files
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Snapshot

from adapters.iceberg_table import CREATED, EVENTS, LEAF, SEQ, IcebergSettings, open_catalog, unavailable
from bus.follower import Position
from projections.errors import Inconsistent, NotFound, ProjectionError
from projections.lake import TABLES
from projections.lake_upkeep import HOUR_MS, LiveFile, Standing

#: Keys of a snapshot's summary that begin so are carried forward.
OURS: Final = "tallyroot."

COMMIT_TRIES: Final = 20
_RETRY_WAIT_S: Final = 0.05
_RETRY_WAIT_MAX_S: Final = 1.0
#: A commit that somebody else's was faster than; nothing was changed.
CONFLICTS: Final = (CommitFailedException, ValidationException, FileNotFoundError)
_HOUR_FIELD: Final = "time_hour"
_Found = TypeVar("_Found")


@contextmanager
def opened(settings: IcebergSettings) -> Iterator[Catalog]:
    """The catalog; whatever fails in it is raised as one line."""
    try:
        with open_catalog(settings) as catalog:
            yield catalog
    except ProjectionError:
        raise
    except Exception as err:
        raise unavailable(err) from err


def table_names(catalog: Catalog, tenant: str) -> list[str]:
    """The tables of a tenant, generations in the making included; none before its first event was stored."""
    try:
        return sorted(name[-1] for name in catalog.list_tables(tenant))
    except NoSuchNamespaceError:
        return []


def load(catalog: Catalog, tenant: str, name: str) -> Table:
    """A table of a tenant; raises `NotFound` with the names that there are."""
    try:
        return catalog.load_table((tenant, name))
    except (NoSuchTableError, NoSuchNamespaceError) as err:
        found = ", ".join(table_names(catalog, tenant)) or "none yet: the analytics make them (tally status)"
        raise NotFound(f"{tenant} has no table {name[:60]!r}; there is {found}") from err


def carried(snapshot: Snapshot | None) -> dict[str, str]:
    """What the summary of a snapshot says of us: position, version, generation."""
    if snapshot is None or snapshot.summary is None:
        return {}
    return {key: text for key, text in snapshot.summary.additional_properties.items() if key.startswith(OURS)}


def ancestors(table: Table) -> list[Snapshot]:
    """The snapshots that led to the current one and are still there, from old to new."""
    found: list[Snapshot] = []
    snapshot = table.current_snapshot()
    while snapshot is not None:
        found.append(snapshot)
        parent = snapshot.parent_snapshot_id
        snapshot = table.snapshot_by_id(parent) if parent is not None else None
    return found[::-1]


def positioned(table: Table) -> Snapshot | None:
    """The newest snapshot with a position: other engines may have added some without."""
    return next((one for one in reversed(ancestors(table)) if SEQ in carried(one)), None)


def standing_of(snapshot: Snapshot) -> Standing:
    """A snapshot with its sequence, -1 when it has none."""
    at = int(carried(snapshot).get(SEQ, -1))
    return Standing(snapshot_id=snapshot.snapshot_id, stream_seq=at, written_at_ms=snapshot.timestamp_ms)


def standings(table: Table) -> list[Standing]:
    """The snapshots that have a position, from old to new."""
    return [one for one in map(standing_of, ancestors(table)) if one.stream_seq >= 0]


def position_in(properties: Mapping[str, str]) -> Position | None:
    """The position among properties that were carried."""
    if SEQ not in properties:
        return None
    return Position(properties[CREATED], int(properties[SEQ]), properties[LEAF])


def tasks_of(table: Table, snapshot: Snapshot | None) -> list[FileScanTask]:
    """The data files of a snapshot."""
    if snapshot is None:
        return []
    with told(table, snapshot):
        return [task for task in table.scan(snapshot_id=snapshot.snapshot_id).plan_files() if _is_file(task)]


def _is_file(task: object) -> bool:
    return isinstance(task, FileScanTask)


def added_at_ms(table: Table, snapshot: Snapshot) -> dict[str, int]:
    """When each file of a snapshot was added, 0 when that snapshot has expired."""
    times = {one.snapshot_id: one.timestamp_ms for one in table.metadata.snapshots}
    return {
        entry.data_file.file_path: times.get(entry.snapshot_id or 0, 0)
        for manifest in snapshot.manifests(table.io)
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
    }


def live_files(table: Table, snapshot: Snapshot) -> list[tuple[LiveFile, FileScanTask]]:
    """The files of a snapshot that may be compacted: in today's partitions, and no engine masks rows of them."""
    spec = table.spec()
    hour = next((at for at, field in enumerate(spec.fields) if field.name == _HOUR_FIELD), None)
    added = added_at_ms(table, snapshot)
    found = []
    for task in tasks_of(table, snapshot):
        if task.delete_files or task.file.spec_id != spec.spec_id:
            continue
        values = tuple(task.file.partition[at] for at in range(len(spec.fields)))
        file = LiveFile(
            path=task.file.file_path,
            partition=values,
            ends_at_ms=0 if hour is None else (int(values[hour]) + 1) * HOUR_MS,
            added_at_ms=added[task.file.file_path],
            rows=task.file.record_count,
            size_bytes=task.file.file_size_in_bytes,
        )
        found.append((file, task))
    return found


def read_files(table: Table, snapshot: Snapshot, tasks: Iterable[FileScanTask]) -> pa.Table:
    """The rows of these files in the schema that the table has now."""
    scan = ArrowScan(table.metadata, table.io, projected_schema=table.schema(), row_filter=AlwaysTrue())
    with told(table, snapshot):
        return scan.to_table(tasks=list(tasks))


def write_files(table: Table, rows: pa.Table) -> list[DataFile]:
    """Data files with the rows, which belong to nobody until a commit names them."""
    return list(_dataframe_to_data_files(table_metadata=table.metadata, df=rows, io=table.io)) if rows.num_rows else []


def discard(table: Table, files: Iterable[DataFile]) -> None:
    """Remove files that no commit has named."""
    for file in files:
        with suppress(OSError):
            table.io.delete(file.file_path)


def replace(table: Table, gone: Sequence[DataFile], fresh: Sequence[DataFile], properties: Mapping[str, str]) -> None:
    """One snapshot in which the fresh files stand for those that are gone; raises one of `CONFLICTS`."""
    with (
        table.transaction() as transaction,
        transaction.update_snapshot(snapshot_properties=dict(properties)).overwrite() as update,
    ):
        for file in gone:
            update.delete_data_file(file)
        for file in fresh:
            update.append_data_file(file)


def persistently(table: Table, attempt: Callable[[Table], _Found]) -> _Found:
    """Try on the table as it is now, again whenever another commit was faster; raises `Inconsistent` after many."""
    wait_s = _RETRY_WAIT_S
    for _ in range(COMMIT_TRIES):
        try:
            return attempt(table.refresh())
        except CONFLICTS as err:
            failed = err
            time.sleep(wait_s * random.random())  # noqa: S311 - so that two that met do not meet again
            wait_s = min(2 * wait_s, _RETRY_WAIT_MAX_S)
    raise Inconsistent(
        f"{'.'.join(table.name())}: {COMMIT_TRIES} commits in a row came after somebody else's; nothing was lost, "
        "run tally lake maintain again when less is written"
    ) from failed


@contextmanager
def told(table: Table, snapshot: Snapshot) -> Iterator[None]:
    """A file that has vanished while it was read is named, with the way out; raises `Inconsistent`."""
    try:
        yield
    except FileNotFoundError as err:
        with suppress(CommitFailedException):
            table.refresh()
        if table.snapshot_by_id(snapshot.snapshot_id) is None:
            raise  # it expired while it was read: a conflict like any other
        missing = missing_of(table, snapshot)
        raise (vanished(table, missing) if missing else unavailable(err)) from err


def missing_of(table: Table, snapshot: Snapshot) -> list[str]:
    """Data files of a snapshot that the warehouse no longer has."""
    try:
        paths = list(added_at_ms(table, snapshot))
    except FileNotFoundError:
        return []
    return [path for path in paths if not table.io.new_input(path).exists()]


def vanished(table: Table, missing: Sequence[str]) -> Inconsistent:
    """What to say of files that a table needs and that are gone."""
    tenant, name = table.name()[-2:]
    more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
    way_out = "tally rebuild analytics --accept"
    if name in TABLES:
        way_out = f"tally lake maintain --tenant {tenant} --anew"
    return Inconsistent(
        f"table {name} of {tenant} needs {missing[0]}{more}, and the warehouse does not have it: restore it, or write "
        f"the table again ({way_out})"
    )


def is_ours(name: str) -> bool:
    """Whether maintenance looks after a table: the live events and what is derived; generations are the rebuild's."""
    return name == EVENTS or name in TABLES


def rows_and_bytes(snapshot: Snapshot | None) -> dict[str, int]:
    """Rows, files and bytes of a snapshot, as its summary counts them."""
    summary: Any = {} if snapshot is None or snapshot.summary is None else snapshot.summary.additional_properties
    names = {"rows": "total-records", "files": "total-data-files", "bytes": "total-files-size"}
    return {name: int(summary.get(key, 0)) for name, key in names.items()}
