"""Events that a projector fails on: their aggregate waits in order, the rest goes on, a fix applies them."""

import asyncio

import pytest
from sinks import ReadModels
from stories import Story, finish, publish
from test_followers import feed, require_fold
from test_rebuild import Live

from adapters.generations import generations
from bus.envelope import Recorded
from domain.token import MintTokens
from projections import read_models
from projections.errors import Unprojectable
from projections.generations import LIVE
from projections.parking import Parked, project_or_park, ready


class Broken(Exception):
    pass


def failing_on(stream_seq, project=read_models.project):
    def fail(records):
        if any(record.stream_seq == stream_seq for record in records):
            raise Broken("no such\nthing")
        return project(records)

    return fail


def told(tenant):
    """Three finishers; then each is given tokens. Returns the story and the event that is poison: p1's first mint."""
    story = Story(tenant)
    publish(story)
    for player in ("p0", "p1", "p2"):
        finish(story, player, 9_000_000)
    poison = next(r for r in story.records if r.event.subject == "token/p1").stream_seq
    for amount in (1, 2, 3):
        for player in ("p0", "p1", "p2"):
            story.tell("token", player, MintTokens(amount=amount, reason="gift"))
    return story, poison


def test_the_aggregate_waits_in_order_the_rest_goes_on_and_a_fix_applies_it(settings, tenant, monkeypatch):
    async def scenario():
        story, poison = told(tenant)
        whole = read_models.project
        monkeypatch.setattr(read_models, "project", failing_on(poison))
        position = await feed(ReadModels, settings, story, Dice(), upto=None)
        standing = await generations("readmodels", settings, tenant).standing(LIVE)

        assert position.stream_seq == len(story.records)
        assert standing.parked == (
            f"4 events of 1 aggregates parked, the first is event {poison} (token/p1): Broken: no such thing"
        )

        monkeypatch.setattr(read_models, "project", whole)
        follower = ReadModels.follower(settings)
        await follower.open(tenant, story.stream)
        await follower.close()

        assert (await generations("readmodels", settings, tenant).standing(LIVE)).parked == ""
        await require_fold(ReadModels, settings, story)

    asyncio.run(scenario())


class Dice:
    """Batches of seven."""

    def randrange(self, *_):
        return 7


def test_a_rebuild_stops_on_it_names_it_and_leaves_the_live_one(settings, tenant, monkeypatch):
    async def scenario():
        story, poison = told(tenant)
        async with Live(ReadModels, settings, tenant, story) as live:
            await live.tell(len(story.records))
            await live.caught_up()
            before = await live.store().state(LIVE)
            monkeypatch.setattr(read_models, "project", failing_on(poison))

            with pytest.raises(Unprojectable, match=rf"event {poison} \(token/p1\)") as stopped:
                await live.rebuild().run(is_accepted=False)

            monkeypatch.undo()
            assert "\n" not in str(stopped.value)
            assert await live.store().state(LIVE) == before

    asyncio.run(scenario())


def test_events_behind_a_parked_one_wait_and_are_ready_in_order(tenant):
    story, poison = told(tenant)
    wanted = [r.stream_seq for r in story.records if r.event.subject == "token/p1"]
    seen = []

    def project(records):
        seen.extend(record.stream_seq for record in records)
        return len(records)

    writes, parked = project_or_park("x", failing_on(poison, len), story.records, {}, is_live=True)
    still, more = project_or_park("x", len, story.records, {"token/p1": poison}, is_live=True)

    assert writes == still == len(story.records) - len(wanted)
    assert [one.stream_seq for one in parked] == [one.stream_seq for one in more] == wanted
    assert {one.reason for one in parked[1:]} == {f"behind event {poison}"}
    assert ready(project, parked) == [("token/p1", len(wanted))]
    assert seen == wanted
    assert ready(failing_on(poison), parked) == []


def test_a_body_that_is_no_event_waits_alone():
    good = told("t")[0].records[0]

    def project(records):
        return [record.event.type for record in records]

    writes, parked = project_or_park("x", project, [good, Recorded(2, b"{")], {}, is_live=True)

    assert len(writes) == 1
    assert [(one.stream_seq, one.subject) for one in parked] == [(2, "event/2")]
    assert isinstance(parked[0], Parked)


def test_when_no_single_event_is_to_blame_nothing_is_parked():
    records = told("t")[0].records[:3]

    def project(records):
        if len(records) > 1:
            raise Broken("together")
        return records

    with pytest.raises(Unprojectable, match="a whole batch"):
        project_or_park("x", project, records, {}, is_live=True)
