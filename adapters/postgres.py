"""PostgreSQL for the read models: connections, migrations, positions, and its failures as one line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow, dict_row

from adapters.postgres_roles import OWNER, READER, RoleSettings, become, reader_dsn, refuses_reader
from adapters.postgres_schema import READ_MODELS, Tables, schema_of
from bus.follower import Position, StreamIdentity
from projections.errors import NewerSchema, ProjectionError, SinkUnavailable, Switched
from projections.generations import LIVE, no_past_state
from projections.positions import require_same_stream

CONNECT_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_MS: Final = 60_000
LOCK_TIMEOUT_MS: Final = 10_000
READERS_AT_ONCE: Final = 8
# The position commits with the effect: what a crash of the server takes back, it takes back together, and the stream
# brings it again. So nobody has to wait for the disk here (docs/adr/0006-read-models-without-fsync.md).
_OPTIONS: Final = (
    f"-c synchronous_commit=off -c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS}"
)

#: A tenant, or a generation, that no projector has seen: no role of that name, no schema, no tables.
NOT_THERE: Final = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InvalidParameterValue,
)

Connection = AsyncConnection[TupleRow]
PostgresSettings = RoleSettings


def unavailable(err: psycopg.Error) -> ProjectionError:
    """A failure of the server as one line."""
    said = " ".join(str(err).split())[:200]
    if isinstance(err, NOT_THERE):
        return SinkUnavailable("PostgreSQL holds no read models of this tenant yet; start `tally up`, which makes them")
    if isinstance(err, (psycopg.OperationalError, psycopg.InterfaceError)):
        return SinkUnavailable(f"PostgreSQL does not answer ({said}); start it, or correct TALLY_POSTGRES_DSN")
    return SinkUnavailable(f"PostgreSQL refuses: {said}; the read models stay where they were")


async def connect(
    settings: PostgresSettings,
    tenant: str,
    generation: str = LIVE,
    tables: Tables = READ_MODELS,
    *,
    role: str = READER,
) -> Connection:
    """A connection that sees one schema of one tenant as one of its roles; raises `SinkUnavailable`."""
    login = reader_dsn(settings, tenant) if role == READER else None
    try:
        connection = await AsyncConnection.connect(
            login or settings.postgres_dsn,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            options=_OPTIONS,
            application_name="tallyroot",
        )
    except psycopg.Error as err:
        if login is not None:
            raise refuses_reader(settings, tenant, err) from err
        raise unavailable(err) from err
    schema = sql.Identifier(schema_of(tenant, generation, tables.name))
    try:
        await connection.execute(sql.SQL("SET search_path TO {}").format(schema))
        if role != OWNER:
            await become(connection, tenant, role)
    except psycopg.Error as err:
        await connection.close()
        raise unavailable(err) from err
    return connection


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
    source: PostgresSettings | Readers,
    tenant: str,
    generation: str = LIVE,
    tables: Tables = READ_MODELS,
    *,
    role: str = READER,
) -> AsyncIterator[Connection]:
    """A connection for queries that see one moment of one generation; its failures come as `SinkUnavailable`.

    The lock comes before the snapshot: a generation that goes live waits for who reads, and who comes later sees it
    as it is then. (A snapshot from before would show the new tables half filled.)
    """
    try:
        if isinstance(source, Readers):
            async with source.lent(tenant) as connection:
                await _require_version(connection, tenant, tables)
                yield connection
            return
        connection = await connect(source, tenant, generation, tables, role=role)
        async with connection:
            await begin_reading(connection)
            await _require_version(connection, tenant, tables)
            yield connection
            await connection.execute("ROLLBACK")
    except NOT_THERE as err:
        if generation != LIVE:
            raise no_past_state(tables.name, tenant, generation) from err
        raise unavailable(err) from err
    except psycopg.Error as err:
        raise unavailable(err) from err


async def begin_reading(connection: Connection) -> None:
    """Begin a transaction that sees one moment."""
    await connection.execute(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE position IN ACCESS SHARE MODE"
    )


class Readers:
    """Connections of tenants' readers that stay open, for who answers many queries; so many in all."""

    def __init__(self, settings: PostgresSettings, connections_max: int = READERS_AT_ONCE) -> None:
        self._settings = settings
        self._max = connections_max
        self._slots = asyncio.Semaphore(connections_max)
        self._idle: dict[str, list[Connection]] = {}

    @asynccontextmanager
    async def lent(self, tenant: str) -> AsyncIterator[Connection]:
        """A connection in a transaction that sees one moment of the live read models."""
        async with self._slots:
            connection = await self._begun(tenant)
            try:
                yield connection
                await connection.execute("ROLLBACK")
            except BaseException:
                await connection.close()
                raise
            self._idle.setdefault(tenant, []).append(connection)
            await self._make_room()

    async def close(self) -> None:
        """Close what is idle."""
        for connections in self._idle.values():
            for connection in connections:
                await connection.close()
        self._idle.clear()

    async def _begun(self, tenant: str) -> Connection:
        while waiting := self._idle.get(tenant):
            connection = waiting.pop()
            try:
                await begin_reading(connection)
            except psycopg.OperationalError:  # the server was away since
                await connection.close()
            else:
                return connection
        connection = await connect(self._settings, tenant)
        try:
            await begin_reading(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _make_room(self) -> None:
        """Of many tenants, the one that was idle first lets go."""
        while sum(map(len, self._idle.values())) > self._max:
            tenant = next(name for name, waiting in self._idle.items() if waiting)
            await self._idle[tenant].pop(0).close()


@asynccontextmanager
async def shared_readers(settings: PostgresSettings) -> AsyncIterator[Readers]:
    """The connections for the queries of a process."""
    readers = Readers(settings)
    try:
        yield readers
    finally:
        await readers.close()


async def _require_version(connection: Connection, tenant: str, tables: Tables) -> None:
    found = await (await connection.execute("SELECT max(version) FROM migrations")).fetchone() or (0,)
    known = len(tables.migrations)
    if found[0] > known:
        raise NewerSchema(tables.name, tenant, found[0], known)
    if found[0] < known:
        raise SinkUnavailable(
            f"{tables.name} of {tenant} have schema version {found[0]}, this program wants {known}: start its "
            "projector (tally up, or tally run readmodels), which brings it forward"
        )


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
        if isinstance(err.__cause__, NOT_THERE):
            return None
        raise
    return stored if stored is not None and stored.stream_seq else None
