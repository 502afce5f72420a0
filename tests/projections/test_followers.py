"""What every follower promises, held against its real server."""

import asyncio
import dataclasses
import random

import pytest
from sinks import Analytics, Leaderboards, ReadModels
from stories import Story, finish, fold, publish, random_story
from wire import Wire

from adapters import iceberg
from bus.envelope import TIME_MS_MAX, TIME_MS_MIN
from bus.follower import Position, StreamIdentity, leaf_hash
from domain.token import MintTokens, SpendTokens
from projections.errors import Fenced, ForeignPosition, OutOfOrder, ProjectionError

ALL = pytest.mark.parametrize("sink", [Leaderboards, ReadModels, Analytics], ids=lambda sink: sink.__name__)


async def feed(sink, settings, story, dice, upto=None, meet=None):
    """Feed what is missing in batches of random size; returns the position."""
    follower = sink.follower(settings)
    upto = len(story.records) if upto is None else upto
    reached = (await follower.open(story.tenant, story.stream)).stream_seq
    try:
        if meet is not None:
            await meet.wait()
        while reached < upto:
            last = min(reached + dice.randrange(1, sink.batch_max), upto)
            await follower.apply(story.batch(reached + 1, last))
            await follower.idle()
            reached = last
    finally:
        await follower.close()
    return await sink.read_position(settings, story.tenant)


async def require_fold(sink, settings, story):
    """The sink holds the fold of the whole stream."""
    wanted = fold([record.body for record in story.records])
    assert await sink.found(settings, story.tenant, wanted) == sink.wanted(wanted)


@ALL
def test_a_stream_in_batches_of_any_size_gives_its_fold_and_its_position(sink, settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=11)

        position = await feed(sink, settings, story, random.Random(1))

        last = story.records[-1]
        assert position == Position(story.stream.created, last.stream_seq, leaf_hash(last.body))
        await require_fold(sink, settings, story)

    asyncio.run(scenario())


@ALL
def test_before_the_first_event_there_is_no_position(sink, settings, tenant):
    assert asyncio.run(sink.read_position(settings, tenant)) is None


@ALL
def test_a_batch_that_was_applied_or_leaves_a_gap_is_refused_and_changes_nothing(sink, settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=12)
        follower = sink.follower(settings)
        await follower.open(tenant, story.stream)
        await follower.apply(story.batch(1, 20))

        for first, last in ((1, 20), (20, 30), (22, 30)):
            with pytest.raises(OutOfOrder):
                await follower.apply(story.batch(first, last))
        with pytest.raises(OutOfOrder):
            await follower.apply([*story.batch(21, 25), *story.batch(27, 30)])

        await follower.apply(story.batch(21, len(story.records)))
        await follower.close()
        await require_fold(sink, settings, story)

    asyncio.run(scenario())


@ALL
def test_a_restarted_follower_stands_where_its_effects_stand(sink, settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=13)
        await feed(sink, settings, story, random.Random(3), upto=40)

        follower = sink.follower(settings)
        position = await follower.open(tenant, story.stream)
        await follower.close()

        assert position.stream_seq in {39, 40}  # a transfer's first half waits for its second
        assert position.leaf_hash == leaf_hash(story.records[position.stream_seq - 1].body)

    asyncio.run(scenario())


@ALL
def test_two_copies_at_once_leave_the_fold_and_the_slower_one_is_fenced(sink, settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=14)
        fenced = 0

        async def run(dice, meet):
            nonlocal fenced
            while True:
                try:
                    position = await feed(sink, settings, story, dice, meet=meet)
                except Fenced:
                    fenced, meet = fenced + 1, None
                    continue
                return position

        meet = asyncio.Barrier(2)
        await asyncio.gather(*(run(random.Random(seed), meet) for seed in (1, 2)))

        assert fenced
        await require_fold(sink, settings, story)

    asyncio.run(scenario())


@ALL
def test_a_stale_copy_is_fenced_and_changes_nothing(sink, settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=15)
        stale = sink.follower(settings)
        await stale.open(tenant, story.stream)
        await feed(sink, settings, story, random.Random(4))

        with pytest.raises(Fenced) as refused:
            await stale.apply(story.batch(1, 30))

        assert "another copy" in str(refused.value)
        await stale.close()
        await require_fold(sink, settings, story)

    asyncio.run(scenario())


