"""The one place where a NATS connection is made, and where a request to JetStream's API becomes an answer or a line."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Final

import nats
import nats.errors
from nats.aio.client import Client

from adapters.errors import NotConfigured
from bus.errors import StoreUnavailable

log = logging.getLogger(__name__)

API_TIMEOUT_S: Final = 10.0
PENDING_BYTES_MAX: Final = 64 * 1024 * 1024
NO_RESPONDERS: Final = 503


async def connect(url: str, name: str, *, patience_s: float = 5.0) -> Client:
    """A connection that reconnects for ever once it stood; raises `NotConfigured` when no server answers."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        try:
            return await nats.connect(
                url,
                name=name,
                connect_timeout=2,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,
                ping_interval=10,
                max_outstanding_pings=3,
                pending_size=PENDING_BYTES_MAX,
                error_cb=_on_error,
            )
        except (nats.errors.Error, OSError) as err:
            if loop.time() >= deadline:
                message = f"no NATS server answers at {url} ({err}): start one (tally up), or set TALLY_NATS_URL"
                raise NotConfigured(message) from err
            await asyncio.sleep(0.2)


async def _on_error(err: Exception) -> None:
    log.debug("nats: %s", err)


async def api(client: Client, subject: str, body: dict[str, Any]) -> dict[str, Any]:
    """One request to `$JS.API.<subject>`; an error of the server comes back under the key `error`.

    Raises `StoreUnavailable` when nobody answers in time.
    """
    try:
        reply = await client.request(f"$JS.API.{subject}", json.dumps(body).encode(), timeout=API_TIMEOUT_S)
    except (nats.errors.Error, TimeoutError) as err:
        message = f"JetStream does not answer {subject} ({type(err).__name__}): is the server up, JetStream enabled?"
        raise StoreUnavailable(message) from err
    answer = json.loads(reply.data)
    if not isinstance(answer, dict):
        message = f"JetStream answers {subject} with {reply.data[:80]!r}, wanted a JSON object"
        raise StoreUnavailable(message)
    return answer
