"""Maintenance of the lake beside running analytics: derive, compact, expire, remove what nothing refers to.

Nothing here stops the analytics: each commit is fenced by Iceberg, and whoever comes second looks again. A file is
removed only when no snapshot of any table of the tenant refers to it and it is older than the grace, because the files
of a commit are written before the commit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from pyarrow.fs import FileSelector, FileType
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table

from adapters import lake
from adapters.iceberg_table import EVENTS, PARKED, IcebergSettings, unavailable
from adapters.lake_derived import Derived, derive
from projections.errors import Inconsistent, NotFound
from projections.lake import TABLES
from projections.lake_upkeep import HOUR_MS, LiveFile, StoredFile, to_compact, to_expire, to_remove

TARGET_BYTES: Final = 32 << 20
#: So many bytes of small files, or a group more, are rewritten in one commit.
COMMIT_BYTES: Final = 32 << 20
_SORT: Final = [("event_type", "ascending"), ("time", "ascending"), ("stream_seq", "ascending")]
_MS: Final = 1_000_000


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long an hour must be quiet, a snapshot is kept, and a file without a reference is spared."""

    quiet_ms: int = HOUR_MS
    keep_ms: int = 7 * 24 * HOUR_MS
    grace_ms: int = 24 * HOUR_MS


class Maintained(msgspec.Struct, kw_only=True):
    """What was done to a table."""

    table: str
    files_before: int = 0
    files_after: int = 0
    files_compacted: int = 0
    snapshots_expired: int = 0
    orphans_removed: int = 0
    orphan_bytes: int = 0


class Report(msgspec.Struct, kw_only=True):
    """What a run of maintenance did; `stream_seq` is the position of the events table."""

    tenant: str
    stream_seq: int
    derived: list[Derived]
    tables: list[Maintained]


def maintain(settings: IcebergSettings, tenant: str, limits: Limits, *, is_anew: bool = False) -> Report:
    """Do all that is due for a tenant; raises `Inconsistent` before anything is changed when files are missing."""
    with lake.opened(settings) as catalog:
        events = lake.load(catalog, tenant, EVENTS)
        source = lake.positioned(events)
        if source is None:
            raise NotFound(f"{tenant} has no events in the lake yet: tally status shows how far the analytics are")
        _require_files(events)
        derived = [derive(catalog, tenant, events, table, is_anew=is_anew) for table in TABLES.values()]
        tables = [catalog.load_table((tenant, name)) for name in (EVENTS, *TABLES)]
        done = [Maintained(table=table.name()[-1]) for table in tables]
        for table, report in zip(tables, done, strict=True):
            if report.table != EVENTS:
                _require_files(table)
            report.files_before = lake.rows_and_bytes(table.refresh().current_snapshot())["files"]
            report.files_compacted = compact(table, limits.quiet_ms)
            report.snapshots_expired = expire(table, limits.keep_ms)
        for table, report in zip(tables, done, strict=True):
            removed = remove_orphans(catalog, tenant, table, limits.grace_ms)
            report.orphans_removed, report.orphan_bytes = len(removed), sum(one.size_bytes for one in removed)
            report.files_after = lake.rows_and_bytes(table.refresh().current_snapshot())["files"]
        reached = lake.positioned(events.refresh()) or source
        return Report(tenant=tenant, stream_seq=lake.standing_of(reached).stream_seq, derived=derived, tables=done)


def compact(table: Table, quiet_ms: int, *, target_bytes: int = TARGET_BYTES) -> int:
    """Rewrite the small files of quiet partitions; returns how many files were replaced."""
    snapshot = table.refresh().current_snapshot()
    if snapshot is None:
        return 0
    tasks = {file.path: (file, task) for file, task in lake.live_files(table, snapshot)}
    files = [file for file, _ in tasks.values()]
    groups = to_compact(files, now_ms=_now_ms(), quiet_ms=quiet_ms, target_bytes=target_bytes)
    replaced = 0
    for portion in _portions(groups):
        gone = [tasks[file.path][1] for file in portion]
        fresh = _rewrite(table, gone)
        if len(fresh) >= len(gone):
            lake.discard(table, fresh)
        elif _swap(table, [task.file for task in gone], fresh):
            replaced += len(gone)
    return replaced


def _portions(groups: Iterable[Sequence[LiveFile]]) -> Iterable[list[LiveFile]]:
    portion: list[LiveFile] = []
    for group in groups:
        portion += group
        if sum(file.size_bytes for file in portion) >= COMMIT_BYTES:
            yield portion
            portion = []
    if portion:
        yield portion


def _rewrite(table: Table, tasks: Sequence[FileScanTask]) -> list[DataFile]:
    """The rows of these files in one fresh file for each partition; raises `Inconsistent` unless every row is there."""
    snapshot = table.current_snapshot()
    if snapshot is None:
        return []
    rows = lake.read_files(table, snapshot, tasks)
    order = [key for key in _SORT if key[0] in rows.column_names]
    written = lake.write_files(table, rows.sort_by(order) if order else rows)
    wanted, got = (sum(file.record_count for file in files) for files in ([task.file for task in tasks], written))
    if wanted != got:
        lake.discard(table, written)
        raise Inconsistent(f"{len(tasks)} files of {wanted:,} rows came out with {got:,}: nothing was replaced")
    return written


