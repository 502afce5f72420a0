"""A generation of the read models in the making: a batch commits while the next one is written out."""

import asyncio
import random

import psycopg
import pytest
from rows import read, rows_of
from stories import random_story

from adapters.ending import ended
from adapters.postgres_generations import ReadModelGenerations
from adapters.postgres_readmodels import ReadModelFollower
from adapters.postgres_schema import schema_of
from projections.errors import Fenced, Inconsistent, SinkUnavailable
from projections.generations import NEXT


def connect(settings, tenant):
    options = f'-c search_path="{schema_of(tenant, NEXT)}" -c timezone=UTC'
    return psycopg.connect(settings.postgres_dsn, options=options, autocommit=True)


def found(settings, tenant):
    """Where the generation stands, and all of its rows."""
    with connect(settings, tenant) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        there = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
        )
        tables = {name for (name,) in there.fetchall()} - {"position", "migrations", "parked"}
        (position,) = connection.execute("SELECT stream_seq FROM position").fetchone()
        return position, {table: rows for table, rows in read(connection, tables).items() if rows}


def wanted(story, upto):
    return rows_of([record.body for record in story.records[:upto]])


async def opened(settings, story):
    follower = ReadModelFollower(settings, NEXT)
    position = await follower.open(story.tenant, story.stream)
    return follower, position.stream_seq


def test_all_batches_are_there_once_nothing_waits(settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=61, events=400)
        follower, at = await opened(settings, story)
        for upto in (90, 91, 250, len(story.records)):
            await follower.apply(story.batch(at + 1, upto))
            at = upto
        await follower.idle()
        await follower.close()

        assert found(settings, tenant) == (len(story.records), wanted(story, len(story.records)))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "told_by",
    [
        lambda follower, batch: follower.apply(batch),
        lambda follower, _: follower.idle(),
        lambda follower, _: follower.close(),
    ],
    ids=["the next batch", "idle", "the end"],
)
@pytest.mark.parametrize(
    ("by_hand", "failure"),
    [
        ("UPDATE position SET stream_seq = 7", Fenced),
        ("DELETE FROM quests", Inconsistent),
        ("DROP TABLE quest_days CASCADE", SinkUnavailable),
    ],
    ids=["another one was here", "rows are gone", "a table is gone"],
)
def test_what_became_of_a_batch_is_told_by_the_next_call_and_nothing_of_it_is_there(
    settings, tenant, told_by, by_hand, failure
):
    async def scenario():
        story = random_story(tenant, seed=62, events=400)
        follower, _ = await opened(settings, story)
        await follower.apply(story.batch(1, 200))
        await follower.idle()
        with connect(settings, tenant) as connection:
            connection.execute(by_hand)
            (rows,) = connection.execute("SELECT count(*) FROM postings").fetchone()

            await follower.apply(story.batch(201, 300))
            with pytest.raises(failure):
                await told_by(follower, story.batch(301, 400))
            await follower.close()

            assert connection.execute("SELECT count(*) FROM postings").fetchone() == (rows,)

    asyncio.run(scenario())


async def feed(follower, story, at, dice):
    """Some batches, one after the other."""
    for _ in range(4):
        upto = min(at + dice.randrange(20, 60), len(story.records))
        if upto > at:
            await follower.apply(story.batch(at + 1, upto))
        at = upto
    await follower.idle()


def test_who_is_stopped_while_a_batch_commits_leaves_it_whole_or_not_at_all(settings, tenant):
    async def scenario():
        story, dice = random_story(tenant, seed=63, events=900), random.Random(63)
        at = stopped = 0
        while at < len(story.records):
            follower, opened_at = await opened(settings, story)
            assert opened_at == at
            feeding = asyncio.create_task(feed(follower, story, at, dice))
            await asyncio.wait({feeding}, timeout=dice.choice([0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.3]))
            stopped += not feeding.done()
            await ended(feeding)
            await follower.close()
            at, rows = found(settings, tenant)
            assert rows == wanted(story, at)
        assert stopped

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_two_connections_hash_what_one_would_at_the_same_moment(settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=64, events=300)
        follower, _ = await opened(settings, story)
        await follower.apply(story.batch(1, 200))
        await follower.idle()
        store = ReadModelGenerations(settings, tenant)
        before = await store.state(NEXT)
        async with store.at_rest(NEXT) as state:
            await follower.apply(story.batch(201, len(story.records)))
            await follower.idle()
        await follower.close()
        after = await store.state(NEXT)

        assert state == before
        assert before.stream_seq == 200 < after.stream_seq == len(story.records)
        assert before.rows.keys() == before.hashes.keys() == after.rows.keys()
        assert after.rows == {**dict.fromkeys(after.rows, 0), **counted(wanted(story, len(story.records)))}
        assert before.hashes["postings"] != after.hashes["postings"]

    asyncio.run(scenario())


def counted(tables):
    return {table: len(rows) for table, rows in tables.items()}
