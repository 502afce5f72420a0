"""Generations of the analytics: filled as a table of its own, switched by one commit to the live table.

That commit takes every file of the live generation out and every file of the next one in: all engines see the one or
the other. The former snapshot keeps the tag `tallyroot-previous`, which also protects it from being expired.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError
from pyiceberg.table import Table
from pyiceberg.table.update.snapshot import ManageSnapshots

from adapters.iceberg import AnalyticsFollower
from adapters.iceberg_parking import stored
from adapters.iceberg_table import (
    EVENTS,
    IcebergSettings,
    ensure_table,
    events_table,
    made_of,
    open_catalog,
    require_ours,
    summary_of,
    table_name,
    unavailable,
)
from adapters.lake import told
from projections import analytics
from projections.errors import ProjectionError, RebuildRefused
from projections.generations import LIVE, PREVIOUS, RowsHash, Standing, State
from projections.parking import line_of

PREVIOUS_TAG: Final = "tallyroot-previous"
#: Set on a table before its files go live: they must outlive it.
ADOPTED: Final = "tallyroot.adopted"
COMMIT_ROWS: Final = 100_000
SWITCH_TRIES: Final = 5
_SEPARATOR: Final = b"\x1f"
_NULL: Final = b"\x00"


class AnalyticsGenerations:
    """The generations of one tenant's analytics."""

    name = analytics.NAME
    version = analytics.VERSION

    def __init__(self, settings: IcebergSettings, tenant: str) -> None:
        self._settings = settings
        self._tenant = tenant

    async def prepare(self) -> None:
        """Make the live table when there is none; raises `Inconsistent` when it cannot take the next one's files."""
        table = await asyncio.to_thread(ensure_table, self._settings, self._tenant)
        try:
            require_ours(table, self._tenant, None)
        finally:
            table.catalog.close()

    async def follower(self, generation: str) -> AnalyticsFollower:
        """What feeds a generation that is not live (the previous one is a snapshot, and is not fed)."""
        return AnalyticsFollower(self._settings, generation, commit_rows=COMMIT_ROWS, commit_age_s=0)

    async def standing(self, generation: str) -> Standing | None:
        """Where a generation stands; None when there is none."""

        def read() -> Standing | None:
            with events_table(self._settings, self._tenant, generation) as table:
                made = made_of(table) if table is not None else None
                if table is None or made is None:
                    return None
                return Standing(position=made.position, version=made.version, parked=line_of(stored(table, made)))

        return await asyncio.to_thread(read)

    async def state(self, generation: str) -> State:
        """What a generation holds in its newest snapshot."""
        return await asyncio.to_thread(self._state, generation)

    @asynccontextmanager
    async def live_at_rest(self) -> AsyncIterator[State]:
        """What the live generation holds in its newest snapshot; it goes on meanwhile."""
        yield await self.state(LIVE)

    async def switch(self, generation: str, feed: Callable[[int], Awaitable[None]]) -> None:
        """Let a generation go live; `feed` is told how far it must come. Raises `RebuildRefused`."""
        if generation == PREVIOUS:
            await asyncio.to_thread(self._go_back)
            return
        for _ in range(SWITCH_TRIES):
            standing = await self.standing(LIVE)
            await feed(standing.position.stream_seq if standing else 0)
            if await asyncio.to_thread(self._adopt, generation, standing):
                await self.drop(generation)
                return
        raise RebuildRefused(f"{self.name} of {self._tenant} was written {SWITCH_TRIES} times meanwhile; try again")

    async def drop(self, generation: str) -> None:
        """Remove a table that is not live, with its files unless they went live."""

        def drop() -> None:
            name = table_name(self._tenant, generation)
            with open_catalog(self._settings) as catalog:
                try:
                    adopted = ADOPTED in catalog.load_table(name).properties
                except NoSuchTableError:
                    return
                (catalog.drop_table if adopted else catalog.purge_table)(name)

        await self._in_thread(drop)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(work)
        except ProjectionError:
            raise
        except Exception as err:
            raise unavailable(err) from err

    def _adopt(self, generation: str, expected: Standing | None) -> bool:
        """One commit: files out, files in, the position with them; False when the live table moved on meanwhile."""
        with events_table(self._settings, self._tenant, generation) as made, self._live() as live:
            found, new = made_of(live), made_of(made) if made is not None else None
            if made is None or new is None:
                raise RebuildRefused(f"{self.name} of {self._tenant} has no {generation} generation to go to")
            if (found.position if found else None) != (expected.position if expected else None):
                return False
            made.transaction().set_properties({ADOPTED: "true"}).commit_transaction()
            former = live.current_snapshot()
            transaction = live.transaction()
            summary = summary_of(new._replace(generation=secrets.token_hex(8)))
            with transaction.update_snapshot(snapshot_properties=summary).overwrite() as overwrite:
                for file in _files(live):
                    overwrite.delete_data_file(file)
                for file in _files(made):
                    overwrite.append_data_file(file)
            if former is not None:
                ManageSnapshots(transaction).create_tag(former.snapshot_id, PREVIOUS_TAG).commit()
            try:
                transaction.commit_transaction()
            except CommitFailedException:
                return False
            return True

    def _go_back(self) -> None:
        """The tagged snapshot is current again; what came after it comes again from the stream."""
        with self._live() as live:
            tagged, current = live.metadata.refs.get(PREVIOUS_TAG), live.current_snapshot()
            if tagged is None or current is None:
                raise RebuildRefused(f"{self.name} of {self._tenant} has no previous generation to go back to")
            transaction = live.transaction()
            ManageSnapshots(transaction).set_current_snapshot(tagged.snapshot_id).commit()
            ManageSnapshots(transaction).create_tag(current.snapshot_id, PREVIOUS_TAG).commit()
            transaction.commit_transaction()

    @contextmanager
    def _live(self) -> Iterator[Table]:
        with events_table(self._settings, self._tenant) as table:
            if table is None:
                raise RebuildRefused(
                    f"{self.name} of {self._tenant} has no table yet; start `tally up`, which makes it"
                )
            yield table

    def _state(self, generation: str) -> State:
        with events_table(self._settings, self._tenant, generation) as table:
            made = made_of(table) if table is not None else None
            found = RowsHash()
            snapshot = table.current_snapshot() if table is not None else None
            if table is not None and snapshot is not None:
                with told(table, snapshot):
                    for batch in table.scan().to_arrow_batch_reader():
                        found.add(_canonical(batch))
        seq, version = (made.position.stream_seq, made.version) if made else (0, self.version)
        return State(stream_seq=seq, version=version, rows={EVENTS: found.rows}, hashes={EVENTS: found.hex})


def _files(table: Table) -> Iterable[Any]:
    return [task.file for task in table.scan().plan_files()]


def _canonical(batch: pa.RecordBatch) -> Iterable[bytes]:
    """The columns in the order of the schema with U+001F between; times as microseconds, null as U+0000."""
    columns = []
    for column in batch.columns:
        values = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        if not pa.types.is_fixed_size_binary(values.type):
            values = values.cast(pa.string())
        columns.append(values.cast(pa.binary()))
    joined = pc.binary_join_element_wise(
        *columns, pa.scalar(_SEPARATOR, pa.binary()), null_handling="replace", null_replacement=_NULL
    )
    rows: list[bytes] = joined.to_pylist()
    return rows
