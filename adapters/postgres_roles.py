"""Who may do what in PostgreSQL: per tenant a reader, who logs in, and a writer, which only the projector can become.

What a session sees is bound to the role that it is, never to a setting that it could change: every table has row-level
security, forced on its owner too, and two policies, for the tenant's reader and the tenant's writer. Roles belong to
a whole server, so their names hold the database (docs/projections.md, ADR 0030).
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from adapters.files import make_directory, write_atomically
from adapters.postgres_schema import IDENTIFIER_BYTES_MAX, schema_of
from projections.errors import SinkUnavailable

READER: Final = "reader"
WRITER: Final = "writer"
#: The login of the settings, which owns the tables; it sees rows only as one of the other two.
OWNER: Final = "owner"
READERS_MAX: Final = 40

_UNGUARDED: Final = """
SELECT relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE nspname = %s AND relkind IN ('r', 'p') AND NOT (relrowsecurity AND relforcerowsecurity AND 2 =
    (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid AND polname IN ('tally_reader', 'tally_writer')))
ORDER BY relname
"""
_VIEWS: Final = """
SELECT relname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE nspname = %s AND relkind = 'v' AND NOT coalesce('security_invoker=true' = ANY (reloptions), false)
"""


class RoleSettings(Protocol):
    """Where PostgreSQL is, and where secrets are kept."""

    @property
    def postgres_dsn(self) -> str: ...
    @property
    def keys_dir(self) -> Path: ...


def role_of(database: str, tenant: str, kind: str) -> str:
    """The name of a tenant's role."""
    name = f"tally.{database}.{tenant}.{kind}"
    if len(name.encode()) <= IDENTIFIER_BYTES_MAX:
        return name
    # PostgreSQL would cut the name, and two roles might meet.
    return f"tally.{sha256(name.encode()).hexdigest()[:40]}.{kind}"


async def become(connection: AsyncConnection[Any], tenant: str, kind: str) -> None:
    """Go on as one of the tenant's roles, or as the login that owns the tables."""
    if kind == OWNER:
        await connection.execute("RESET ROLE")
    else:
        await connection.execute(sql.SQL("SET ROLE {}").format(_role(connection, tenant, kind)))


async def ensure_roles(connection: AsyncConnection[Any], tenant: str) -> None:
    """Make the tenant's roles where they are missing, and let the owner become them; in one transaction."""
    settings = sql.SQL(
        "ALTER ROLE {role} SET search_path TO {schema}; ALTER ROLE {role} SET default_transaction_read_only TO on"
    )
    for kind, can in ((READER, sql.SQL("LOGIN CONNECTION LIMIT {}").format(READERS_MAX)), (WRITER, sql.SQL("NOLOGIN"))):
        role = _role(connection, tenant, kind)
        name = [role_of(connection.info.dbname, tenant, kind)]
        found = await connection.execute("SELECT FROM pg_roles WHERE rolname = %s", name)
        if found.rowcount == 0:
            await connection.execute(sql.SQL("CREATE ROLE {} {}").format(role, can))
            if kind == READER:
                await connection.execute(settings.format(role=role, schema=sql.Identifier(schema_of(tenant))))
        found = await connection.execute("SELECT WHERE pg_has_role(current_user, %s, 'SET')", name)
        if found.rowcount == 0:
            await connection.execute(sql.SQL("GRANT {} TO CURRENT_USER WITH INHERIT FALSE, SET TRUE").format(role))


async def unguarded(connection: AsyncConnection[Any], schema: str) -> list[str]:
    """The tables of a schema on which row-level security is not forced."""
    cursor = await connection.execute(_UNGUARDED, [schema])
    return [name for (name,) in await cursor.fetchall()]


async def let_write(connection: AsyncConnection[Any], tenant: str, schema: str) -> None:
    """Let the writer fill a schema that nobody reads yet."""
    statement = sql.SQL(
        "GRANT USAGE ON SCHEMA {schema} TO {writer}; "
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {writer}; "
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {writer}"
    )
    writer = _role(connection, tenant, WRITER)
    await connection.execute(statement.format(schema=sql.Identifier(schema), writer=writer))


