"""What a tenant says of itself (its boards): every version a message of a stream of its own (docs/adr/0028)."""

from __future__ import annotations

import base64
import json
from typing import Any, Final, NamedTuple

import nats.errors
from nats.aio.client import Client

from adapters.jetstream.connection import API_TIMEOUT_S, api
from adapters.jetstream.messages import stream_info
from bus import subjects
from bus.errors import AppendRefused, Conflict, StoreUnavailable, WrongStream

#: The setting that holds a tenant's leaderboards.
BOARDS: Final = "boards"
#: "no message found", "stream not found": nothing was said yet.
_NOTHING: Final = frozenset({10037, 10059})
_ANOTHER_CAME_FIRST: Final = frozenset({10071, 10164})


class Setting(NamedTuple):
    """A setting as it stands: its version (the sequence of its message, 0 for what holds without one) and its body."""

    version: int
    body: bytes


def settings_config(tenant: str, replicas: int) -> dict[str, Any]:
    """The stream of a tenant's settings: for ever, small."""
    return {
        "name": subjects.settings_stream(tenant),
        "subjects": [subjects.setting(tenant, "*")],
        "retention": "limits",
        "discard": "new",
        "max_age": 0,
        "storage": "file",
        "num_replicas": replicas,
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
    }


async def read_setting(client: Client, tenant: str, name: str) -> Setting:
    """The newest version of a setting; raises `StoreUnavailable`, `WrongStream`."""
    stream = subjects.settings_stream(tenant)
    answer = await api(client, f"STREAM.MSG.GET.{stream}", {"last_by_subj": subjects.setting(tenant, name)})
    error = answer.get("error")
    if error is None:
        message = answer["message"]
        return Setting(int(message["seq"]), base64.b64decode(message.get("data", "")))
    if error.get("err_code") in _NOTHING:
        return Setting(0, b"{}")
    raise WrongStream(f"stream {stream} cannot be read: {error.get('description')}")


async def say_setting(client: Client, tenant: str, name: str, body: bytes) -> int:
    """Let a setting be so; returns its version, the one before when nothing changes. Raises as `write_setting`."""
    before = await read_setting(client, tenant, name)
    if before.body == body:
        return before.version
    return await write_setting(client, tenant, name, body, after=before.version)


async def write_setting(client: Client, tenant: str, name: str, body: bytes, *, after: int) -> int:
    """Say a setting anew; returns its version. Raises `Conflict` unless `after` is the newest version."""
    headers = {"Nats-Expected-Last-Subject-Sequence": str(after)}
    subject = subjects.setting(tenant, name)
    try:
        try:
            reply = await client.request(subject, body, timeout=API_TIMEOUT_S, headers=headers)
        except nats.errors.NoRespondersError:  # a tenant from before there were settings
            await _create(client, tenant)
            reply = await client.request(subject, body, timeout=API_TIMEOUT_S, headers=headers)
        acknowledged = json.loads(reply.data)
    except (nats.errors.Error, TimeoutError) as err:
        raise StoreUnavailable(f"no answer to the setting {name} of {tenant}: look whether it is there") from err
    error = acknowledged.get("error")
    if error is None:
        return int(acknowledged["seq"])
    if error.get("err_code") in _ANOTHER_CAME_FIRST:
        raise Conflict(f"{name} of {tenant} is no longer at version {after}: look at it, then try again")
    raise AppendRefused(f"the setting {name} of {tenant} was not stored: {error.get('description')}")


async def _create(client: Client, tenant: str) -> None:
    events = await stream_info(client, subjects.events_stream(tenant))
    config = settings_config(tenant, int(events["config"].get("num_replicas", 1)))
    answer = await api(client, f"STREAM.CREATE.{config['name']}", config)
    if "error" in answer:
        raise WrongStream(f"stream {config['name']} was not created: {answer['error'].get('description')}")
