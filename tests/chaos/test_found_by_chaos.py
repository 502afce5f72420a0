"""What crash tests found, as small as it can be told."""

import asyncio
import json
import time
from contextlib import suppress
from typing import ClassVar

import pytest

from adapters import worker
from adapters.jetstream import store, streams
from adapters.jetstream.commands import JetStreamCommands
from adapters.jetstream.connection import answer_to, api, connect
from adapters.jetstream.membership import STREAM, Membership
from adapters.jetstream.messages import stream_info
from bus.errors import StoreUnavailable
from bus.sharing import Member
from tests.bus.harness import body_of, said, town_with


@pytest.mark.parametrize("between", [[], [("MintTokens", {"amount": 9})]], ids=["at once", "after the world changed"])
def test_a_refused_command_that_is_sent_again_into_the_same_batch_keeps_its_one_refusal(between):
    async def story():
        town = await town_with("p")
        await town.send("SpendTokens", "p", {"amount": 5}, "early")
        for name, data in between:
            await town.send(name, "p", data)
        await town.send("SpendTokens", "p", {"amount": 5}, "early")
        await town.drain()
        return town, [await town.store.inbox_head(number) for number in range(4)]

    town, heads = asyncio.run(story())

    assert [said(outcome) for outcome in town.outcomes("early")] == [("refused", "insufficient-tokens")] * 2
    assert [entry[1] for head in heads if head for entry in head.decided.refused] == ["early"]


def test_a_history_that_cannot_be_read_is_a_failure_of_the_bus_not_a_group(monkeypatch, settings, tenant):
    async def history(*_):
        raise StoreUnavailable("made up")

    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            await streams.create_tenant(client, tenant)
            await store.JetStreamEventStore(client, tenant, None).histories(["p", "q"], {})
        finally:
            await client.close()

    monkeypatch.setattr(store, "history", history)

    with pytest.raises(StoreUnavailable, match="made up"):
        asyncio.run(story())


def test_a_partition_goes_on_whatever_ended_it(monkeypatch):
    class Partition:
        tenant, number = "t", 1

        def __init__(self):
            self.failures = [
                ZeroDivisionError("made up"),
                ExceptionGroup("made up", [OSError()]),
                StoreUnavailable("made up"),
                asyncio.CancelledError(),  # nobody had told it to end
            ]

        async def run(self):
            if self.failures:
                raise self.failures.pop()

    monkeypatch.setattr(worker, "RESTART_WAIT_MIN_S", 0.001)
    partition = Partition()

    asyncio.run(worker._keep_running(partition))

    assert partition.failures == []


def test_a_partition_that_is_told_to_end_ends():
    class Partition:
        tenant, number = "t", 1
        has_ended = False

        async def run(self):
            try:
                await asyncio.sleep(60)
            finally:
                self.has_ended = True

    async def story():
        partition = Partition()
        running = asyncio.create_task(worker._keep_running(partition))
        await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait({running})
        return running.cancelled(), partition.has_ended

    assert asyncio.run(story()) == (True, True)


def test_a_worker_is_seen_again_after_the_server_forgot_who_there_is(settings):
    async def story():
        client = await connect(f"nats://127.0.0.1:1, {settings.nats_url}", "test")
        try:
            forgotten, comes_later = Membership(client, "w1"), Membership(client, "w2")
            await forgotten.join(Member(serves=("nobody",)))
            await api(client, f"STREAM.DELETE.{STREAM}", {})
            await forgotten.beat(Member(serves=("nobody",)))
            await comes_later.join(Member(serves=("nobody",)))
            return await comes_later.members()
        finally:
            await client.close()

    assert "w1" in asyncio.run(story())


def test_an_answer_is_not_waited_for_when_the_connection_that_asked_is_lost():
    class Client:
        is_connected = True

        def __init__(self):
            self.stats = {"reconnects": 0}

    async def story():
        client = Client()
        waiting = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.05, client.stats.update, {"reconnects": 1})
        with pytest.raises(TimeoutError):
            await answer_to(client, waiting, 60)
        return waiting.cancelled()

    assert asyncio.run(asyncio.wait_for(story(), 5))


