"""What is decided leaves the command streams, whatever became of another tenant's."""

import asyncio
import json

from test_worker_on_nats import Service

from adapters.jetstream import streams
from adapters.jetstream.connection import api, connect
from adapters.jetstream.messages import stream_info
from adapters.purging import Purging
from adapters.worker import Worker
from bus import subjects
from tests.bus.harness import body_of


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


class Decided:
    """A partition as far as purging looks at it."""

    def __init__(self, seq):
        self.purgeable_seq = seq


def test_what_all_partitions_have_decided_goes_together_and_the_rest_when_it_rests(settings, tenant):
    async def story():
        client = await connect(settings.nats_url, "test-service")
        try:
            await streams.create_tenant(client, tenant, partitions=2)
            stream, seen = subjects.commands_stream(tenant), []
            owners = [f"p{number}" for number in range(12)]
            for owner in owners:
                await client.jetstream().publish(f"tally.cmd.{tenant}.player.{owner}.RegisterPlayer", b"{}")
            last = {subjects.partition_of(owner, 2): seq for seq, owner in enumerate(owners, 1)}
            purging = Purging(client, tenant, 2)

            async def look(*decided):
                await purging.look({number: Decided(seq) for number, seq in enumerate(decided)}, 0)
                state = (await stream_info(client, stream))["state"]
                seen.append((state["first_seq"], state["messages"]))

            await look(last[0] - 3)
            await look(last[0] - 2, 0)
            await look(last[0] - 1, last[1] - 1)
            await look(last[0], last[1])
            await look(last[0], last[1])
            return seen, min(last.values())
        finally:
            await client.close()

    seen, first_last = asyncio.run(story())

    assert seen[:2] == [(1, 12), (1, 12)]
    assert seen[2] == (first_last, 13 - first_last)
    assert seen[3] == (first_last + 1, 12 - first_last)
    assert seen[4][1] == 0


def test_a_command_that_no_partition_can_decide_is_answered_before_what_lies_around_it_goes(settings, tenant):
    async def story():
        client = await connect(settings.nats_url, "test-service")
        try:
            await streams.create_tenant(client, tenant, partitions=1)
            outcomes = await client.subscribe(f"tally.out.{tenant}.>")
            for owner in ("a", "*", "b"):
                body = body_of("RegisterPlayer", "a", {}, f"c{owner if owner != '*' else ''}")[1]
                await client.jetstream().publish(f"tally.cmd.{tenant}.player.{owner}.RegisterPlayer", body)
            await Purging(client, tenant, 1).look({0: Decided(3)}, 0)
            outcome = json.loads((await outcomes.next_msg(timeout=10)).data)
            info = await stream_info(client, subjects.commands_stream(tenant))
            return outcome["type"], info["state"]["messages"]
        finally:
            await client.close()

    assert asyncio.run(story()) == ("command-refused/1", 0)
