"""Which workers there are: each says so every second in a stream that forgets after a few (a hint, never a right)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nats.aio.client import Client

from adapters.jetstream.connection import api
from adapters.jetstream.reader import direct_get
from bus.errors import WrongStream

STREAM: Final = "TALLY_WORKERS"
_PREFIX: Final = "tally.workers."
BEAT_S: Final = 1.0
FORGOTTEN_AFTER_S: Final = 4.0
NAME_IN_USE: Final = 10058


class Membership:
    """One worker's place among its peers."""

    def __init__(self, client: Client, worker_id: str, tenants: frozenset[str] | None) -> None:
        self._client = client
        self._id = worker_id
        self._serves = b"" if tenants is None else ",".join(sorted(tenants)).encode()

    async def join(self) -> None:
        """Create the stream when it is missing, and be seen."""
        config = {
            "name": STREAM,
            "subjects": [f"{_PREFIX}*"],
            "retention": "limits",
            "discard": "old",
            "max_age": int(FORGOTTEN_AFTER_S * 1e9),
            "duplicate_window": int(1e9),
            "max_msgs_per_subject": 1,
            "storage": "memory",
            "num_replicas": 1,
            "allow_direct": True,
        }
        answer = await api(self._client, f"STREAM.CREATE.{STREAM}", config)
        if "error" in answer and answer["error"].get("err_code") != NAME_IN_USE:
            message = f"stream {STREAM} was not created: {answer['error'].get('description')}"
            raise WrongStream(message)
        await self.beat()

    async def beat(self) -> None:
        """Be seen for a few more seconds, with the tenants that one serves (none named: all)."""
        await self._client.request(f"{_PREFIX}{self._id}", self._serves, timeout=2)

    async def members(self) -> dict[str, frozenset[str] | None]:
        """Every worker that was seen lately and the tenants that it serves (None: all)."""
        found = await direct_get(self._client, STREAM, {"multi_last": [f"{_PREFIX}*"]})
        return {
            subject.removeprefix(_PREFIX): frozenset(body.decode().split(",")) if body else None
            for _, subject, body in found
        }

    async def leave(self) -> None:
        """Be forgotten at once, so that the others take over."""
        await api(self._client, f"STREAM.PURGE.{STREAM}", {"filter": f"{_PREFIX}{self._id}"})


def share(partitions: int, tenant: str, members: Mapping[str, frozenset[str] | None], worker_id: str) -> set[int]:
    """The partitions of a tenant that fall to a worker; each falls to exactly one of those who serve the tenant."""
    serving = sorted({worker_id, *(name for name, tenants in members.items() if tenants is None or tenant in tenants)})
    turn = sum(tenant.encode())
    return {number for number in range(partitions) if serving[(number + turn) % len(serving)] == worker_id}
