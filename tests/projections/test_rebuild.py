"""Rebuilding beside a live follower, on real servers: readers never see a half, and nothing is lost on the way."""

import asyncio
import contextlib
import functools
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import stories
from stories import Story, finish, fold, publish
from test_followers import ALL, require_fold

from adapters import lake_query
from adapters import rebuild as rebuilding
from adapters.feed import SharedRead, keep_following, keep_pumping
from adapters.generations import generations
from adapters.jetstream import streams
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import connect
from adapters.jetstream.lease import LeaseTaken
from adapters.postgres_schema import schema_of
from adapters.rebuild import Rebuild
from adapters.redis_keys import Keys
from adapters.redis_ranks import Boards
from bus import subjects
from bus.errors import WrongStream
from bus.ports import Message
from domain.token import TOKENS_SENT
from projections.boards import xp_board
from projections.errors import Inconsistent, RebuildRefused
from projections.generations import LIVE, NEXT

random_story = functools.partial(stories.random_story, minutes=50)  # hours are partitions, and files


class Live:
    """A tenant's stream on the real server, and the live follower of one projection."""

    def __init__(self, sink, settings, tenant, story):
        self.sink, self.settings, self.tenant, self.story = sink, settings, tenant, story
        self.told = 0

    async def __aenter__(self):
        self.client = await connect(self.settings.nats_url, "test")
        await streams.create_tenant(self.client, self.tenant)
        self.stream = (await streams.describe(self.client, self.tenant)).events
        self._publisher = BatchPublisher(self.client)
        self._stop = asyncio.Event()
        read = SharedRead(self.client, self.tenant)
        self._follower = follower = self.sink.follower(self.settings)
        self._pump = asyncio.create_task(keep_pumping(read, self.tenant))
        following = keep_following(self.client, self.tenant, self.stream, read, follower, self._stop)
        self._following = asyncio.create_task(following)
        return self

    async def __aexit__(self, *failure):
        self._stop.set()
        await self._following
        await self._follower.close()  # one that failed last is still open
        self._pump.cancel()
        await asyncio.wait([self._pump])
        await self.client.close()

    async def tell(self, upto):
        """Publish the story up to an event, and to the second half of a transfer."""
        while self.story.records[upto - 1].event.type == TOKENS_SENT:
            upto += 1
        while self.told < upto:
            upto_now = min(self.told + 200, upto)
            batch = []
            for record in self.story.batch(self.told + 1, upto_now):
                subject = subjects.event(self.tenant, *record.event.subject.split("/"))
                batch.append(Message(subject, record.body, None, None))
            await self._publisher.append(f"b{self.told}", batch)
            self.told = upto_now

    async def caught_up(self):
        """Wait until the live follower has applied everything that was told."""
        async with asyncio.timeout(60):
            while True:
                position = await self.sink.read_position(self.settings, self.tenant)
                if position is not None and position.stream_seq >= self.told:
                    return
                await asyncio.sleep(0.02)

    def rebuild(self, progress=lambda *_: None, holder="a test"):
        store = generations(self.sink.follower(self.settings).name, self.settings, self.tenant)
        return Rebuild(self.client, self.tenant, store, progress, holder)

    def store(self):
        return generations(self.sink.follower(self.settings).name, self.settings, self.tenant)


def damage(sink, settings, tenant):
    """Change the live generation behind its projector's back."""
    match sink.__name__:
        case "Leaderboards":
            with redis.Redis.from_url(settings.redis_url) as client:
                live = (client.get(Keys(tenant).live) or b"1").decode()
                keys = Keys(tenant, live)
                client.zpopmin(keys.board("xp"))
        case "ReadModels":
            with psycopg.connect(settings.postgres_dsn) as connection:
                connection.execute(f'UPDATE "{schema_of(tenant)}".players SET xp = xp + 1')


