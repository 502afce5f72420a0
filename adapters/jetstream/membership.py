"""Which workers there are: each says so every second in a stream that forgets after a few (a hint, never a right)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import nats.errors
from nats.aio.client import Client

from adapters.jetstream.connection import api
from adapters.jetstream.reader import direct_get
from bus.errors import WrongStream

STREAM: Final = "TALLY_WORKERS"
_PREFIX: Final = "tally.workers."
BEAT_S: Final = 1.0
FORGOTTEN_AFTER_S: Final = 4.0
NAME_IN_USE: Final = 10058
#: "replicas > 1 not supported in non-clustered mode", "no suitable peers for placement"
TOO_FEW_SERVERS: Final = frozenset({10074, 10005})
BEAT_WITHIN_S: Final = 2.0
LEADER_WITHIN_S: Final = 5.0


class Membership:
    """One worker's place among its peers."""

    def __init__(self, client: Client, worker_id: str, tenants: frozenset[str] | None) -> None:
        self._client = client
        self._id = worker_id
        self._serves = b"" if tenants is None else ",".join(sorted(tenants)).encode()

    async def join(self) -> None:
        """Create the stream when it is missing, and be seen."""
        await self._create()
        await self._be_seen()

    async def _create(self) -> None:
        for replicas in (3, 1):
            answer = await api(self._client, f"STREAM.CREATE.{STREAM}", self._config(replicas))
            code = (answer.get("error") or {}).get("err_code")
            if code in {None, NAME_IN_USE}:
                return
            if code not in TOO_FEW_SERVERS:
                break
        message = f"stream {STREAM} was not created: {answer['error'].get('description')}"
        raise WrongStream(message)

    def _config(self, replicas: int) -> dict[str, object]:
        return {
            "name": STREAM,
            "subjects": [f"{_PREFIX}*"],
            "retention": "limits",
            "discard": "old",
            "max_age": int(FORGOTTEN_AFTER_S * 1e9),
            "duplicate_window": int(1e9),
            "max_msgs_per_subject": 1,
            "storage": "memory",
            "num_replicas": replicas,
            "allow_direct": True,
        }

    async def beat(self) -> None:
        """Be seen for a few more seconds, with the tenants that one serves (none named: all).

        The stream lives in memory: after a restart of the server it is made anew, and everybody gets the time to be
        seen before somebody takes himself for the only one.
        """
        try:
            await self._client.request(f"{_PREFIX}{self._id}", self._serves, timeout=BEAT_WITHIN_S)
        except nats.errors.NoRespondersError:
            await self._create()
            await self._be_seen()
            await asyncio.sleep(1.5 * BEAT_S)

    async def _be_seen(self) -> None:
        """The first beat into a new stream, which in a cluster has no leader for a moment."""
        async with asyncio.timeout(LEADER_WITHIN_S):
            while True:
                try:
                    await self._client.request(f"{_PREFIX}{self._id}", self._serves, timeout=BEAT_WITHIN_S)
                except nats.errors.NoRespondersError:
                    await asyncio.sleep(0.1)
                else:
                    return

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