def test_an_answer_that_came_while_the_process_itself_stood_still_counts():
    class Client:
        is_connected = True
        stats: ClassVar = {"reconnects": 0}

    async def story():
        waiting = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.05, time.sleep, 1.0)
        asyncio.get_running_loop().call_later(1.2, waiting.set_result, "here")
        return await answer_to(Client(), waiting, 0.5)

    assert asyncio.run(story()) == "here"


def test_who_is_told_to_end_while_it_waits_for_an_answer_ends_and_takes_it_for_no_timeout():
    class Client:
        is_connected = True
        stats: ClassVar = {"reconnects": 0}

    async def story():
        waiting = asyncio.get_running_loop().create_future()
        asking = asyncio.create_task(answer_to(Client(), waiting, 60))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait([asking])
        return asking.cancelled(), waiting.cancelled()

    assert asyncio.run(story()) == (True, True)


def test_an_answer_that_does_not_come_is_no_request_to_end_after_a_group_of_tasks_has_failed():
    """A partition ended for good, unnoticed: reads of histories had failed eleven seconds before its append did."""

    class Client:
        is_connected = True
        stats: ClassVar = {"reconnects": 0}

    async def fail():
        await asyncio.sleep(0)
        raise StoreUnavailable("made up")

    async def story():
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
        with pytest.raises(TimeoutError):
            await answer_to(Client(), asyncio.get_running_loop().create_future(), 0.01)

    asyncio.run(story())


def test_who_asks_does_not_wait_for_a_question_that_does_not_end_when_it_is_told_to():
    class Client:
        is_connected = True
        stats: ClassVar = {"reconnects": 0}

    async def stubborn(over):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await over.wait()

    async def story():
        over = asyncio.Event()
        with pytest.raises(TimeoutError):
            await answer_to(Client(), stubborn(over), 0.01)
        over.set()

    asyncio.run(asyncio.wait_for(story(), 30))


def test_commands_are_decided_again_when_their_stream_ends_before_what_was_decided(settings, tenant):
    many = [f"p{number}" for number in range(400)]

    async def story():
        client = await connect(settings.nats_url, "test")
        await streams.create_tenant(client, tenant)
        try:
            before = await decided(client, settings, tenant, many)
            config = (await stream_info(client, f"COMMANDS_{tenant}"))["config"]
            await api(client, f"STREAM.DELETE.COMMANDS_{tenant}", {})
            await api(client, f"STREAM.CREATE.COMMANDS_{tenant}", streams.commands_config(tenant, 8, "fast", 1))
            after = await decided(client, settings, tenant, ["a", "b", "c", "p1"])
            return config["persist_mode"], before, after
        finally:
            await client.close()

    assert asyncio.run(story()) == ("async", set(many), {"a", "b", "c", "p1"})


async def decided(client, settings, tenant, players):
    """Register players through a worker that is started for it; who of them got an outcome, sent again if need be."""
    stop, ready = asyncio.Event(), asyncio.Event()
    heard = set()

    async def on_outcome(message):
        heard.add(json.loads(message.data)["causationid"])

    subscription = await client.subscribe(f"tally.out.{tenant}.*", cb=on_outcome)
    running = asyncio.create_task(
        worker.Worker(settings.nats_url, only_tenants=frozenset({tenant})).run(stop, ready),
    )
    await ready.wait()
    for _ in range(20):
        for player in set(players) - heard:
            subject, body = body_of("RegisterPlayer", player, {}, player)
            await client.publish(f"tally.cmd.{tenant}.{subject}.{player}.RegisterPlayer", body)
        await asyncio.sleep(0.5)
        if heard >= set(players):
            break
    stop.set()
    await running
    await subscription.unsubscribe()
    return heard


def test_of_a_durable_stream_that_ends_too_early_nothing_is_dropped(settings, tenant):
    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            await streams.create_tenant(client, tenant, intake="durable")
            await client.jetstream().publish(f"tally.cmd.{tenant}.player.p.RegisterPlayer", b"{}")
            with pytest.raises(StoreUnavailable, match="ends at 1, decided is up to 7"):
                await JetStreamCommands(client, tenant).open(0, 7, 0)
            return (await stream_info(client, f"COMMANDS_{tenant}"))["state"]["messages"]
        finally:
            await client.close()

    assert asyncio.run(story()) == 1