@ALL
def test_beside_a_live_follower_and_flowing_events_the_new_generation_is_equal_and_followed(sink, settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=31, events=600)
        async with Live(sink, settings, tenant, story) as live:
            await live.tell(300)
            await live.caught_up()
            flowing = asyncio.create_task(flow(live))

            done = await live.rebuild().run(is_accepted=False)
            await flowing
            await live.tell(len(story.records))
            await live.caught_up()

            assert done.compared_at >= 300
            assert done.differences == ()
            assert sum(done.rows.values()) > 50
        await require_fold(sink, settings, story)

    async def flow(live):
        for upto in range(310, 500, 20):
            await live.tell(upto)
            await asyncio.sleep(0.01)

    asyncio.run(scenario())


@ALL
def test_rolled_back_it_goes_on_with_the_former_generation(sink, settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=32, events=500)
        async with Live(sink, settings, tenant, story) as live:
            await live.tell(300)
            await live.caught_up()
            await live.rebuild().run(is_accepted=False)
            await live.tell(450)
            await live.caught_up()

            await live.rebuild().roll_back()
            await live.tell(len(story.records))
            await live.caught_up()
        await require_fold(sink, settings, story)

    asyncio.run(scenario())


@ALL
def test_there_is_nothing_to_roll_back_to_before_the_first_rebuild(sink, settings, tenant):
    async def scenario():
        async with Live(sink, settings, tenant, random_story(tenant, seed=33)) as live:
            await live.tell(100)
            await live.caught_up()

            with pytest.raises(RebuildRefused, match="no previous generation"):
                await live.rebuild().roll_back()

    asyncio.run(scenario())


@pytest.mark.parametrize("sink", ALL.args[1][:2], ids=lambda sink: sink.__name__)
def test_a_difference_is_refused_and_the_live_one_stays_until_it_is_accepted(sink, settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=34)
        async with Live(sink, settings, tenant, story) as live:
            await live.tell(len(story.records))
            await live.caught_up()
            damage(sink, settings, tenant)
            before = await live.store().state(LIVE)

            with pytest.raises(RebuildRefused, match="--accept") as refused:
                await live.rebuild().run(is_accepted=False)

            assert "\n" not in str(refused.value)
            assert await live.store().state(LIVE) == before
            assert await live.store().standing(NEXT) is None
            done = await live.rebuild().run(is_accepted=True)
            assert len(done.differences) >= 1
        await require_fold(sink, settings, story)

    asyncio.run(scenario())


@ALL
def test_interrupted_anywhere_it_leaves_the_live_one_alone_and_the_next_one_works(sink, settings, tenant, monkeypatch):
    monkeypatch.setattr(rebuilding, "BATCH_RECORDS", 60)

    async def scenario():
        story = random_story(tenant, seed=35)
        async with Live(sink, settings, tenant, story) as live:
            await live.tell(len(story.records))
            await live.caught_up()
            before = await live.store().state(LIVE)
            for steps in (1, 4, 7):
                await interrupt_after(live, steps)
                assert await live.store().state(LIVE) == before

            done = await live.rebuild().run(is_accepted=False)

            assert done.compared_at == len(story.records)
        await require_fold(sink, settings, story)

    async def interrupt_after(live, steps):
        def count(*_):
            nonlocal steps
            steps -= 1
            if steps == 0:
                running.cancel()

        running = asyncio.create_task(live.rebuild(count).run(is_accepted=False))
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(scenario())


@pytest.mark.parametrize("sink", ALL.args[1][:1], ids=lambda sink: sink.__name__)
def test_two_rebuilds_of_one_projection_at_once_are_refused_and_the_holder_is_named(sink, settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=36)
        async with Live(sink, settings, tenant, story) as live:
            await live.tell(len(story.records))
            await live.caught_up()
            begun, go_on = asyncio.Event(), asyncio.Event()

            first = live.rebuild(lambda *_: begun.set(), holder="process 17 on elsewhere")
            prepare = first._store.prepare

            async def slow():
                await prepare()
                begun.set()
                await go_on.wait()

            first._store.prepare = slow
            running = asyncio.create_task(first.run(is_accepted=False))
            await begun.wait()
            with pytest.raises(LeaseTaken, match="process 17 on elsewhere"):
                await live.rebuild().run(is_accepted=False)
            go_on.set()
            await running

            await live.rebuild().run(is_accepted=False)

    asyncio.run(scenario())


