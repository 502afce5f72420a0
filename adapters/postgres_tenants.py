"""A tenant in PostgreSQL: its roles, the tables of every projection there, and how its reader connects."""

from __future__ import annotations

import psycopg

from adapters import postgres
from adapters.generations import PROJECTIONS, generations
from adapters.postgres_roles import OWNER, RoleSettings, new_password, passfile_of, reader_dsn
from projections.errors import SinkUnavailable


async def provision(settings: RoleSettings, tenant: str) -> None:
    """Make what is missing: roles, schemas, tables, a password for the reader; raises `ProjectionError`."""
    for name, entry in PROJECTIONS.items():
        if entry.need == ("postgres_dsn",):
            await generations(name, settings, tenant).prepare()
    if not passfile_of(settings, tenant).exists():
        await give_password(settings, tenant)


async def give_password(settings: RoleSettings, tenant: str) -> str:
    """Give the tenant's reader a new password; returns how it connects. Raises `SinkUnavailable`."""
    connection = await postgres.connect(settings, tenant, role=OWNER)
    try:
        async with connection:
            await new_password(connection, settings, tenant)
    except psycopg.errors.UndefinedObject as err:
        message = f"{tenant} has no reader in PostgreSQL yet: tally tenant create {tenant} makes it, or tally up"
        raise SinkUnavailable(message) from err
    except psycopg.Error as err:
        raise postgres.unavailable(err) from err
    dsn = reader_dsn(settings, tenant)
    if dsn is None:
        raise SinkUnavailable(f"{passfile_of(settings, tenant)} was there and is gone: what removed it? try again")
    return dsn
