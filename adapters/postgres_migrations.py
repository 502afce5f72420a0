"""Bringing a tenant's schema forward while readers and a projector use it.

One process at a time, by an advisory lock. Each migration is a transaction that waits for its locks only so long that
readers behind it hardly notice, and tries again; indexes are made without locks afterwards. The first one gives the
position a new generation: a projector of the former version, which would not fill what is new, is refused by its fence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from adapters.postgres_roles import (
    OWNER,
    WRITER,
    become,
    ensure_roles,
    guard,
    guard_table,
    lacks_rights,
    let_write,
    role_of,
    unguarded,
)
from adapters.postgres_schema import Tables, schema_of
from projections.errors import NewerSchema, SinkUnavailable
from projections.generations import NEXT

LOCK_WAIT_MS: Final = 200
LOCK_TRIES: Final = 20
LOCK_PAUSE_S: Final = 0.5
TURN_WAIT_S: Final = 600.0
TURN_PAUSE_S: Final = 0.1
INDEX_WAIT_MS: Final = 600_000
SORT_MEMORY: Final = "128MB"

_SEEN: Final = """
SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace JOIN pg_roles AS r ON r.rolname = %s
WHERE nspname = %s AND relname = 'migrations'
    AND has_schema_privilege(r.oid, n.oid, 'USAGE') AND has_table_privilege(r.oid, c.oid, 'SELECT')
"""
_VALID: Final = """
SELECT count(*) FROM pg_index JOIN pg_class AS c ON c.oid = indexrelid JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE nspname = %s AND relname = ANY (%s) AND indisvalid
"""
_HAS_GENERATION: Final = (
    "SELECT FROM pg_attribute WHERE attrelid = to_regclass('position') AND attname = 'generation' AND NOT attisdropped"
)

Connection = AsyncConnection[Any]


async def migrate(connection: Connection, tenant: str, generation: str, tables: Tables) -> None:
    """Bring a schema to this version, as its owner; safe to repeat and to run twice at once.

    Raises `NewerSchema` when a newer version of the program was here before, `SinkUnavailable`.
    """
    schema = schema_of(tenant, generation, tables.name)
    if await _is_done(connection, tenant, schema, generation, tables):
        return
    try:
        async with _turn(connection, tenant):
            await _patiently(connection, schema, partial(_prepare, connection, tenant, schema))
            if _is_read(generation):
                # One by one: two locks that readers wait for at once could meet them in the other order.
                for table in await unguarded(connection, schema):
                    await _patiently(connection, schema, partial(guard_table, connection, tenant, schema, table))
            await _patiently(connection, schema, partial(_open, connection, tenant, schema, generation))
            done = await _version(connection, tenant, schema, tables)
            missing = range(done + 1, len(tables.migrations) + 1)
            # What is new is there whole or not at all; what is in use gets its locks for one step at a time.
            for versions in [missing] if done == 0 else [[version] for version in missing]:
                await _patiently(connection, schema, partial(_apply, connection, tenant, generation, tables, versions))
            if done == 0 and not _is_read(generation):
                await _drop_keys(connection, tables)
            for name, statement in _indexes(tables):
                await _index(connection, schema, name, statement, is_new=done == 0)
    except psycopg.errors.InsufficientPrivilege as err:
        raise lacks_rights(tenant, connection.info.user) from err


def _is_read(generation: str) -> bool:
    """A generation in the making is read by nobody, and filled faster without row-level security."""
    return generation != NEXT


def _indexes(tables: Tables) -> list[tuple[str, str]]:
    return [index for migration in tables.migrations for index in migration.indexes.items()]


async def _is_done(connection: Connection, tenant: str, schema: str, generation: str, tables: Tables) -> bool:
    """Whether nothing is left to do; raises `NewerSchema`."""
    if await _version(connection, tenant, schema, tables) < len(tables.migrations):
        return False
    names = [name for name, _ in _indexes(tables)]
    cursor = await connection.execute(_VALID, [schema, names])
    if await cursor.fetchone() != (len(names),):
        return False
    return not _is_read(generation) or not await unguarded(connection, schema)


async def _version(connection: Connection, tenant: str, schema: str, tables: Tables) -> int:
    """The version of a schema as the writer sees it, 0 for one that the writer may not see; raises `NewerSchema`."""
    writer = role_of(connection.info.dbname, tenant, WRITER)
    seen = await connection.execute(_SEEN, [writer, schema])
    if await seen.fetchone() is None:
        return 0
    await become(connection, tenant, WRITER)
    cursor = await connection.execute("SELECT coalesce(max(version), 0) FROM migrations")
    found = await cursor.fetchone() or (0,)
    await become(connection, tenant, OWNER)
    if found[0] > len(tables.migrations):
        raise NewerSchema(tables.name, tenant, found[0], len(tables.migrations))
    return int(found[0])


async def _prepare(connection: Connection, tenant: str, schema: str) -> None:
    await ensure_roles(connection, tenant)
    await connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations "
        "(version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )


async def _open(connection: Connection, tenant: str, schema: str, generation: str) -> None:
    await (guard if _is_read(generation) else let_write)(connection, tenant, schema)


async def _apply(connection: Connection, tenant: str, generation: str, tables: Tables, versions: Iterable[int]) -> None:
    schema = schema_of(tenant, generation, tables.name)
    cursor = await connection.execute(_HAS_GENERATION)
    if await cursor.fetchone() is not None:
        # A projector of the former version waits here, and is then told that it was overtaken.
        await become(connection, tenant, WRITER)
        await connection.execute("UPDATE position SET generation = gen_random_uuid()::text")
        await become(connection, tenant, OWNER)
    for version in versions:
        migration = tables.migrations[version - 1]
        await connection.execute(migration.statements)
        await _open(connection, tenant, schema, generation)
        await become(connection, tenant, WRITER)
        if migration.backfill:
            await connection.execute("SET LOCAL statement_timeout = 0")
            await connection.execute(migration.backfill)
        await connection.execute("INSERT INTO migrations (version) VALUES (%s)", [version])
        await become(connection, tenant, OWNER)


async def _drop_keys(connection: Connection, tables: Tables) -> None:
    """Sorting all rows once at the end costs less than finding each one's place."""
    for table in tables.appended:
        await connection.execute(_sql("ALTER TABLE {} DROP CONSTRAINT {}", table, f"{table}_pkey"))


