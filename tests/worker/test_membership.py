"""Workers see each other come, fall silent, go and hand over, on a real server."""

import asyncio
import contextlib

from test_worker_on_nats import running

from adapters.jetstream import membership
from adapters.jetstream.connection import connect
from adapters.jetstream.membership import STREAM, Membership
from adapters.jetstream.messages import direct_get
from bus.sharing import Member


@contextlib.asynccontextmanager
async def members(settings, *names):
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for name in names:
            client = await connect(settings.nats_url, name)
            stack.push_async_callback(client.close)
            peer = Membership(client, name)
            await peer.join(Member(serves=("nobody",)))
            found.append((peer, client))
        yield found


async def until(holds):
    async with asyncio.timeout(20):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)


async def stored(client):
    return {subject for _, subject, _ in await direct_get(client, STREAM, {"multi_last": ["tally.workers.*"]})}


def test_what_a_worker_says_is_heard_at_once_and_wakes_the_others(settings):
    async def story():
        async with members(settings, "one-a", "one-b") as ((a, _), (b, _)):
            said = Member(serves=("nobody",), runs={"t": (1, 2)}, ends={"t": (3,)})
            await b.beat(said)
            async with asyncio.timeout(10):
                while (await a.members()).get("one-b") != said:
                    await a.news.wait()
                    a.news.clear()
            a.news.clear()
            await b.beat(said)
            await asyncio.sleep(0.05)
            return a.news.is_set()

    assert asyncio.run(story()) is False


def test_one_whose_connection_is_gone_is_known_to_be_gone_without_waiting_until_it_is_forgotten(settings, monkeypatch):
    async def story():
        async with members(settings, "two-a", "two-b") as ((a, _), (_, killed)):
            monkeypatch.setattr(membership, "FORGOTTEN_AFTER_S", 3_600.0)
            before = "two-b" in await a.members()
            await killed.close()

            async def is_gone():
                await a.beat(Member(serves=("nobody",)))
                return "two-b" not in await a.members()

            await until(is_gone)
            return before

    assert asyncio.run(story())


def test_one_who_falls_silent_but_is_there_is_kept_until_its_beat_is_forgotten(settings):
    async def story():
        async with members(settings, "three-a", "three-b") as ((a, client), _):
            seen = []

            async def is_forgotten():
                await a.beat(Member(serves=("nobody",)))
                seen.append("three-b" in await a.members())
                return not seen[-1]

            async def has_expired():
                return "tally.workers.three-b" not in await stored(client)

            await until(has_expired)
            await until(is_forgotten)
            return seen

    assert asyncio.run(story())[-1] is False


def test_a_worker_waits_for_a_partition_until_who_has_it_has_let_go(settings, tenant):
    async def story():
        ghost = await connect(settings.nats_url, "ghost")
        other = Membership(ghost, "0-ghost")
        said = Member(serves=(tenant,), runs={tenant: (0, 1, 2, 3)})
        await other.join(said)
        try:
            async with running(settings, tenant) as (_, (worker,)):
                shared = set(worker.of(tenant))
                leaving = Member(serves=(tenant,), ends={tenant: (0, 1)}, is_leaving=True)

                async def has(wanted, last):
                    await other.beat(last)
                    return worker.of(tenant) == wanted

                await until(lambda: has({2, 3, 4, 5, 6, 7}, leaving))
                await until(lambda: has(set(range(8)), Member(serves=(tenant,), is_leaving=True)))
                return shared
        finally:
            await ghost.close()

    assert asyncio.run(story()) == {4, 5, 6, 7}


def test_one_who_was_not_seen_for_long_says_so_until_it_has_looked_who_runs_what(settings, monkeypatch):
    async def story():
        async with members(settings, "four-a", "four-b") as ((a, _), (b, _)):
            monkeypatch.setattr(membership, "FORGOTTEN_AFTER_S", 0.0)
            said = []
            for number, come_back in enumerate((False, False, True)):
                if come_back:
                    b.come_back()
                await b.beat(Member(serves=("nobody",), runs={"t": (number,)}))
                monkeypatch.setattr(membership, "FORGOTTEN_AFTER_S", 60.0)
                async with asyncio.timeout(10):
                    while (heard := (await a.members())["four-b"]).runs != {"t": (number,)}:
                        await a.news.wait()
                        a.news.clear()
                said.append(heard.is_away)
            return said

    assert asyncio.run(story()) == [True, True, False]


def test_whoever_is_not_seen_himself_takes_nobody_for_gone(settings, monkeypatch):
    async def story():
        async with members(settings, "five-a", "five-b") as ((a, _), (_, killed)):
            monkeypatch.setattr(membership, "FORGOTTEN_AFTER_S", 3_600.0)
            await a.members()
            await killed.close()
            monkeypatch.setattr(membership, "UNSURE_AFTER_S", 0.0)
            await asyncio.sleep(1.0)
            meanwhile = "five-b" in await a.members()
            monkeypatch.setattr(membership, "UNSURE_AFTER_S", 3_600.0)

            async def is_gone():
                await a.beat(Member(serves=("nobody",)))
                return "five-b" not in await a.members()

            await until(is_gone)
            return meanwhile

    assert asyncio.run(story())
