"""What an acknowledged command is worth: received (fast), or on disk (durable). The server is killed to find out."""

import asyncio
import contextlib

import pytest
from test_worker_on_nats import Service, code_of, events_of

from adapters.embedded_servers import NatsServer
from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.jetstream.messages import stream_info
from adapters.worker import Worker
from bus import subjects

SENT = 400


@contextlib.contextmanager
def a_server_of_its_own(folder):
    server = NatsServer(folder / "nats", folder / "nats.log", fixed_port=None, keep_open=())
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def send_without_a_worker(url, tenant, intake):
    client = await connect(url, "test")
    try:
        await streams.create_tenant(client, tenant, intake=intake)
        service = Service(client, tenant)
        await service.listen()
        for number in range(SENT):
            body = service.command("RegisterPlayer", f"p{number}", {}, f"c{number}")
            await service.publish("RegisterPlayer", f"p{number}", body)
    finally:
        await client.close()


async def decide_and_send_again(url, tenant):
    """A worker decides what is left; the sender, who has no outcome, sends everything again under the same ids."""
    client = await connect(url, "test")
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(Worker(url).run(stop, ready))
    try:
        kept = int((await stream_info(client, subjects.commands_stream(tenant)))["state"]["messages"])
        await ready.wait()
        service = Service(client, tenant)
        await service.listen()
        for number in range(SENT):
            body = service.command("RegisterPlayer", f"p{number}", {}, f"c{number}")
            await service.publish("RegisterPlayer", f"p{number}", body)
        codes = {code_of(await service.outcome(f"c{number}")) for number in range(SENT)}
        events = [event for event in await events_of(service) if event["type"] == "player-registered/1"]
        return kept, codes, len(events), len({event["subject"] for event in events})
    finally:
        stop.set()
        await task
        await client.close()


@pytest.mark.parametrize("intake", ["fast", "durable"])
def test_a_killed_server_loses_no_durable_command_and_a_fast_one_is_completed_by_its_senders_retry(tmp_path, intake):
    with a_server_of_its_own(tmp_path) as server:
        asyncio.run(send_without_a_worker(server.url, "t", intake))
        server.child.kill()
        server.restart()
        server.child.wait_until(server.answers, 20)

        kept, codes, events, players = asyncio.run(decide_and_send_again(server.url, "t"))

    assert kept == SENT if intake == "durable" else kept <= SENT
    assert codes == {"accepted"}
    assert events == players == SENT
