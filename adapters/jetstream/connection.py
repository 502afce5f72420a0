"""The one place where a NATS connection is made, and where a request to JetStream's API becomes an answer or a line."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import nats.errors
from nats.aio.client import Client

from adapters.errors import NotConfigured
from adapters.jetstream.frames import install
from adapters.masking import masked
from bus.errors import StoreUnavailable

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

API_TIMEOUT_S: Final = 10.0
PENDING_BYTES_MAX: Final = 64 * 1024 * 1024
NO_RESPONDERS: Final = 503
LOOK_EVERY_S: Final = 0.1


async def connect(url: str, name: str, *, patience_s: float = 5.0) -> Client:
    """A connection that reconnects for ever once it stood; raises `NotConfigured` when no server answers."""
    client = Client()
    install(client)
    met: list[Exception] = []

    async def on_error(err: Exception) -> None:
        met.append(err)
        del met[:-1]
        log.debug("nats: %s", err)

    try:
        async with asyncio.timeout(patience_s):
            await client.connect(
                [each.strip() for each in url.split(",")],
                name=name,
                connect_timeout=2,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,  # type: ignore[arg-type] # it sleeps so long; fractions are fine
                ping_interval=10,
                max_outstanding_pings=3,
                pending_size=PENDING_BYTES_MAX,
                error_cb=on_error,
            )
    except (nats.errors.Error, OSError, TimeoutError) as err:
        await client.close()
        words = met[0] if met else "no answer"
        line = f"no NATS server answers at {masked(url)} ({words}): start one (tally up), or set TALLY_NATS_URL"
        raise NotConfigured(line) from err
    return client


async def answer_to(client: Client, waiting: Awaitable[Answer], timeout_s: float) -> Answer:
    """An answer that comes over this connection; raises `TimeoutError`, at once when the connection is lost.

    What was asked before a reconnect is never answered after it: waiting on would only delay the next attempt.
    """
    reconnects = client.stats["reconnects"]
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    future = asyncio.ensure_future(waiting)
    try:
        while not (await asyncio.wait({future}, timeout=LOOK_EVERY_S))[0]:
            is_same = client.is_connected and client.stats["reconnects"] == reconnects
            if not is_same or loop.time() > deadline:
                raise TimeoutError
        return await future
    finally:
        future.cancel()


async def api(client: Client, subject: str, body: dict[str, Any]) -> dict[str, Any]:
    """One request to `$JS.API.<subject>`; an error of the server comes back under the key `error`.

    Raises `StoreUnavailable` when nobody answers in time.
    """
    try:
        asked = client.request(f"$JS.API.{subject}", json.dumps(body).encode(), timeout=API_TIMEOUT_S)
        reply = await answer_to(client, asked, API_TIMEOUT_S)
    except (nats.errors.Error, TimeoutError) as err:
        message = f"JetStream does not answer {subject} ({type(err).__name__}): is the server up, JetStream enabled?"
        raise StoreUnavailable(message) from err
    answer = json.loads(reply.data)
    if not isinstance(answer, dict):
        message = f"JetStream answers {subject} with {reply.data[:80]!r}, wanted a JSON object"
        raise StoreUnavailable(message)
    return answer
