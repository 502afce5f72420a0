"""Asking a query service, as any service would do it."""

from __future__ import annotations

import json
from typing import Any, Final

import nats.errors

from adapters.errors import TallyError
from adapters.jetstream.connection import connect
from adapters.settings import Settings
from bus import subjects

ANSWER_WITHIN_S: Final = 10.0


async def ask(settings: Settings, tenant: str, path: str, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a query; raises `TallyError` with the service's line, or when nobody answers."""
    client = await connect(settings.nats_url, "tally-ask")
    try:
        subject = subjects.query(tenant, *path.split("."))
        reply = await client.request(subject, json.dumps(request).encode(), timeout=ANSWER_WITHIN_S)
    except (nats.errors.NoRespondersError, TimeoutError) as err:
        raise TallyError(f"nobody answers {path} for {tenant}: are the queries running (tally status)?") from err
    finally:
        await client.close()
    headers = reply.headers or {}
    if "Nats-Service-Error-Code" in headers:
        raise TallyError(headers.get("Nats-Service-Error", "the query was refused"))
    answer: dict[str, Any] = json.loads(reply.data)
    return answer
