"""What crash tests found, as small as it can be told."""

import asyncio

import pytest

from adapters import worker
from adapters.jetstream import store
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
        failures = [ZeroDivisionError("made up"), ExceptionGroup("made up", [OSError()]), StoreUnavailable("made up")]

        async def run(self):
            if self.failures:
                raise self.failures.pop()

    monkeypatch.setattr(worker, "RESTART_WAIT_MIN_S", 0.001)
    partition = Partition()

    asyncio.run(worker._keep_running(partition))

    assert partition.failures == []