def _swap(table: Table, gone: list[DataFile], fresh: list[DataFile]) -> bool:
    """Commit a compaction; false when somebody else has taken out one of the files in the meantime.

    After a failure whose outcome is unknown the fresh files stay: if nothing refers to them, they are orphans.
    """

    def attempt(now: Table) -> bool:
        snapshot = now.current_snapshot()
        live = set() if snapshot is None else set(lake.added_at_ms(now, snapshot))
        if live.issuperset(file.file_path for file in fresh):
            return True
        if not live.issuperset(file.file_path for file in gone):
            lake.discard(now, fresh)
            return False
        lake.replace(now, gone, fresh, lake.carried(lake.positioned(now)))
        return True

    return lake.persistently(table, attempt)


def expire(table: Table, keep_ms: int) -> int:
    """Drop old snapshots, never a head, a tag or what carries the position; returns how many."""

    def attempt(now: Table) -> int:
        kept = {ref.snapshot_id for ref in now.metadata.refs.values()}
        carrier = lake.positioned(now)
        if carrier is not None:
            kept.add(carrier.snapshot_id)
            kept |= _between(now, carrier.snapshot_id)
        found = [lake.standing_of(one) for one in now.metadata.snapshots]
        due = to_expire(found, kept=kept, now_ms=_now_ms(), keep_ms=keep_ms)
        if due:
            _drop(now, due)
        return len(due)

    return lake.persistently(table, attempt)


def _drop(table: Table, snapshots: list[int]) -> None:
    """Drop these snapshots in one commit; pyiceberg has a bare `ValueError` for one that is dropped already."""
    try:
        table.maintenance.expire_snapshots().by_ids(snapshots).commit()
    except ValueError as err:
        if all(table.refresh().snapshot_by_id(one) for one in snapshots):
            raise
        raise CommitFailedException("another maintenance has dropped one of them in the meantime") from err


def _between(table: Table, carrier: int) -> set[int]:
    """Snapshots of other engines that lead from the one with the position to the current one."""
    ids = [one.snapshot_id for one in lake.ancestors(table)]
    return set(ids[ids.index(carrier) :])


def remove_orphans(catalog: Catalog, tenant: str, table: Table, grace_ms: int) -> list[StoredFile]:
    """Remove files under the table's location that nothing of the tenant refers to; returns them.

    The files are listed first and the references read afterwards, so that what is committed in between is spared.
    """
    if not isinstance(table.io, PyArrowFileIO):
        return []
    stored = _listed(table.io, table.location())
    referred: set[str] = set()
    for name in lake.table_names(catalog, tenant):
        with suppress(NoSuchTableError):  # dropped since: its files lie elsewhere
            referred |= _referred(catalog.load_table((tenant, name)))
    orphans = to_remove(stored, referred, now_ms=_now_ms(), grace_ms=grace_ms)
    system = table.io.fs_by_scheme(*PyArrowFileIO.parse_location(table.location())[:2])
    for orphan in orphans:
        system.delete_file(orphan.path)
    return orphans


def _listed(io: PyArrowFileIO, location: str) -> list[StoredFile]:
    scheme, host, path = PyArrowFileIO.parse_location(location)
    found = io.fs_by_scheme(scheme, host).get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return [
        StoredFile(path=one.path, written_at_ms=one.mtime_ns // _MS, size_bytes=one.size)
        for one in found
        if one.type == FileType.File and one.mtime_ns is not None
    ]


def _referred(table: Table) -> set[str]:
    """Everything that any snapshot of a table refers to, as paths of its file system."""
    metadata = table.metadata
    found = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    found |= {statistics.statistics_path for statistics in (*metadata.statistics, *metadata.partition_statistics)}
    manifests: set[str] = set()
    for snapshot in metadata.snapshots:
        found |= {snapshot.manifest_list, lake.carried(snapshot).get(PARKED, "")} - {""}
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path not in manifests:
                manifests.add(manifest.manifest_path)
                entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                found.update(entry.data_file.file_path for entry in entries)
    return {PyArrowFileIO.parse_location(location)[2] for location in found | manifests}


def _require_files(table: Table) -> None:
    """Raise `Inconsistent` when the newest snapshot needs a file that the warehouse does not have."""
    snapshot = table.refresh().current_snapshot()
    if snapshot is None or not isinstance(table.io, PyArrowFileIO):
        return
    try:
        needed = list(lake.added_at_ms(table, snapshot))
    except FileNotFoundError as err:
        raise unavailable(err) from err
    places = {path.rpartition("/data/")[0] for path in needed}
    stored = {file.path for place in places for file in _listed(table.io, place)}
    missing = [path for path in needed if PyArrowFileIO.parse_location(path)[2] not in stored]
    missing = [path for path in missing if not table.io.new_input(path).exists()]
    if missing and table.refresh().current_snapshot() == snapshot:
        raise lake.vanished(table, sorted(missing))


def _now_ms() -> int:
    return time.time_ns() // _MS
