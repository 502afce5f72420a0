"""The shared read: every follower sees every event once and in order, whatever happens to the others."""

import asyncio
import contextlib
import random
from itertools import pairwise

import pytest

from adapters import feed
from adapters.feed import SharedRead, keep_following, keep_pumping, require_on_stream
from adapters.iceberg import AnalyticsFollower
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import connect
from adapters.jetstream.store import JetStreamEventStore
from adapters.jetstream.streams import create_tenant, describe
from adapters.postgres_readmodels import ReadModelFollower
from adapters.redis_boards import LeaderboardFollower
from adapters.segments import SegmentFollower
from adapters.signer import Signer
from adapters.timers import TimersFollower
from bus import subjects
from bus.errors import WrongStream
from bus.follower import Position, leaf_hash
from bus.ports import Message

EVENTS = 400


class Notebook:
    """A follower that writes down what it sees; its position is what it has written."""

    def __init__(self, name, *, fails=0.0, delay_s=0.0, seed=1, apply_every_s=0.0):
        self.name = name
        self.apply_every_s = apply_every_s
        self.began: list[float] = []
        self.seen: list[tuple[int, bytes]] = []
        self.opened = 0
        self._random = random.Random(seed)
        self._fails, self._delay_s = fails, delay_s

    async def open(self, tenant, stream):
        self.opened += 1
        if not self.seen:
            return Position(stream.created, 0, "")
        return Position(stream.created, self.seen[-1][0], leaf_hash(self.seen[-1][1]))

    async def apply(self, records):
        self.began.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._delay_s)
        if self._random.random() < self._fails:
            raise ConnectionError("made up")
        self.seen += [(record.stream_seq, record.body) for record in records]

    async def idle(self):
        await asyncio.sleep(0)

    async def close(self):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def stream_of(settings, tenant):
    client = await connect(settings.nats_url, "test-feed")
    try:
        await create_tenant(client, tenant)
        yield client, JetStreamEventStore(client, tenant, BatchPublisher(client)), await describe(client, tenant)
    finally:
        await client.close()


async def write(store, tenant, first, count):
    for at in range(first, first + count, 50):
        subject = subjects.event(tenant, "token", f"o{at}")
        await store.append(f"b{at}", [Message(subject, b"body %d" % n, None, None) for n in range(at, at + 50)])


async def seen_by(followers, count):
    async with asyncio.timeout(30):
        while any(len(follower.seen) < count for follower in followers):  # noqa: ASYNC110 (followers know no test)
            await asyncio.sleep(0.005)


async def follow(settings, tenant, followers, *, late=0, in_halves=False):
    """Run followers over a stream that grows meanwhile, until all have seen everything."""
    async with stream_of(settings, tenant) as (client, store, described):
        await write(store, tenant, 1, EVENTS // 2)
        stop, read = asyncio.Event(), SharedRead(client, tenant)
        tasks = [asyncio.create_task(keep_pumping(read, tenant))]
        for at, follower in enumerate(followers):
            if at and late:
                await asyncio.sleep(late)
            following = keep_following(client, tenant, described.events, read, follower, stop)
            tasks.append(asyncio.create_task(following))
        if in_halves:
            await seen_by(followers, EVENTS // 2)
        await write(store, tenant, EVENTS // 2 + 1, EVENTS // 2)
        await seen_by(followers, EVENTS)
        stop.set()
        await asyncio.gather(*tasks[1:])
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)


WHOLE = [(seq, b"body %d" % seq) for seq in range(1, EVENTS + 1)]


@pytest.fixture
def tight(monkeypatch):
    """A window so small that whoever is slow falls out of it."""
    monkeypatch.setattr(feed, "WINDOW_RECORDS", 40)
    monkeypatch.setattr(feed, "RECORDS_AT_ONCE", 10)
    monkeypatch.setattr(feed, "SLOW_PATIENCE_S", 0.02)


def test_followers_that_keep_up_share_the_records(settings, tenant):
    first, second = Notebook("first"), Notebook("second")

    asyncio.run(follow(settings, tenant, [first, second]))

    assert first.seen == second.seen == WHOLE


def test_a_slow_follower_reads_alone_and_misses_nothing(settings, tenant, tight):
    quick, slow = Notebook("quick"), Notebook("slow", delay_s=0.05)

    asyncio.run(follow(settings, tenant, [quick, slow]))

    assert quick.seen == slow.seen == WHOLE


def test_what_comes_soon_after_a_batch_is_applied_together_with_what_follows(settings, tenant):
    calm = Notebook("calm", apply_every_s=0.1)

    asyncio.run(follow(settings, tenant, [calm], in_halves=True))

    assert calm.seen == WHOLE
    waits = [later - at for at, later in pairwise(calm.began)]
    assert waits
    assert min(waits) >= 0.1


@pytest.mark.parametrize(
    "kind",
    [AnalyticsFollower, LeaderboardFollower, ReadModelFollower, SegmentFollower, Signer, TimersFollower],
    ids=lambda kind: kind.__name__,
)
def test_no_follower_waits_so_long_that_it_is_asked_to_commit_less_than_four_times_a_second(kind):
    assert 0 < kind.apply_every_s <= 0.1
    assert kind.apply_every_s < feed.IDLE_S <= 0.25


def test_a_full_batch_waits_for_nothing(settings, tenant, monkeypatch):
    monkeypatch.setattr(feed, "RECORDS_AT_ONCE", 50)
    calm = Notebook("calm", apply_every_s=0.1)

    asyncio.run(follow(settings, tenant, [calm]))

    assert calm.seen == WHOLE
    waits = [later - at for at, later in pairwise(calm.began)]
    assert min(waits) < 0.1


def test_a_follower_that_comes_late_catches_up_and_joins(settings, tenant, tight):
    early, late = Notebook("early"), Notebook("late")

    asyncio.run(follow(settings, tenant, [early, late], late=0.3))

    assert early.seen == late.seen == WHOLE


@pytest.mark.parametrize("seed", range(3))
def test_a_follower_that_fails_is_opened_anew_where_it_stood_and_stops_nobody(
    settings, tenant, tight, monkeypatch, seed
):
    real_sleep = asyncio.sleep
    monkeypatch.setattr(feed.asyncio, "sleep", lambda seconds: real_sleep(min(seconds, 0.02)))
    steady, shaky = Notebook("steady"), Notebook("shaky", fails=0.3, seed=seed)

    asyncio.run(follow(settings, tenant, [steady, shaky]))

    assert steady.seen == shaky.seen == WHOLE
    assert shaky.opened > 1
    assert steady.opened == 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"stream_created": "1999-01-01T00:00:00Z"}, "stands on a stream created 1999"),
        ({"stream_seq": 9_999}, "does not reach so far"),
        ({"leaf_hash": "00" * 32}, "is at another event 50 than"),
    ],
)
def test_a_position_of_another_stream_is_refused(settings, tenant, change, line):
    async def story():
        async with stream_of(settings, tenant) as (client, store, described):
            await write(store, tenant, 1, 50)
            good = {"stream_created": described.events.created, "stream_seq": 50, "leaf_hash": leaf_hash(b"body 50")}
            await require_on_stream(client, described.events, "x", Position(**good))
            await require_on_stream(client, described.events, "x", Position(**{**good, **change}))

    with pytest.raises(WrongStream, match=line):
        asyncio.run(story())