@ALL
def test_a_stream_that_was_made_anew_is_refused_in_one_line(sink, settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=16)
        await feed(sink, settings, story, random.Random(5))

        follower = sink.follower(settings)
        with pytest.raises(ForeignPosition) as refused:
            await follower.open(tenant, StreamIdentity(story.stream.name, "2027-01-01T00:00:00Z"))
        await follower.close()

        assert "\n" not in str(refused.value)
        assert "2027-01-01" in str(refused.value)

    asyncio.run(scenario())


@pytest.mark.parametrize("sink", [Leaderboards, ReadModels], ids=lambda sink: sink.__name__)
def test_connections_that_break_anywhere_lose_and_double_nothing(sink, settings, tenant):
    async def scenario():
        story, dice = random_story(tenant, seed=17), random.Random(6)
        async with Wire(getattr(settings, sink.url)) as wire:
            broken = dataclasses.replace(settings, **{sink.url: wire.url})
            for attempt in range(400):
                if attempt == 40:
                    wire.mend()
                else:
                    wire.break_after(dice.randrange(1, sink.pieces_max), reply_lost=dice.random() < 0.5)
                try:
                    await feed(sink, broken, story, dice)
                except ProjectionError:
                    continue
                break

        assert wire.breaks >= 3
        await require_fold(sink, settings, story)

    asyncio.run(scenario())


def test_a_script_whose_answer_is_lost_took_effect_once(settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=18)
        async with Wire(settings.redis_url) as wire:
            follower = Leaderboards.follower(dataclasses.replace(settings, redis_url=wire.url))
            await follower.open(tenant, story.stream)
            await follower.apply(story.batch(1, 50))
            wire.break_after(1, reply_lost=True)

            with pytest.raises(ProjectionError):
                await follower.apply(story.batch(51, 150))
            await follower.close()

        assert (await Leaderboards.read_position(settings, tenant)).stream_seq == 150
        await feed(Leaderboards, settings, story, random.Random(7))
        await require_fold(Leaderboards, settings, story)

    asyncio.run(scenario())


@pytest.mark.parametrize("landed", [True, False], ids=["after it landed", "before it landed"])
def test_a_commit_to_iceberg_that_fails_is_looked_at_before_anything_else(settings, tenant, monkeypatch, landed):
    async def scenario():
        story = random_story(tenant, seed=19)
        append, failures = iceberg.append, []

        def fail(table, batches, made):
            if landed:
                append(table, batches, made)
            failures.append(made)
            raise ConnectionError("the catalog went away")

        follower = Analytics.follower(settings)
        await follower.open(tenant, story.stream)
        monkeypatch.setattr(iceberg, "append", fail)
        if landed:
            await follower.apply(story.batch(1, 30))
        else:
            with pytest.raises(ProjectionError, match="the catalog went away"):
                await follower.apply(story.batch(1, 30))
        monkeypatch.setattr(iceberg, "append", append)

        position = await follower.open(tenant, story.stream)
        assert position.stream_seq == (30 if landed else 0)
        await feed(Analytics, settings, story, random.Random(8))
        assert failures
        await require_fold(Analytics, settings, story)

    asyncio.run(scenario())


@ALL
def test_an_empty_batch_is_nothing(sink, settings, tenant):
    async def scenario():
        story = Story(tenant)
        publish(story)
        follower = sink.follower(settings)
        await follower.open(tenant, story.stream)

        await follower.apply([])
        await follower.idle()
        await follower.close()

        assert await sink.read_position(settings, tenant) is None

    asyncio.run(scenario())


@ALL
def test_text_that_looks_like_syntax_and_times_at_the_edges_arrive_as_they_are(sink, settings, tenant):
    async def scenario():
        story = Story(tenant)
        publish(story)
        for player in ("NULL", "-", "0", "e1", "_"):
            finish(story, player, 60_000, divisions=("wheelchairs", "runners"))
            for reason in ("\\N", "\\.", "NULL", "", '"', "'; DROP TABLE players; --", "{}", ",", "é\u2028🏅", " x "):
                story.tell("token", player, MintTokens(amount=1, reason=reason))
            for at_ms in (TIME_MS_MIN, -1, 0, TIME_MS_MAX - 1):
                story.tell("token", player, SpendTokens(amount=1, reason="at the edge"), at_ms)

        await feed(sink, settings, story, random.Random(9))

        await require_fold(sink, settings, story)

    asyncio.run(scenario())
