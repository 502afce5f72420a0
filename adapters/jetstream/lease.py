"""Who may do what only one may do at a time: a lease in a stream that forgets who does not renew it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import nats.errors
from nats.aio.client import Client

from adapters.ending import AGAIN_AFTER_S, ended
from adapters.jetstream.connection import API_TIMEOUT_S, api
from adapters.jetstream.forgetful import create_replicated, forgetful_config
from adapters.jetstream.messages import last_message
from bus.errors import BusError, StoreUnavailable, WrongStream

STREAM: Final = "TALLY_LEASES"
_PREFIX: Final = "tally.leases."
FORGOTTEN_AFTER_S: Final = 12.0
RENEWED_EVERY_S: Final = 3.0
#: The last sequence of the subject is not the one that was named: somebody else has the lease.
TAKEN_CODES: Final = frozenset({10071, 10164})


class LeaseTaken(BusError):
    """Somebody else holds the lease."""

    def __init__(self, what: str, holder: str) -> None:
        super().__init__(
            f"{what} is already under way ({holder}); wait for it (one that was killed is forgotten after "
            f"{FORGOTTEN_AFTER_S:g} s)"
        )


class LeaseLost(BusError):
    """The lease was not renewed in time, and somebody else may have it."""


@asynccontextmanager
async def lease(client: Client, name: str, what: str, holder: str) -> AsyncIterator[None]:
    """Hold the lease `name` (tokens with dots between) while the block runs; it is ended when the lease is lost.

    Raises `LeaseTaken`, `LeaseLost`. A hint for people and never the fence: what is done under it is fenced by itself.
    """
    await create_replicated(client, forgetful_config(STREAM, f"{_PREFIX}>", FORGOTTEN_AFTER_S))
    subject = f"{_PREFIX}{name}"
    seq = await _publish(client, subject, holder, 0)
    if seq is None:
        found = await last_message(client, STREAM, subject)
        raise LeaseTaken(what, found[1].decode() if found else "just ended")
    working = asyncio.current_task()
    lost = False

    async def renew() -> None:
        nonlocal seq, lost
        while seq is not None:
            await asyncio.sleep(RENEWED_EVERY_S)
            try:
                seq = await _renew(client, subject, holder, seq)
            except WrongStream:  # nobody can renew it, and nobody knows who has it
                break
            except (nats.errors.Error, TimeoutError, StoreUnavailable):
                continue
        lost = True
        while working is not None:  # a request may get lost (`adapters.ending`)
            working.cancel()
            await asyncio.sleep(AGAIN_AFTER_S)

    renewing = asyncio.create_task(renew())
    try:
        yield
    except asyncio.CancelledError as err:
        if lost:
            raise LeaseLost(f"{what}: not renewed in time, another one may run now; this one has ended") from err
        raise
    finally:
        await ended(renewing)
        if not lost:
            with suppress(BusError):
                await api(client, f"STREAM.PURGE.{STREAM}", {"filter": subject})


async def _renew(client: Client, subject: str, holder: str, seq: int) -> int | None:
    """The new sequence, None when somebody else has the lease; one whose acknowledgement was lost counts."""
    renewed = await _publish(client, subject, holder, seq, timeout_s=RENEWED_EVERY_S)
    if renewed is None:
        found = await last_message(client, STREAM, subject)
        if found is not None and found[0] > seq and found[1] == holder.encode():
            return found[0]
    return renewed


async def _publish(
    client: Client, subject: str, holder: str, expected: int, *, timeout_s: float = API_TIMEOUT_S
) -> int | None:
    """The new sequence, None when the subject's last one is not the expected one."""
    headers = {"Nats-Expected-Last-Subject-Sequence": str(expected)}
    reply = await client.request(subject, holder.encode(), timeout=timeout_s, headers=headers)
    answer = json.loads(reply.data)
    error = answer.get("error")
    if error is None:
        return int(answer["seq"])
    if error.get("err_code") in TAKEN_CODES:
        return None
    raise WrongStream(f"lease {subject} was not taken: {error.get('description')}")
