"""Turns of several workers that write the same aggregate, over a real server."""

import asyncio
import time

from adapters.jetstream import turns
from adapters.jetstream.connection import connect
from adapters.jetstream.turns import JetStreamTurns
from domain.catalogue import Key

QUEST = Key("quest", "q")


def with_workers(settings, tenant, scenario, count=3):
    async def story():
        clients = [await connect(settings.nats_url, f"test-{number}") for number in range(count)]
        try:
            workers = [JetStreamTurns(client, tenant, f"w{number}") for number, client in enumerate(clients)]
            for worker in workers:  # everybody listens from its first turn on
                await worker.take(Key("quest", "warm-up"))
                await worker.give(Key("quest", "warm-up"))
            await asyncio.gather(*(client.flush() for client in clients))
            return await scenario(workers)
        finally:
            for client in clients:
                await client.close()

    return asyncio.run(story())


def test_one_writes_at_a_time_and_each_has_its_turn(settings, tenant):
    async def scenario(workers):
        writing, most, order = set(), 0, []

        async def work(number, worker):
            nonlocal most
            for _ in range(5):
                await worker.take(QUEST)
                writing.add(number)
                most = max(most, len(writing))
                order.append(number)
                await asyncio.sleep(0.01)
                writing.discard(number)
                await worker.give(QUEST)

        await asyncio.gather(*(work(number, worker) for number, worker in enumerate(workers)))
        return most, order

    most, order = with_workers(settings, tenant, scenario)

    assert most == 1
    assert all(set(order[at : at + 3]) == {0, 1, 2} for at in range(0, 12, 3))


def test_aggregates_do_not_wait_for_each_other(settings, tenant):
    async def scenario(workers):
        await workers[0].take(QUEST)
        await asyncio.wait_for(workers[1].take(Key("quest", "other")), 0.9 * turns.FIRST_MAX_S)
        return True

    assert with_workers(settings, tenant, scenario)


def test_who_died_in_his_turn_is_passed_over(settings, tenant):
    async def scenario(workers):
        await workers[0].take(QUEST)  # and is never heard again
        began = time.monotonic()
        await workers[1].take(QUEST)
        return time.monotonic() - began

    waited_s = with_workers(settings, tenant, scenario)

    assert 0.5 * turns.FIRST_MAX_S < waited_s < turns.WAIT_MAX_S


def test_who_gives_up_waiting_leaves_the_queue(settings, tenant):
    async def scenario(workers):
        await workers[0].take(QUEST)
        waiting = asyncio.ensure_future(workers[1].take(QUEST))
        third = asyncio.ensure_future(workers[2].take(QUEST))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait({waiting})
        await workers[0].give(QUEST)
        await asyncio.wait_for(third, 0.9 * turns.FIRST_MAX_S)
        return waiting.cancelled()

    assert with_workers(settings, tenant, scenario)


def test_what_is_no_turn_is_passed_over(settings, tenant):
    async def scenario(workers):
        client = workers[0]._client
        for body in (b"", b"{}", b'{"format":"worker-turn/2","worker":"x","wants":true}'):
            await client.publish(f"tally.turns.{tenant}.quest.q", body)
        await client.flush()
        await asyncio.wait_for(workers[1].take(QUEST), 0.9 * turns.FIRST_MAX_S)
        return True

    assert with_workers(settings, tenant, scenario)