async def guard(connection: AsyncConnection[Any], tenant: str, schema: str) -> None:
    """Force row-level security on every table of a schema, and let the tenant's reader in; safe to repeat."""
    for table in await unguarded(connection, schema):
        await guard_table(connection, tenant, schema, table)
    await let_write(connection, tenant, schema)
    statement = sql.SQL(
        "GRANT USAGE ON SCHEMA {schema} TO {reader}; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader}"
    )
    reader = _role(connection, tenant, READER)
    await connection.execute(statement.format(schema=sql.Identifier(schema), reader=reader))
    cursor = await connection.execute(_VIEWS, [schema])
    for (view,) in await cursor.fetchall():
        statement = sql.SQL("ALTER VIEW {} SET (security_invoker = true)")
        await connection.execute(statement.format(sql.Identifier(schema, view)))


async def guard_table(connection: AsyncConnection[Any], tenant: str, schema: str, table: str) -> None:
    """Force row-level security on a table; nobody reads it for as long as the transaction takes."""
    statement = sql.SQL(
        "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; "
        "DROP POLICY IF EXISTS tally_writer ON {table}; DROP POLICY IF EXISTS tally_reader ON {table}; "
        "CREATE POLICY tally_writer ON {table} TO {writer} USING (true) WITH CHECK (true); "
        "CREATE POLICY tally_reader ON {table} FOR SELECT TO {reader} USING (true)"
    )
    reader, writer = _role(connection, tenant, READER), _role(connection, tenant, WRITER)
    name = sql.Identifier(schema, table)
    await connection.execute(statement.format(table=name, reader=reader, writer=writer))


def passfile_of(settings: RoleSettings, tenant: str) -> Path:
    """The reader's password, as libpq takes it; a tenant's name holds no dot."""
    return settings.keys_dir / f"{tenant}.reader.pgpass"


def reader_dsn(settings: RoleSettings, tenant: str) -> str | None:
    """How the tenant's reader connects, the password being in a file; None when there is no such file here."""
    passfile = passfile_of(settings, tenant)
    try:
        role = passfile.read_text(encoding="utf-8").removeprefix("*:*:*:").rpartition(":")[0]
    except OSError:
        return None
    login = {"user": role.replace("\\:", ":").replace("\\\\", "\\"), "passfile": str(passfile)}
    known = {name: value for name, value in conninfo_to_dict(settings.postgres_dsn).items() if name != "password"}
    return make_conninfo("", **(known | login))


async def new_password(connection: AsyncConnection[Any], settings: RoleSettings, tenant: str) -> None:
    """Give the reader a new password, into its file; the server gets a verifier of it and never the password."""
    name, password = role_of(connection.info.dbname, tenant, READER), secrets.token_urlsafe(24)
    verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    make_directory(settings.keys_dir, mode=0o700)
    escaped = name.replace("\\", "\\\\").replace(":", "\\:")
    await connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), sql.Literal(verifier)))
    write_atomically(passfile_of(settings, tenant), f"*:*:*:{escaped}:{password}\n")


def refuses_reader(settings: RoleSettings, tenant: str, err: Exception) -> SinkUnavailable:
    """The reader's own login did not work."""
    said = " ".join(str(err).split())[:200]
    return SinkUnavailable(
        f"PostgreSQL does not answer the reader of {tenant} ({said}); start it, correct TALLY_POSTGRES_DSN, or make a "
        f"new password in {passfile_of(settings, tenant)} (tally tenant reader {tenant} --new-password)"
    )


def lacks_rights(tenant: str, login: str) -> SinkUnavailable:
    """The login of the settings may not make what a tenant needs."""
    return SinkUnavailable(
        f"PostgreSQL does not let {login} make the roles or the schema of {tenant}: it needs CREATEROLE, and CREATE on "
        f"the database (as an administrator: ALTER ROLE {login} CREATEROLE; GRANT CREATE ON DATABASE ... TO {login})"
    )


def _role(connection: AsyncConnection[Any], tenant: str, kind: str) -> sql.Identifier:
    return sql.Identifier(role_of(connection.info.dbname, tenant, kind))
