"""Generations of the read models: one schema each; the switch renames two of them in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import sql

from adapters import postgres, postgres_migrations, postgres_parking
from adapters.postgres_readmodels import ReadModelFollower
from adapters.postgres_roles import OWNER, WRITER, become, guard
from adapters.postgres_schema import READ_MODELS, Tables, schema_of
from bus.follower import Position
from projections.errors import RebuildRefused, SinkUnavailable
from projections.generations import LIVE, PREVIOUS, Standing, State

#: Tables that say how far and how, not what.
_BESIDES: Final = ("position", "migrations", "parked")
SWITCH_TRIES: Final = 5
SWITCH_LOCK_MS: Final = 2_000
_SWAP: Final = "swap"

# The largest first: they are shared out among two connections, as the follower stands still meanwhile.
_TABLES: Final = """
SELECT relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE nspname = %s AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> ALL (%s)
ORDER BY pg_relation_size(c.oid) DESC, relname
"""
_EXISTS: Final = """
SELECT FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace WHERE nspname = %s AND relname = 'position'
"""
# A row is hashed in PostgreSQL's own text form, in UTC; four 64-bit words of SHA-256 are summed, each modulo 2^64.
# OFFSET 0 keeps the planner from hashing a row once for each word.
_HASH: Final = """
SELECT count(*), {sums} FROM (
    SELECT ('x' || encode(sha256(convert_to(t::text, 'UTF8')), 'hex'))::bit(256) AS h FROM {table} AS t OFFSET 0
) AS hashed
"""
_WORD: Final = "mod(coalesce(sum(substring(h FROM {first} FOR 64)::bigint), 0), {modulus})"
_MODULUS: Final = 1 << 64


class ReadModelGenerations:
    """The generations of one tenant's read models."""

    def __init__(self, settings: postgres.PostgresSettings, tenant: str, tables: Tables = READ_MODELS) -> None:
        self.name = tables.name
        self.version = tables.version
        self._own = tables
        self._settings = settings
        self._tenant = tenant

    async def prepare(self) -> None:
        """Bring the live schema forward: what is compared and switched must have the same tables."""
        async with self._connected(LIVE) as connection:
            await postgres_migrations.migrate(connection, self._tenant, LIVE, self._own)

    async def follower(self, generation: str) -> ReadModelFollower:
        """What feeds a generation that is not live; the previous one is retired, until it is wanted again."""
        if generation == PREVIOUS:
            async with self._connected(PREVIOUS) as connection:
                if not await self._exists(connection, PREVIOUS):
                    raise RebuildRefused(f"{self.name} of {self._tenant} has no previous generation to go back to")
                await postgres_migrations.migrate(connection, self._tenant, PREVIOUS, self._own)
                await become(connection, self._tenant, WRITER)
                await connection.execute("UPDATE position SET retired_at = NULL")
        return self._feeder(generation)

    async def standing(self, generation: str) -> Standing | None:
        """Where a generation stands; None when there is none."""
        async with self._connected(generation) as connection:
            if not await self._exists(connection, generation):
                return None
            await become(connection, self._tenant, WRITER)
            return await self._standing(connection)

    async def state(self, generation: str) -> State:
        """What a generation holds, at one moment."""
        async with self.at_rest(generation) as state:
            return state

    def live_at_rest(self) -> Any:
        """What the live generation holds at one moment; it goes on meanwhile, the snapshot does not."""
        return self.at_rest(LIVE)

    @asynccontextmanager
    async def at_rest(self, generation: str) -> AsyncIterator[State]:
        """What a generation holds at one moment."""
        try:
            reading = postgres.reading(self._settings, self._tenant, generation, self._own, role=WRITER)
            async with reading as connection:
                await connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL timezone = 'UTC'")
                state = await self._state(connection, generation)
        except psycopg.Error as err:
            raise postgres.unavailable(err) from err
        yield state

    async def switch(self, generation: str, feed: Callable[[int], Awaitable[None]]) -> None:
        """Let a generation go live; `feed` is told how far it must come, and returns when that is committed.

        Raises `RebuildRefused`.
        """
        await self._finish(generation)
        for _ in range(SWITCH_TRIES):
            try:
                async with self._connected(LIVE) as connection, connection.transaction():
                    await self._switch(connection, generation, feed)
            except SinkUnavailable as err:
                if not isinstance(err.__cause__, (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)):
                    raise
                await asyncio.sleep(0.2)
                continue
            return
        raise RebuildRefused(
            f"{self.name} of {self._tenant} is read without a pause of {SWITCH_LOCK_MS / 1000:g} s; the live one goes "
            "on, end long queries and try again"
        )

    async def drop(self, generation: str) -> None:
        """Remove a generation that is not live."""
        async with self._connected(LIVE) as connection:
            await connection.execute(_sql("DROP SCHEMA IF EXISTS {} CASCADE", self._schema(generation)))

    async def _switch(
        self, connection: postgres.Connection, generation: str, feed: Callable[[int], Awaitable[None]]
    ) -> None:
        """In one transaction: the follower waits while the other comes as far, readers wait for the renaming only."""
        if not await self._exists(connection, generation):
            raise RebuildRefused(f"{self.name} of {self._tenant} has no {generation} generation to go to")
        await connection.execute(f"SET LOCAL lock_timeout = {SWITCH_LOCK_MS}")
        await connection.execute(_sql("LOCK TABLE {}.position IN EXCLUSIVE MODE", self._schema(LIVE)))
        await become(connection, self._tenant, WRITER)
        standing = await self._standing(connection)
        await become(connection, self._tenant, OWNER)
        await feed(standing.position.stream_seq if standing else 0)
        await connection.execute(_sql("LOCK TABLE {}.position IN ACCESS EXCLUSIVE MODE", self._schema(LIVE)))
        await become(connection, self._tenant, WRITER)
        await connection.execute("UPDATE position SET retired_at = now()")
        await connection.execute(_sql("UPDATE {}.position SET retired_at = NULL", self._schema(generation)))
        await become(connection, self._tenant, OWNER)
        await guard(connection, self._tenant, self._schema(generation))
        if generation == PREVIOUS:
            await self._rename(connection, PREVIOUS, _SWAP)
            generation = _SWAP
        await connection.execute(_sql("DROP SCHEMA IF EXISTS {} CASCADE", self._schema(PREVIOUS)))
        await self._rename(connection, LIVE, PREVIOUS)
        await self._rename(connection, generation, LIVE)

    async def _rename(self, connection: postgres.Connection, old: str, new: str) -> None:
        await connection.execute(_sql("ALTER SCHEMA {} RENAME TO {}", self._schema(old), self._schema(new)))

    async def _finish(self, generation: str) -> None:
        """Keys, and statistics for the planner, before somebody asks."""

        async def finish(connection: postgres.Connection, table: str) -> None:
            if table in self._own.appended:
                await postgres_migrations.add_key(
                    connection, self._schema(generation), table, self._own.appended[table]
                )
            await connection.execute(_sql("ANALYZE {}", table))

        async with self._connected(generation) as connection, self._connected(generation) as other:
            await _share_out(await self._tables(connection, generation), (connection, other), finish)

    async def _state(self, connection: postgres.Connection, generation: str) -> State:
        standing = await self._standing(connection)
        rows: dict[str, int] = {}
        hashes: dict[str, str] = {}
        sums = ", ".join(_WORD.format(first=first, modulus=_MODULUS) for first in (1, 65, 129, 193))

        async def look(connection: postgres.Connection, table: str) -> None:
            statement = sql.SQL(_HASH).format(sums=sql.SQL(sums), table=sql.Identifier(table))
            found = await (await connection.execute(statement)).fetchone()
            count, *words = found or (0,)
            rows[table], hashes[table] = count, "".join(f"{int(word) % _MODULUS:016x}" for word in words)

        async with self._beside(connection, generation) as other:
            await _share_out(await self._tables(connection, generation), (connection, other), look)
        seq = standing.position.stream_seq if standing else 0
        version = standing.version if standing else self.version
        return State(stream_seq=seq, version=version, rows=rows, hashes=hashes)

    async def _tables(self, connection: postgres.Connection, generation: str) -> list[str]:
        cursor = await connection.execute(_TABLES, [self._schema(generation), list(_BESIDES)])
        return [name for (name,) in await cursor.fetchall()]

    @asynccontextmanager
    async def _beside(self, first: postgres.Connection, generation: str) -> AsyncIterator[postgres.Connection]:
        """One more connection that sees the same moment as the first, which keeps the generation in its place."""
        found = await (await first.execute("SELECT pg_export_snapshot()")).fetchone() or ("",)
        connection = await postgres.connect(self._settings, self._tenant, generation, self._own, role=WRITER)
        async with connection:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(found[0])))
            await connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL timezone = 'UTC'")
            yield connection
            await connection.execute("ROLLBACK")

    async def _exists(self, connection: postgres.Connection, generation: str) -> bool:
        cursor = await connection.execute(_EXISTS, [self._schema(generation)])
        return await cursor.fetchone() is not None

    async def _standing(self, connection: postgres.Connection) -> Standing | None:
        cursor = await connection.execute(
            "SELECT stream_created, stream_seq, leaf_hash, version FROM position WHERE projection = %s", [self.name]
        )
        found = await cursor.fetchone()
        if found is None:
            return None
        parked = await postgres_parking.summary(connection)
        return Standing(position=Position(*found[:3]), version=found[3], parked=parked)

    def _feeder(self, generation: str) -> ReadModelFollower:
        return ReadModelFollower(self._settings, generation)

    def _schema(self, generation: str) -> str:
        return schema_of(self._tenant, generation, self.name)

    @asynccontextmanager
    async def _connected(self, generation: str) -> AsyncIterator[postgres.Connection]:
        connection = await postgres.connect(self._settings, self._tenant, generation, self._own, role=OWNER)
        try:
            async with connection:
                yield connection
        except psycopg.Error as err:
            raise postgres.unavailable(err) from err


async def _share_out(
    tables: Sequence[str],
    connections: Sequence[postgres.Connection],
    work: Callable[[postgres.Connection, str], Awaitable[None]],
) -> None:
    """Do something with each table; each connection takes the next one when it is done with one."""
    waiting = iter(tables)

    async def take(connection: postgres.Connection) -> None:
        for table in waiting:
            await work(connection, table)

    for failure in await asyncio.gather(*map(take, connections), return_exceptions=True):
        if failure is not None:
            raise failure


def _sql(text: str, *names: str) -> sql.Composed:
    return sql.SQL(text).format(*(sql.Identifier(name) for name in names))