@ALL
def test_a_past_state_is_what_the_projection_was_after_that_event(sink, settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=37)
        async with Live(sink, settings, tenant, story) as live:
            await live.tell(250)
            await live.caught_up()
            position = await sink.read_position(settings, tenant)
            then = await live.store().state(LIVE)
            await live.tell(len(story.records))
            await live.caught_up()

            done = await live.rebuild().build_past("then", position.stream_seq)

            assert await live.store().state("then") == then
            assert done.rows == then.rows
            with pytest.raises(RebuildRefused, match="--drop then"):
                await live.rebuild().build_past("then", 10)
            await live.rebuild().drop("then")
            assert await live.store().standing("then") is None
        await require_fold(sink, settings, story)

    asyncio.run(scenario())


def test_a_past_leaderboard_is_read_by_its_name(settings, tenant):
    async def scenario():
        story = Story(tenant)
        publish(story)
        finish(story, "first", 9_000_000)
        upto = len(story.records)
        finish(story, "second", 8_000_000)
        async with Live(ALL.args[1][0], settings, tenant, story) as live:
            await live.tell(len(story.records))

            await live.rebuild().build_past("early", upto)

        async with Boards(settings, tenant, "early") as boards:
            return [line.player for line in await boards.top(xp_board(), 10)]

    assert asyncio.run(scenario()) == ["first"]


@ALL
def test_a_projection_of_another_stream_is_named_and_replaced_when_that_is_accepted(sink, settings, tenant):
    async def scenario():
        other = random_story(tenant, seed=38, events=500)
        follower = sink.follower(settings)
        await follower.open(tenant, other.stream)
        await follower.apply(other.batch(1, len(other.records)))
        await follower.close()
        story = random_story(tenant, seed=39)
        async with Live(sink, settings, tenant, story) as live:
            await live.tell(len(story.records))

            with pytest.raises(WrongStream, match="--accept"):
                await live.rebuild().run(is_accepted=False)
            done = await live.rebuild().run(is_accepted=True)

            assert done.compared_at is None
        await require_fold(sink, settings, story)

    asyncio.run(scenario())


def test_readers_see_one_whole_generation_or_the_other_while_it_switches(settings, tenant):
    sink = ALL.args[1][1]

    async def scenario():
        story = random_story(tenant, seed=40)
        wanted = fold([record.body for record in story.records])
        async with Live(sink, settings, tenant, story) as live:
            await live.tell(len(story.records))
            await live.caught_up()
            reading = asyncio.create_task(read(live, wanted))
            for _ in range(3):
                await live.rebuild().run(is_accepted=False)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            assert reads > 3

    async def read(live, wanted):
        nonlocal reads
        while True:
            reads += 1
            state = await live.store().state(LIVE)
            assert (state.rows["players"], state.rows["postings"]) == (len(wanted["players"]), len(wanted["postings"]))
            assert state.stream_seq == len(live.story.records)

    reads = 0
    asyncio.run(scenario())


def test_a_live_table_that_lost_a_data_file_is_written_again_when_that_is_accepted(settings, tenant):
    sink = ALL.args[1][2]

    async def scenario():
        story = random_story(tenant, seed=43, events=100)
        async with Live(sink, settings, tenant, story) as live:
            await live.tell(len(story.records))
            await live.caught_up()
            victim = urlsplit(lake_query.files(settings, tenant, "events")[0]).path
            await asyncio.to_thread(Path(victim).unlink)

            with pytest.raises(Inconsistent, match=r"tally rebuild analytics --accept") as refused:
                await live.rebuild().run(is_accepted=False)
            done = await live.rebuild().run(is_accepted=True)

            assert victim in str(refused.value)
            assert victim in done.differences[0]
        await require_fold(sink, settings, story)

    asyncio.run(scenario())