async def add_key(connection: Connection, schema: str, table: str, columns: str) -> None:
    """Give a table of a generation that is about to go live the key that it was filled without."""
    cursor = await connection.execute(_VALID, [schema, [f"{table}_pkey"]])
    if await cursor.fetchone() != (0,):
        return
    await connection.execute("SET statement_timeout = 0")
    await connection.execute(f"SET maintenance_work_mem = '{SORT_MEMORY}'")
    try:
        statement = _sql("ALTER TABLE {}.{} ADD CONSTRAINT {} PRIMARY KEY ", schema, table, f"{table}_pkey")
        await connection.execute(
            statement + sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Identifier, columns.split(", "))))
        )
    finally:
        await connection.execute("RESET maintenance_work_mem; RESET statement_timeout")


def _sql(text: LiteralString, *names: str) -> sql.Composed:
    return sql.SQL(text).format(*(sql.Identifier(name) for name in names))


async def _index(connection: Connection, schema: str, name: str, statement: str, *, is_new: bool) -> None:
    """Make an index beside whoever reads and writes; one that was interrupted is made again."""
    cursor = await connection.execute(_VALID, [schema, [name]])
    if await cursor.fetchone() == (1,):
        return
    await connection.execute(f"SET statement_timeout = {INDEX_WAIT_MS}")
    await connection.execute("SET lock_timeout = 0")
    try:
        await connection.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(schema, name)))
        await connection.execute(statement.format(concurrently="" if is_new else "CONCURRENTLY"))
    finally:
        await connection.execute("RESET lock_timeout; RESET statement_timeout")


async def _patiently(connection: Connection, schema: str, step: Callable[[], Awaitable[None]]) -> None:
    """A step in a transaction that gives up its place in the queue for a lock, and tries again."""
    for _ in range(LOCK_TRIES):
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
                await step()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            await asyncio.sleep(LOCK_PAUSE_S)
        else:
            return
    message = (
        f"PostgreSQL: {schema} is in use without a pause of {LOCK_WAIT_MS} ms, {LOCK_TRIES} times; it stays at its "
        "former version, end long transactions (pg_stat_activity shows since when they run) and try again"
    )
    raise SinkUnavailable(message)


@asynccontextmanager
async def _turn(connection: Connection, tenant: str) -> AsyncIterator[None]:
    """One process at a time. Who waits asks again: a statement that waits would hold up indexes in the making."""
    key = [schema_of(tenant)]
    deadline = time.monotonic() + TURN_WAIT_S
    while True:
        cursor = await connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", key)
        if await cursor.fetchone() == (True,):
            break
        if time.monotonic() > deadline:
            raise SinkUnavailable(
                f"PostgreSQL: another process has been bringing {tenant} forward for {TURN_WAIT_S:g} s; wait, or end it"
            )
        await asyncio.sleep(TURN_PAUSE_S)
    try:
        yield
    finally:
        if not connection.closed:
            await connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", key)
