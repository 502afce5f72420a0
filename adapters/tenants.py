"""Tenants: everything that one needs, provisioned in seconds."""

from __future__ import annotations

from typing import Any

from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.jetstream.messages import stream_info
from adapters.settings import Settings
from bus import subjects


async def create_tenant(
    settings: Settings,
    name: str,
    *,
    partitions: int = streams.PARTITIONS_DEFAULT,
    intake: streams.Intake = "fast",
    replicas: int = 1,
    boards: bytes | None = None,
) -> bool:
    """Create a tenant's streams where they are missing; returns whether the tenant is new.

    Its roles and tables in PostgreSQL are made here too, where that is known (else projectors do it). Everything
    else is made by those who write it, when they first see the tenant, within seconds: the signer makes the log and its
    keys, the projectors the namespace of the lake and the Redis keys.
    """
    client = await connect(settings.nats_url, "tally-tenant")
    try:
        is_new = await streams.create_tenant(
            client, name, partitions=partitions, intake=intake, replicas=replicas, boards=boards
        )
    finally:
        await client.close()
    if settings.postgres_dsn:
        from adapters.postgres_tenants import provision

        await provision(settings, name)
    return is_new


async def is_on_one_of_several(settings: Settings, name: str) -> bool:
    """Whether a tenant's events are kept by a single server though there is a cluster."""
    client = await connect(settings.nats_url, "tally-tenant")
    try:
        info = await stream_info(client, subjects.events_stream(name))
    finally:
        await client.close()
    return bool((info.get("cluster") or {}).get("name")) and int(info["config"].get("num_replicas", 1)) == 1


async def reader_of(settings: Settings, name: str, *, is_new_password: bool) -> str:
    """How a tenant's reader connects to PostgreSQL, with a password in a file; raises TallyError, `SinkUnavailable`."""
    from adapters.postgres_roles import reader_dsn
    from adapters.postgres_tenants import give_password

    found = None if is_new_password else reader_dsn(settings, name)
    return found or await give_password(settings, name)


async def list_tenants(settings: Settings) -> list[dict[str, Any]]:
    """Every tenant with its partitions, its intake and how many events it has."""
    client = await connect(settings.nats_url, "tally-tenant")
    try:
        return [await _summary(client, name) for name in await streams.tenants(client)]
    finally:
        await client.close()


async def _summary(client: Any, name: str) -> dict[str, Any]:
    tenant = await streams.describe(client, name)
    info = await stream_info(client, tenant.events.name)
    return {
        "tenant": name,
        "partitions": tenant.partitions,
        "intake": tenant.intake,
        "events": info["state"]["last_seq"],
        "created": tenant.events.created,
    }
