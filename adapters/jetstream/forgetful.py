"""Streams in memory that forget: what is said there holds for seconds, and is said again as long as it is true."""

from __future__ import annotations

from typing import Any, Final

from nats.aio.client import Client

from adapters.jetstream.connection import API_TIMEOUT_S, api
from bus.errors import WrongStream

#: In a cluster a node may die without taking along what is said at this moment.
REPLICAS: Final = 3
NAME_IN_USE: Final = 10058
#: "replicas > 1 not supported in non-clustered mode", "no suitable peers for placement"
TOO_FEW_SERVERS: Final = frozenset({10074, 10005})


def forgetful_config(name: str, subject: str, forgotten_after_s: float) -> dict[str, Any]:
    """A stream that keeps the last message of each subject for so long."""
    return {
        "name": name,
        "subjects": [subject],
        "retention": "limits",
        "discard": "old",
        "max_age": int(forgotten_after_s * 1e9),
        "duplicate_window": int(1e9),
        "max_msgs_per_subject": 1,
        "storage": "memory",
        "allow_direct": True,
    }


async def create_replicated(client: Client, config: dict[str, Any], *, timeout_s: float = API_TIMEOUT_S) -> None:
    """Create a stream where it is missing, with replicas where there are servers for them; raises `WrongStream`."""
    for replicas in (REPLICAS, 1):
        wanted = {**config, "num_replicas": replicas}
        answer = await api(client, f"STREAM.CREATE.{config['name']}", wanted, timeout_s=timeout_s)
        code = (answer.get("error") or {}).get("err_code")
        if code in {None, NAME_IN_USE}:
            return
        if code not in TOO_FEW_SERVERS:
            break
    message = f"stream {config['name']} was not created: {answer['error'].get('description')}"
    raise WrongStream(message)
