"""An event that the leaderboards fail on: its aggregate waits in order, the rest goes on, a fix applies it."""

import asyncio
import random

import pytest
from board_fold import board_fold
from sinks import Leaderboards
from stories import Story, finish, publish
from test_defined_boards import DEFINED, contents, make
from test_followers import feed
from test_parking import Broken
from test_rebuild import Live

from adapters.generations import generations
from domain.token import MintTokens
from projections.errors import Unprojectable
from projections.generations import LIVE
from projections.leaderboards import Projector


def told(tenant):
    """Three finishers of two quests, with tokens; returns the story and the poison: p1's first completion."""
    story = Story(tenant)
    for quest in ("race", "hunt"):
        publish(story, quest)
    for quest, elapsed_ms in (("race", 9_000_000), ("hunt", 600_000)):
        for player in ("p0", "p1", "p2"):
            finish(story, player, elapsed_ms, quest=quest)
            story.tell("token", player, MintTokens(amount=7, reason="gift"))
    kinds = [(record.event.type, record.event.subject) for record in story.records]
    return story, 1 + kinds.index(("quest-completed/1", "player/p1"))


def break_projection(monkeypatch, poison):
    whole = Projector.project

    def fail(self, records):
        if any(record.stream_seq == poison for record in records):
            raise Broken("no such\nthing")
        return whole(self, records)

    monkeypatch.setattr(Projector, "project", fail)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_aggregate_waits_in_order_the_rest_goes_on_and_a_fix_applies_it(settings, tenant, monkeypatch, seed):
    async def scenario():
        await make(settings, tenant)
        story, poison = told(tenant)
        waiting = [r for r in story.records if r.event.subject == "player/p1" and r.stream_seq >= poison]
        break_projection(monkeypatch, poison)

        position = await feed(Leaderboards, settings, story, random.Random(seed))

        bodies = [b"" if r in waiting else r.body for r in story.records]
        standing = await generations("leaderboards", settings, tenant).standing(LIVE)
        assert position.stream_seq == len(story.records)
        assert standing.parked == (
            f"{len(waiting)} events of 1 aggregates parked, the first is event {poison} (player/p1): "
            "Broken: no such thing"
        )
        assert await contents(settings, tenant) == board_fold(bodies, DEFINED)

        monkeypatch.undo()
        follower = Leaderboards.follower(settings)
        assert await follower.open(tenant, story.stream) == position
        await follower.close()

        assert (await generations("leaderboards", settings, tenant).standing(LIVE)).parked == ""
        assert await contents(settings, tenant) == board_fold([r.body for r in story.records], DEFINED)

    asyncio.run(scenario())


def test_after_a_restart_what_is_parked_still_holds_back_its_aggregate(settings, tenant, monkeypatch):
    async def scenario():
        story, poison = told(tenant)
        break_projection(monkeypatch, poison)
        await feed(Leaderboards, settings, story, random.Random(1), upto=poison + 2)
        await feed(Leaderboards, settings, story, random.Random(1))

        found = await contents(settings, tenant)

        assert [player for player, _ in found["quest:hunt"]] == ["p0", "p2"]
        monkeypatch.undo()
        await feed(Leaderboards, settings, story, random.Random(1))
        assert [player for player, _ in (await contents(settings, tenant))["quest:hunt"]] == ["p0", "p1", "p2"]

    asyncio.run(scenario())


def test_a_rebuild_stops_on_it_names_it_and_leaves_the_live_one(settings, tenant, monkeypatch):
    async def scenario():
        story, poison = told(tenant)
        async with Live(Leaderboards, settings, tenant, story) as live:
            await live.tell(len(story.records))
            await live.caught_up()
            before = await live.store().state(LIVE)
            break_projection(monkeypatch, poison)

            with pytest.raises(Unprojectable, match=rf"event {poison} \(player/p1\)"):
                await live.rebuild().run(is_accepted=False)

            monkeypatch.undo()
            assert await live.store().state(LIVE) == before

    asyncio.run(scenario())
