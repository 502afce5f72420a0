"""What is decided leaves the command streams, whatever became of another tenant's."""

import asyncio

from test_worker_on_nats import Service

from adapters.jetstream import streams
from adapters.jetstream.connection import api, connect
from adapters.jetstream.messages import stream_info
from adapters.worker import Worker
from bus import subjects


def test_a_tenant_whose_command_stream_is_gone_keeps_nobody_elses_from_being_purged(settings, tenant):
    broken = f"{tenant}-gone"

    async def story():
        client = await connect(settings.nats_url, "test-service")
        for name in (broken, tenant):
            await streams.create_tenant(client, name)
        stop, ready = asyncio.Event(), asyncio.Event()
        worker = Worker(settings.nats_url, only_tenants=frozenset({broken, tenant}))
        running = asyncio.create_task(worker.run(stop, ready))
        try:
            await ready.wait()
            await api(client, f"STREAM.DELETE.{subjects.commands_stream(broken)}", {})
            service = Service(client, tenant)
            await service.listen()
            await asyncio.gather(*(service.ask("RegisterPlayer", f"p{number}", {}) for number in range(40)))
            async with asyncio.timeout(30):
                while True:
                    info = await stream_info(client, subjects.commands_stream(tenant))
                    if not info["state"]["messages"]:
                        break
                    await asyncio.sleep(0.1)
        finally:
            stop.set()
            await running
            await api(client, f"STREAM.DELETE.{subjects.events_stream(broken)}", {})
            await client.close()

    asyncio.run(story())
