"""Outcomes of partitions that are told at the same moment leave in one write, and none is lost."""

import asyncio

import pytest

from adapters.jetstream import store
from adapters.jetstream.connection import connect
from adapters.jetstream.store import JetStreamOutbox


@pytest.mark.parametrize("is_first_cancelled", [False, True])
def test_what_is_said_in_one_turn_of_the_loop_leaves_in_one_write(settings, monkeypatch, is_first_cancelled):
    writes = []
    publish_all = store.publish_all

    async def counted(client, messages):
        writes.append(len(messages))
        await publish_all(client, messages)

    monkeypatch.setattr(store, "publish_all", counted)

    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            came = []
            inbox = client.new_inbox()
            subscription = await client.subscribe(f"{inbox}.*")
            await client.flush()
            outbox = JetStreamOutbox(client)
            sending = [
                asyncio.ensure_future(outbox.send([(f"{inbox}.{name}{at}", name.encode()) for at in range(2)]))
                for name in "abc"
            ]
            await asyncio.sleep(0)
            if is_first_cancelled:
                sending[0].cancel()
            await asyncio.wait(sending)
            await outbox.send([(f"{inbox}.d", b"d")])
            for _ in range(7):
                message = await subscription.next_msg(timeout=10)
                came.append(message.subject.rpartition(".")[2])
            return came
        finally:
            await client.close()

    assert asyncio.run(story()) == ["a0", "a1", "b0", "b1", "c0", "c1", "d"]
    assert writes == [6, 1]
