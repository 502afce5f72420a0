"""PostgreSQL for the read models: connections, migrations, positions, and its failures as one line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow, dict_row

from adapters.postgres_schema import READ_MODELS, Tables, schema_of
from bus.follower import Position, StreamIdentity
from projections.errors import ProjectionError, SinkUnavailable, Switched
from projections.generations import LIVE, no_past_state
from projections.positions import require_same_stream

CONNECT_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_MS: Final = 60_000
LOCK_TIMEOUT_MS: Final = 10_000
# The position commits with the effect: what a crash of the server takes back, it takes back together, and the stream
# brings it again. So nobody has to wait for the disk here (docs/adr/0006-read-models-without-fsync.md).
_OPTIONS: Final = (
    f"-c synchronous_commit=off -c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS}"
)

Connection = AsyncConnection[TupleRow]


class PostgresSettings(Protocol):
    """What the read models need to know of an installation."""

    @property
    def postgres_dsn(self) -> str: ...


def unavailable(err: psycopg.Error) -> ProjectionError:
    """A failure of the server as one line."""
    said = " ".join(str(err).split())[:200]
    if isinstance(err, (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)):
        return SinkUnavailable("PostgreSQL holds no read models of this tenant yet; start `tally up`, which makes them")
    if isinstance(err, (psycopg.OperationalError, psycopg.InterfaceError)):
        return SinkUnavailable(f"PostgreSQL does not answer ({said}); start it, or correct TALLY_POSTGRES_DSN")
    return SinkUnavailable(f"PostgreSQL refuses: {said}; the read models stay where they were")


async def connect(
    settings: PostgresSettings, tenant: str, generation: str = LIVE, tables: Tables = READ_MODELS
) -> Connection:
    """A connection that sees one schema of one tenant; raises `SinkUnavailable`."""
    schema = schema_of(tenant, generation, tables.name)
    try:
        connection = await AsyncConnection.connect(
            settings.postgres_dsn,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            options=_OPTIONS,
            application_name="tallyroot",
        )
        await connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
    except psycopg.Error as err:
        raise unavailable(err) from err
    return connection


async def migrate(connection: Connection, tenant: str, generation: str = LIVE, tables: Tables = READ_MODELS) -> None:
    """Bring a tenant's schema forward to this version; safe to repeat and to run twice at once.

    Raises `ProjectionError` when a newer version of the program was here before.
    """
    name = schema_of(tenant, generation, tables.name)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])
        await connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations "
            "(version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        found = await (await connection.execute("SELECT coalesce(max(version), 0) FROM migrations")).fetchone()
        done: int = found[0] if found else 0
        if done > len(tables.migrations):
            message = (
                f"{tables.name} of {tenant} have schema version {done}, this program knows {len(tables.migrations)}; "
                "upgrade tallyroot, nothing was changed"
            )
            raise ProjectionError(message)
        for version, statements in enumerate(tables.migrations[done:], done + 1):
            await connection.execute(statements)
            await connection.execute("INSERT INTO migrations (version) VALUES (%s)", [version])


async def open_position(
    connection: Connection, stream: StreamIdentity, tables: Tables = READ_MODELS
) -> tuple[Position, str]:
    """The position of a projection, made at 0 when there is none, and the id of their generation.

    Raises `ForeignPosition`.
    """
    await connection.execute(
        "INSERT INTO position (projection, stream_created, stream_seq, leaf_hash, version) VALUES (%s, %s, 0, '', %s) "
        "ON CONFLICT DO NOTHING",
        [tables.name, stream.created, tables.version],
    )
    stored = await stored_position(connection, tables)
    cursor = await connection.execute("SELECT generation FROM position WHERE projection = %s", [tables.name])
    found = await cursor.fetchone()
    return require_same_stream(tables.name, stored, stream), found[0] if found else ""


async def stored_position(connection: Connection, tables: Tables = READ_MODELS) -> Position | None:
    """The position as it is stored."""
    cursor = await connection.execute(
        "SELECT stream_created, stream_seq, leaf_hash FROM position WHERE projection = %s", [tables.name]
    )
    found = await cursor.fetchone()
    return Position(*found) if found else None


async def move_position(
    connection: Connection, before: Position, after: Position, generation: str, tables: Tables = READ_MODELS
) -> int | None:
    """Move the position inside of a transaction; returns None, or where it stands when it is not at `before`.

    The row stays locked until the transaction ends: a second copy waits here and then finds it moved. Raises
    `Switched` when another generation is there now.
    """
    cursor = await connection.execute(
        "UPDATE position SET stream_seq = %s, leaf_hash = %s, applied_at = now() WHERE projection = %s "
        "AND stream_created = %s AND stream_seq = %s AND leaf_hash = %s AND generation = %s AND retired_at IS NULL",
        [
            after.stream_seq,
            after.leaf_hash,
            tables.name,
            before.stream_created,
            before.stream_seq,
            before.leaf_hash,
            generation,
        ],
    )
    if cursor.rowcount == 1:
        return None
    cursor = await connection.execute(
        "SELECT stream_seq, generation FROM position WHERE projection = %s", [tables.name]
    )
    found = await cursor.fetchone()
    if found is not None and found[1] != generation:
        raise Switched(tables.name)
    return found[0] if found else 0


@asynccontextmanager
async def reading(
    settings: PostgresSettings, tenant: str, generation: str = LIVE, tables: Tables = READ_MODELS
) -> AsyncIterator[Connection]:
    """A connection for queries that see one moment of one generation; its failures come as `SinkUnavailable`.

    The lock comes before the snapshot: a generation that goes live waits for who reads, and who comes later sees it
    as it is then. (A snapshot from before would show the new tables half filled.)
    """
    connection = await connect(settings, tenant, generation, tables)
    try:
        async with connection:
            await connection.set_autocommit(False)
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await connection.execute("LOCK TABLE position IN ACCESS SHARE MODE")
            yield connection
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as err:
        if generation != LIVE:
            raise no_past_state(tables.name, tenant, generation) from err
        raise unavailable(err) from err
    except psycopg.Error as err:
        raise unavailable(err) from err


async def rows(connection: Connection, query: str, arguments: list[Any] | dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a query, by the names of its columns."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, arguments)
        return await cursor.fetchall()


async def read_position(settings: PostgresSettings, tenant: str) -> Position | None:
    """Where the read models stand, None before the first event; raises `SinkUnavailable`."""
    try:
        async with reading(settings, tenant) as connection:
            stored = await stored_position(connection)
    except SinkUnavailable as err:
        if isinstance(err.__cause__, (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)):
            return None
        raise
    return stored if stored is not None and stored.stream_seq else None
