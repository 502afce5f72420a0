"""Read models in PostgreSQL: rows and position of a batch in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg

from adapters import postgres, postgres_migrations, postgres_parking, postgres_rows
from adapters.postgres_roles import OWNER, WRITER, become, unguarded
from adapters.postgres_schema import READ_MODELS, schema_of
from bus.envelope import Recorded
from bus.follower import Position, StreamIdentity
from bus.gist import gist_of
from projections import read_models
from projections.errors import Fenced, Inconsistent, ProjectionError
from projections.generations import LIVE
from projections.parking import Parked, project_or_park, ready
from projections.positions import advance

LOOK_EVERY_S: Final = 1.0

log = logging.getLogger(__name__)


class ReadModelFollower:
    """Feeds the read models of one tenant.

    In a generation that is not live a batch commits while the next one is projected and written out; `idle` waits.
    """

    name = read_models.NAME
    apply_every_s = 0.05
    tables = READ_MODELS
    #: What a rebuild has decoded while the store works.
    look_at: Callable[[Recorded], object] = staticmethod(gist_of)

    def __init__(self, settings: postgres.PostgresSettings, generation: str = LIVE) -> None:
        self._settings = settings
        self._generation = generation
        self._connection: postgres.Connection | None = None
        self._committing: asyncio.Task[None] | None = None
        self._held: list[Recorded] = []
        self._parked: dict[str, int] = {}
        self._is_guarded = True
        self._looked_at = 0.0

    async def open(self, tenant: str, stream: StreamIdentity) -> Position:
        """Bring the schema forward; returns the stored position. Raises `ForeignPosition`, `SinkUnavailable`."""
        await self.close()
        self._connection = connection = await postgres.connect(
            self._settings, tenant, self._generation, self.tables, role=OWNER
        )
        try:
            await postgres_migrations.migrate(connection, tenant, self._generation, self.tables)
            schema = schema_of(tenant, self._generation, self.tables.name)
            self._is_guarded = not await unguarded(connection, schema)
            await become(connection, tenant, WRITER)
            self._position, self._opened = await postgres.open_position(connection, stream, self.tables)
            await self._retry_parked(connection)
        except psycopg.Error as err:
            await self.close()
            raise postgres.unavailable(err) from err
        except ProjectionError:
            await self.close()
            raise
        return self._position

    async def apply(self, records: Sequence[Recorded]) -> None:
        """Commit rows and position together, but never between the two halves of a transfer.

        Raises `OutOfOrder`, `Fenced`, `Switched`, `Inconsistent`, `SinkUnavailable`; then nothing of it is there. For a
        generation that is not live, what became of the last batch is told by the next call, or by `idle`.
        """
        waiting = [*self._held, *records] if self._held else records
        whole = self._whole(waiting)
        after = advance(self.name, self._position, waiting[:whole])
        advance(self.name, after, waiting[whole:])
        if after is not self._position:
            is_live = self._generation == LIVE
            writes, parked = project_or_park(self.name, self._project, waiting[:whole], self._parked, is_live=is_live)
            batch, before = self._prepared(writes), self._position
            await self._settled()
            if is_live:
                await self._commit(batch, parked, before, after)
            else:
                self._committing = asyncio.create_task(self._commit(batch, parked, before, after))
            for one in parked:
                self._parked.setdefault(one.subject, one.stream_seq)
        self._held = list(waiting[whole:])
        self._position = after

    async def idle(self) -> None:
        """Wait for what commits; look now and then whether PostgreSQL still has what it was given.

        Then only the first half of a transfer waits, whose second half is in the stream. Raises `ProjectionError`.
        """
        await self._settled()
        now = asyncio.get_running_loop().time()
        if self._connection is None or self._generation != LIVE or now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        try:
            stored = await postgres.stored_position(self._connection, self.tables)
        except postgres.NOT_THERE:
            stored = None
        except psycopg.Error as err:
            raise postgres.unavailable(err) from err
        found, wanted = stored.stream_seq if stored else 0, self._position.stream_seq
        if found < wanted:
            raise ProjectionError(
                f"{self.name}: PostgreSQL lost its data, was restored, or another one answers: it is at {found}, "
                f"wanted {wanted}; nothing to do, it goes on from event {found + 1}"
            )

    async def close(self) -> None:
        """Let go of the connection when what commits is there; raises what that failed with."""
        self._held = []
        try:
            await self._settled()
        finally:
            connection, self._connection = self._connection, None
            if connection is not None:
                await connection.close()

    def _whole(self, records: Sequence[Recorded]) -> int:
        return read_models.whole_movements(records)

    def _project(self, records: Sequence[Recorded]) -> Any:
        return read_models.project(records)

    def _prepared(self, writes: Any) -> Any:
        return postgres_rows.prepared(writes, is_guarded=self._is_guarded)

    async def _write(self, connection: postgres.Connection, batch: Any) -> None:
        await postgres_rows.write(connection, batch)

    async def _settled(self) -> None:
        """Wait for the batch that commits; raises what it failed with."""
        committing, self._committing = self._committing, None
        if committing is not None:
            await committing

    async def _retry_parked(self, connection: postgres.Connection) -> None:
        """Apply what can be projected now, each aggregate in order and in one transaction."""
        parked = await postgres_parking.stored(connection)
        self._parked = {}
        for one in parked:
            self._parked.setdefault(one.subject, one.stream_seq)
        for subject, writes in ready(self._project, parked):
            try:
                await self._commit(self._prepared(writes), (), self._position, self._position, released=subject)
            except Inconsistent as err:
                log.warning("%s stays parked: %s", subject, err)
                continue
            log.info("%s: the parked events of %s are applied", self.name, subject)
            del self._parked[subject]

    async def _commit(
        self, batch: Any, parked: Sequence[Parked], before: Position, after: Position, *, released: str | None = None
    ) -> None:
        if self._connection is None:
            message = f"{self.name}: not open; open it first"
            raise Inconsistent(message)
        try:
            async with self._connection.transaction():
                found = await postgres.move_position(self._connection, before, after, self._opened, self.tables)
                if found is not None:
                    raise Fenced(self.name, before.stream_seq, found)
                await self._write(self._connection, batch)
                if parked:
                    await postgres_parking.keep(self._connection, parked)
                if released is not None:
                    await postgres_parking.release(self._connection, released)
        except psycopg.errors.UniqueViolation as err:
            message = (
                f"{self.name}: a row of the events after {before.stream_seq} is already there ({_key(err)}); "
                f"something else changed the rows: replace them (tally rebuild {self.name} --accept)"
            )
            raise Inconsistent(message) from err
        except psycopg.Error as err:
            raise postgres.unavailable(err) from err


def _key(err: psycopg.Error) -> str:
    return err.diag.message_detail or err.diag.message_primary or "unnamed"
