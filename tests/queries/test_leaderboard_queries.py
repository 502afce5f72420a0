"""Leaderboards over NATS: each question against the fold, and what cannot be asked."""

import asyncio
import json
import random

from asking import answering

from adapters.board_settings import define
from adapters.redis_boards import LeaderboardFollower
from tests.projections.board_fold import board_fold
from tests.projections.stories import random_story

DEFINED = {
    "zone": "Asia/Tokyo",
    "boards": [{"name": "daily", "metric": "tokens", "scope": [], "window": "day"}],
}


async def filled(settings, tenant):
    """The story that the tenant's boards were fed with."""
    await define(settings, tenant, json.dumps(DEFINED).encode())
    story = random_story(tenant, seed=51, events=600)
    follower = LeaderboardFollower(settings)
    await follower.open(tenant, story.stream)
    await follower.apply(story.batch(1, len(story.records)))
    await follower.close()
    return story


def test_every_question_about_a_board_is_answered_as_the_fold_has_it(settings, tenant):
    async def scenario():
        async with answering(settings, tenant) as asker:
            story = await filled(settings, tenant)
            folded = board_fold([record.body for record in story.records], DEFINED)
            day = folded["daily@2014-04-22"]
            asked = {"board": "daily", "window": "2014-04-22"}

            def lines(answer):
                assert answer[0] == "", answer
                return [(line["player"], line["score"]) for line in answer[1]["lines"]]

            assert lines(await asker.ask("leaderboard.top", asked)) == day[:10]
            assert lines(await asker.ask("leaderboard.top", {**asked, "first": 4, "lines": 3})) == day[3:6]
            middle = len(day) // 2
            around = {**asked, "player": day[middle][0], "lines": 1}
            assert lines(await asker.ask("leaderboard.around", around)) == day[middle - 1 : middle + 2]
            some = random.Random(1).sample(day, 5)
            friends = {**asked, "players": ["nobody", *(player for player, _ in some)]}
            assert lines(await asker.ask("leaderboard.friends", friends)) == sorted(some, key=day.index)
            for places in (False, True):
                _, answer = await asker.ask("leaderboard.friends", {**friends, "places": places})
                found = [line["place"] for line in answer["lines"]]
                assert found == [day.index(each) + 1 if places else None for each in sorted(some, key=day.index)]
            code, rank = await asker.ask("leaderboard.rank", {**asked, "player": day[-1][0]})
            assert (code, rank["board"]) == ("", "daily@2014-04-22")
            assert (rank["rank"]["line"]["place"], rank["rank"]["worse"]) == (len(day), 0)
            quest = {"quest": "race", "division": "runners"}
            assert lines(await asker.ask("leaderboard.top", quest)) == folded["division:race:runners"][:10]
            code, boards = await asker.ask("leaderboard.boards", {"past": True})
            assert (boards["zone"], boards["names"]) == ("Asia/Tokyo", sorted(folded))
            assert [board["name"] for board in boards["boards"]] == ["xp", "quest", "division", "daily"]

            for path, request, wanted, words in (
                ("top", {"board": "nope"}, "404", "there are xp, quest, division, daily"),
                ("top", {"board": "quest"}, "400", "say which quest"),
                ("top", {"window": "2014-04-21"}, "400", "has no window"),
                ("rank", {"player": "nobody"}, "404", "player nobody is not ranked in xp"),
                ("rank", {}, "400", "missing required field `player`"),
                ("friends", {"players": []}, "400", "length >= 1"),
            ):
                code, line = await asker.ask(f"leaderboard.{path}", request)
                assert (code, words in line) == (wanted, True), line

    asyncio.run(scenario())
