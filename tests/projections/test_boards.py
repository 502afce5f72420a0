"""Leaderboards in Redis: order, ties, ranks, and a server that forgets."""

import asyncio

import pytest
import redis
from sinks import Leaderboards
from stories import Story, finish, publish
from test_followers import require_fold
from test_rebuild import Live

from adapters.redis_boards import LeaderboardFollower
from adapters.redis_keys import Keys
from adapters.redis_ranks import Boards
from projections.boards import quest_board, xp_board
from projections.errors import NotFound, ProjectionError, SinkUnavailable

RACE = quest_board("race")


async def show(settings, story):
    follower = LeaderboardFollower(settings)
    position = await follower.open(story.tenant, story.stream)
    await follower.apply(story.batch(position.stream_seq + 1, len(story.records)))
    await follower.close()


def race(tenant, *times):
    story = Story(tenant)
    publish(story)
    for number, elapsed_ms in enumerate(times):
        finish(story, f"p{number}", elapsed_ms)
    return story


def test_equal_times_stand_in_the_order_in_which_they_were_reached(settings, tenant):
    async def scenario():
        story = race(tenant, 9_000, 5_000, 9_000, 5_000, 9_000)
        await show(settings, story)

        async with Boards(settings, tenant) as boards:
            top = await boards.top(RACE, 10)

        assert [(line.place, line.player) for line in top] == [(1, "p1"), (2, "p3"), (3, "p0"), (4, "p2"), (5, "p4")]

    asyncio.run(scenario())


def test_more_xp_ranks_higher_and_a_player_stands_on_the_board_once(settings, tenant):
    async def scenario():
        story = race(tenant, 9_000, 8_000, 7_000)
        await show(settings, story)
        publish(story, "hunt")
        finish(story, "p1", 4_000, quest="hunt")
        finish(story, "p0", 4_000, quest="hunt")
        await show(settings, story)

        async with Boards(settings, tenant) as boards:
            top = await boards.top(xp_board(), 10)

        assert [(line.player, line.score) for line in top] == [("p1", 2000), ("p0", 2000), ("p2", 1000)]

    asyncio.run(scenario())


def test_a_rank_comes_with_its_neighbours_also_at_the_ends(settings, tenant):
    async def scenario():
        await show(settings, race(tenant, 1_000, 2_000, 3_000, 4_000, 5_000))

        async with Boards(settings, tenant) as boards:
            middle, size = await boards.around(RACE, "p2", 1)
            first, _ = await boards.around(RACE, "p0", 2)
            last, _ = await boards.around(RACE, "p4", 2)
            rank = (await boards.rank(RACE, "p3")).line
            page = await boards.top(RACE, 2, first=2)

        assert size == 5
        assert [line.player for line in middle] == ["p1", "p2", "p3"]
        assert [line.place for line in first] == [1, 2, 3]
        assert [line.place for line in last] == [3, 4, 5]
        assert (rank.place, rank.score) == (4, 4_000)
        assert [line.place for line in page] == [3, 4]

    asyncio.run(scenario())


def test_who_is_not_ranked_is_told_so(settings, tenant):
    async def scenario():
        await show(settings, race(tenant, 1_000))

        async with Boards(settings, tenant) as boards:
            for board, player in (
                (RACE, "nobody"),
                (quest_board("race", "wheelchairs"), "p0"),
                (quest_board("no"), "p0"),
            ):
                with pytest.raises(NotFound, match="is not ranked"):
                    await boards.rank(board, player)
            assert await boards.top(quest_board("no"), 5) == []

    asyncio.run(scenario())


def test_a_batch_larger_than_a_script_call_may_be_is_written_whole(settings, tenant):
    async def scenario():
        story = race(tenant, *range(1_000, 5_000))
        await show(settings, story)
        publish(story, "hunt")
        for number in range(4_000):
            finish(story, f"p{number}", 1_000, quest="hunt")
        await show(settings, story)

        async with Boards(settings, tenant) as boards:
            sums = await boards.sums(["race", "hunt"])
            last = (await boards.rank(RACE, "p3999")).line

        assert sums.ranked == {"race": 4_000, "hunt": 4_000}
        assert sums.xp == 8_000_000
        assert last.place == 4_000

    asyncio.run(scenario())


def test_a_server_that_forgot_the_scripts_gets_them_again(settings, tenant):
    async def scenario():
        story = race(tenant, 1_000, 2_000)
        follower = LeaderboardFollower(settings)
        await follower.open(tenant, story.stream)
        await follower.apply(story.batch(1, 3))
        with redis.Redis.from_url(settings.redis_url) as client:
            client.script_flush()

        await follower.apply(story.batch(4, len(story.records)))
        await follower.close()

        async with Boards(settings, tenant) as boards:
            assert await boards.size(RACE) == 2

    asyncio.run(scenario())


def test_a_redis_that_lost_its_data_is_filled_again_from_the_start(settings, tenant):
    async def scenario():
        story = race(tenant, 1_000, 2_000)
        follower = LeaderboardFollower(settings)
        await follower.open(tenant, story.stream)
        await follower.apply(story.batch(1, 6))
        with redis.Redis.from_url(settings.redis_url) as client:
            client.delete(*client.scan_iter(f"{Keys(tenant).prefix}*"))

        with pytest.raises(ProjectionError, match=r"Redis lost its data.* filled again from event 1"):
            await follower.apply(story.batch(7, len(story.records)))
        await follower.close()
        await show(settings, story)

        async with Boards(settings, tenant) as boards:
            assert [line.player for line in await boards.top(RACE, 5)] == ["p0", "p1"]

    asyncio.run(scenario())


@pytest.mark.parametrize("flows", [True, False], ids=["while events flow", "at rest"])
def test_a_redis_that_lost_its_data_is_said_and_filled_again_by_itself(settings, tenant, caplog, flows):
    async def scenario():
        story = race(tenant, *range(1_000, 1_030))
        upto = len(story.records) - 10 * flows
        async with Live(Leaderboards, settings, tenant, story) as live:
            await live.tell(upto)
            await live.caught_up()
            with redis.Redis.from_url(settings.redis_url) as client:
                client.delete(*client.scan_iter(f"{{tally:{tenant}}}*"))
            await live.tell(len(story.records))
            await live.caught_up()

        await require_fold(Leaderboards, settings, story)

    asyncio.run(scenario())
    assert "Redis lost its data, or another one answers: it is at 0, wanted " in caplog.text


def test_a_generation_in_the_making_is_not_seen_by_readers(settings, tenant):
    async def scenario():
        story = race(tenant, 1_000, 2_000)
        follower = LeaderboardFollower(settings, generation="2")
        await follower.open(tenant, story.stream)
        await follower.apply(story.batch(1, len(story.records)))
        await follower.close()

        async with Boards(settings, tenant) as boards:
            assert await boards.size(RACE) == 0
            with redis.Redis.from_url(settings.redis_url) as client:
                client.set(Keys(tenant).live, "2")
            assert await boards.size(RACE) == 2

    asyncio.run(scenario())


def test_a_redis_that_is_not_there_is_one_line(tenant):
    class Nowhere:
        redis_url = "redis://127.0.0.1:1/0"

    async def scenario():
        async with Boards(Nowhere(), tenant) as boards:
            await boards.top(RACE, 1)

    with pytest.raises(SinkUnavailable, match="TALLY_REDIS_URL") as refused:
        asyncio.run(scenario())
    assert "\n" not in str(refused.value)
