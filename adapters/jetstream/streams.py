"""The streams of a tenant: what their configuration must be, creating them, refusing any other (DESIGN.md 3)."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from nats.aio.client import Client

from adapters.jetstream.connection import api
from adapters.jetstream.messages import stream_info, stream_names
from adapters.jetstream.settings import BOARDS, say_setting, settings_config
from bus import subjects
from bus.errors import WrongStream
from bus.follower import StreamIdentity

PARTITIONS_DEFAULT: Final = 8
#: Undecided commands that a tenant may have waiting; a limit in bytes would be reserved on the server's disk.
COMMANDS_WAITING_MAX: Final = 5_000_000
PERSIST_ASYNC_REFUSED: Final = 10052
#: What can take messages out of a stream, or keep them from coming in; only the timers are scheduled.
FORBIDDEN: Final = ("allow_msg_schedules", "allow_msg_ttl", "allow_rollup_hdrs", "sealed", "mirror", "sources")
Intake = Literal["fast", "durable"]
#: Metadata key of an event stream that is being restored: nothing may run on a part of the history.
RESTORING_KEY: Final = "tallyroot.restoring"
#: Metadata key under which the command stream remembers how many partitions the tenant has.
PARTITIONS_KEY: Final = "tallyroot.partitions"


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant as its streams describe it."""

    name: str
    partitions: int
    intake: Intake
    events: StreamIdentity


def commands_config(tenant: str, partitions: int, intake: Intake, replicas: int) -> dict[str, Any]:
    """The command stream: a queue that workers purge, never older than what is undecided."""
    source, destination = subjects.partitioned_commands(tenant, partitions)
    config: dict[str, Any] = {
        "name": subjects.commands_stream(tenant),
        "subjects": [source],
        "subject_transform": {"src": source, "dest": destination},
        "retention": "limits",
        "discard": "new",
        "max_age": 0,
        "max_msgs": COMMANDS_WAITING_MAX,
        "storage": "file",
        "num_replicas": replicas,
        "allow_direct": False,
        "metadata": {PARTITIONS_KEY: str(partitions)},
    }
    if intake == "fast" and replicas == 1:
        config["persist_mode"] = "async"
    return config


def events_config(tenant: str, replicas: int) -> dict[str, Any]:
    """The event stream: for ever, nothing can be deleted, purged or expire."""
    return {
        "name": subjects.events_stream(tenant),
        "subjects": [subjects.all_events(tenant)],
        "retention": "limits",
        "discard": "new",
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "storage": "file",
        "num_replicas": replicas,
        "deny_delete": True,
        "deny_purge": True,
        "allow_atomic": True,
        "allow_direct": True,
    }


def dead_config(tenant: str, replicas: int) -> dict[str, Any]:
    """The stream of parked commands: an operator empties it."""
    return {
        "name": subjects.dead_stream(tenant),
        "subjects": [subjects.dead(tenant, "*", "*")],
        "retention": "limits",
        "discard": "new",
        "max_age": 0,
        "storage": "file",
        "num_replicas": replicas,
        "allow_direct": True,
    }


def snapshots_config(tenant: str, replicas: int) -> dict[str, Any]:
    """The stream of snapshots: the newest of each owner, a cache of the events."""
    return {
        "name": subjects.snapshots_stream(tenant),
        "subjects": [subjects.watermark(tenant, "*"), subjects.snapshot(tenant, "*", "*")],
        "retention": "limits",
        "discard": "old",
        "max_msgs_per_subject": 1,
        "max_age": 0,
        "storage": "file",
        "num_replicas": replicas,
        "allow_atomic": True,
        "allow_direct": True,
    }


def timers_config(tenant: str, replicas: int) -> dict[str, Any]:
    """The stream of timers: one message a timer, which the server moves to another subject when it is due.

    The only stream whose messages may be scheduled and expire: that switches roll-ups on, and purges (FACTS, ADR-51 of
    NATS). A schedule's target must be a subject of the same stream (code 10190), and `discard: new` is refused.
    """
    return {
        "name": subjects.timers_stream(tenant),
        "subjects": [subjects.all_timers(tenant)],
        "retention": "limits",
        "discard": "old",
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": 1,
        "storage": "file",
        "num_replicas": replicas,
        "allow_msg_schedules": True,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": True,
        "allow_atomic": True,
        "allow_direct": True,
    }


