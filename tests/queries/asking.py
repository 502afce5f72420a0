"""Query services of this process on the run's servers, and an asker that knows NATS and JSON only."""

import asyncio
import contextlib
import json

import nats.errors

from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.queries.service import QueryServices

WITHIN_S = 15


class Asker:
    """What a service in any language would do: a request, then two headers or an answer."""

    def __init__(self, client, tenant):
        self.client, self.tenant = client, tenant

    async def ask(self, path, request=None):
        """Code ("" for none), and the answer or the line."""
        payload = b"" if request is None else request if isinstance(request, bytes) else json.dumps(request).encode()
        answer = await self.client.request(f"tally.q.{self.tenant}.{path}", payload, timeout=WITHIN_S)
        headers = answer.headers or {}
        code = headers.get("Nats-Service-Error-Code", "")
        if code:
            assert json.loads(answer.data) == {"code": code, "message": headers["Nats-Service-Error"]}
        return code, headers.get("Nats-Service-Error") if code else json.loads(answer.data)

    async def control(self, verb):
        """What the tenant's services say to a service tool: PING, INFO, STATS."""
        answer = await self.client.request(f"$SRV.{verb}.tally-{self.tenant}", b"", timeout=WITHIN_S)
        return json.loads(answer.data)


@contextlib.asynccontextmanager
async def answering(settings, tenant, *, is_known=True, **how):
    """A tenant whose queries are answered; the tenant's own services only."""
    client = await connect(settings.nats_url, "asker")
    if is_known:
        await streams.create_tenant(client, tenant)
    stop, ready = asyncio.Event(), asyncio.Event()
    services = QueryServices(settings, frozenset({tenant}), **how)
    running = asyncio.create_task(services.run(stop, ready))
    try:
        async with asyncio.timeout(WITHIN_S):
            await ready.wait()
        asker = Asker(client, tenant)
        while is_known:  # the server lists a stream a moment after it said that it is there
            with contextlib.suppress(nats.errors.NoRespondersError):
                await asker.control("PING")
                break
            await asyncio.sleep(0.02)
        yield asker
    finally:
        stop.set()
        await asyncio.wait_for(running, WITHIN_S)
        await client.close()
