"""What crash tests found, as small as it can be told."""

import asyncio

import pytest

from adapters import worker
from adapters.jetstream import store
from adapters.jetstream.connection import answer_to, api, connect
from adapters.jetstream.membership import STREAM, Membership
from bus.errors import StoreUnavailable
from tests.bus.harness import said, town_with


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


def test_a_history_that_cannot_be_read_is_a_failure_of_the_bus_not_a_group(monkeypatch):
    async def history(*_):
        raise StoreUnavailable("made up")

    monkeypatch.setattr(store, "history", history)
    reading = store.JetStreamEventStore(None, "t", None).histories(["p", "q"])

    with pytest.raises(StoreUnavailable, match="made up"):
        asyncio.run(reading)


def test_a_partition_goes_on_whatever_ended_it(monkeypatch):
    class Partition:
        tenant, number = "t", 1

        def __init__(self):
            self.failures = [
                ZeroDivisionError("made up"),
                ExceptionGroup("made up", [OSError()]),
                StoreUnavailable("made up"),
            ]

        async def run(self):
            if self.failures:
                raise self.failures.pop()

    monkeypatch.setattr(worker, "RESTART_WAIT_MIN_S", 0.001)
    partition = Partition()

    asyncio.run(worker._keep_running(partition))

    assert partition.failures == []


def test_a_worker_is_seen_again_after_the_server_forgot_who_there_is(settings):
    async def story():
        client = await connect(f"nats://127.0.0.1:1, {settings.nats_url}", "test")
        try:
            membership = Membership(client, "w1", None)
            await membership.join()
            await api(client, f"STREAM.DELETE.{STREAM}", {})
            await membership.beat()
            return await membership.members()
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