async def create_tenant(
    client: Client,
    tenant: str,
    *,
    partitions: int = PARTITIONS_DEFAULT,
    intake: Intake = "fast",
    replicas: int = 1,
    boards: bytes | None = None,
) -> bool:
    """Create a tenant's streams where they are missing; returns whether the tenant is new.

    `boards` are there before anybody sees the tenant.

    Raises `WrongStream` when streams of that name exist with another configuration, `InvalidToken` for a bad name.
    """
    subjects.require_token("the tenant's name", tenant)
    is_new = subjects.events_stream(tenant) not in await stream_names(client)
    await create_others(
        client, tenant, partitions=partitions, intake=intake, replicas=replicas, are_derived_kept=not is_new
    )
    if boards is not None:
        await say_setting(client, tenant, BOARDS, boards)
    await _create(client, events_config(tenant, replicas))
    await describe(client, tenant)
    return is_new


async def create_others(
    client: Client,
    tenant: str,
    *,
    partitions: int,
    intake: Intake,
    replicas: int,
    are_derived_kept: bool = False,
) -> None:
    """A tenant's streams but that of its events, where they are missing.

    Snapshots and timers of an event stream that is gone say nothing about another one: they are dropped unless kept.
    """
    for config in (
        dead_config(tenant, replicas),
        snapshots_config(tenant, replicas),
        timers_config(tenant, replicas),
        settings_config(tenant, replicas),
        commands_config(tenant, partitions, intake, replicas),
    ):
        await _create(client, config)
    if not are_derived_kept:
        await api(client, f"STREAM.PURGE.{subjects.snapshots_stream(tenant)}", {})
        await api(client, f"STREAM.PURGE.{subjects.timers_stream(tenant)}", {})


async def _create(client: Client, config: dict[str, Any]) -> None:
    answer = await api(client, f"STREAM.CREATE.{config['name']}", config)
    if "error" in answer:
        words = answer["error"].get("description")
        message = f"stream {config['name']} was not created: {words}; a tenant's streams are created once"
        raise WrongStream(message)


async def tenants(client: Client) -> list[str]:
    """Every tenant of this server, by name."""
    found = (subjects.tenant_of_events_stream(name) for name in await stream_names(client))
    return sorted(name for name in found if name)


def is_being_restored(events: dict[str, Any]) -> bool:
    """Whether an event stream, as the server describes it, holds a part of its history only."""
    return bool((events["config"].get("metadata") or {}).get(RESTORING_KEY))


async def describe(client: Client, tenant: str) -> Tenant:
    """What a tenant's streams say; raises `WrongStream` when they are not configured as this version needs them."""
    events = await stream_info(client, subjects.events_stream(tenant))
    if is_being_restored(events):
        message = f"stream {events['config']['name']} holds a part of its history: finish tally restore first"
        raise WrongStream(message)
    commands = await stream_info(client, subjects.commands_stream(tenant))
    config = commands["config"]
    dead = await stream_info(client, subjects.dead_stream(tenant))
    snapshots = await stream_info(client, subjects.snapshots_stream(tenant))
    timers = await stream_info(client, subjects.timers_stream(tenant))
    partitions = int((config.get("metadata") or {}).get(PARTITIONS_KEY, "0"))
    intake: Intake = "fast" if config.get("persist_mode") == "async" else "durable"
    replicas = events["config"].get("num_replicas", 1)
    _require(events["config"], events_config(tenant, replicas))
    _require(dead["config"], dead_config(tenant, dead["config"].get("num_replicas", 1)))
    _require(snapshots["config"], snapshots_config(tenant, snapshots["config"].get("num_replicas", 1)))
    _require(timers["config"], timers_config(tenant, timers["config"].get("num_replicas", 1)))
    _require(config, commands_config(tenant, partitions, intake, config.get("num_replicas", 1)))
    identity = StreamIdentity(events["config"]["name"], events["created"])
    return Tenant(name=tenant, partitions=partitions, intake=intake, events=identity)


def _require(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if key == "metadata":
            continue
        if found.get(key) != value:
            message = (
                f"stream {wanted['name']} has {key} = {found.get(key)!r}, wanted {value!r}: "
                f"restore the setting before anything runs on it"
            )
            raise WrongStream(message)
    forbidden = [key for key in FORBIDDEN if found.get(key) and not wanted.get(key)]
    if forbidden:
        message = f"stream {wanted['name']} has {forbidden[0]} set, which can lose history: restore the setting"
        raise WrongStream(message)
