"""Events that have no row: their aggregate waits in order and the rest goes on, through maintenance and restarts."""

import asyncio

import pytest

from adapters.generations import generations
from bus.envelope import Recorded
from projections import analytics
from projections.errors import Inconsistent, Unprojectable
from projections.generations import LIVE
from tests.lake.lakes import EAGER, Lake, derived_in, derived_of
from tests.projections.stories import random_story


class Broken(Exception):
    pass


@pytest.fixture
def own(tmp_path, tenant):
    return Lake(tmp_path, tenant)


@pytest.fixture
def told(tenant):
    """A story, and the event in its middle from which its player's account is parked."""
    story = random_story(tenant, seed=71, events=150, minutes=50)
    poison = next(r for r in story.records if r.stream_seq > 50 and r.event.type == "tokens-minted/1")
    return story, poison


def break_projection(monkeypatch, poison):
    project = analytics.project

    def fail(records):
        if any(record.stream_seq == poison.stream_seq for record in records):
            raise Broken("no such\nthing")
        return project(records)

    monkeypatch.setattr(analytics, "project", fail)


def parked_line(own, tenant):
    return asyncio.run(generations("analytics", own, tenant).standing(LIVE)).parked


def sequences(own):
    return sorted(row["stream_seq"] for row in own.table("events"))


def test_the_aggregate_waits_in_order_the_rest_goes_on_and_a_fix_applies_it(own, tenant, told, monkeypatch):
    story, poison = told
    subject = poison.event.subject
    waiting = [r.stream_seq for r in story.records if r.event.subject == subject and r.stream_seq >= poison.stream_seq]
    every = [record.stream_seq for record in story.records]
    break_projection(monkeypatch, poison)
    own.feed(story, up_to=100, pieces=2)
    own.feed(story, pieces=2)

    assert parked_line(own, tenant) == (
        f"{len(waiting)} events of 1 aggregates parked, the first is event {poison.stream_seq} ({subject}): "
        "Broken: no such thing"
    )
    assert sequences(own) == [seq for seq in every if seq not in waiting]
    own.age()
    own.maintain()
    before = [record for record in story.records if record.stream_seq < poison.stream_seq]
    assert derived_in(own) == derived_of(before)

    monkeypatch.undo()
    own.feed(story)
    own.maintain(EAGER)

    assert parked_line(own, tenant) == ""
    assert sequences(own) == every
    assert derived_in(own) == derived_of(story.records)


def test_what_nobody_can_read_waits_alone_and_is_named(own, tenant, told):
    story, _ = told
    story.records[80:82] = [
        Recorded(81, b"{"),
        Recorded(82, story.records[81].body.replace(b'"time":"20', b'"time":"no')),
    ]

    own.feed(story, pieces=2)

    behind = [r.stream_seq for r in story.records[82:] if r.event.subject == story.records[81].event.subject]
    assert parked_line(own, tenant).startswith(f"{2 + len(behind)} events of 2 aggregates parked, the first is")
    assert sequences(own) == [seq for seq in range(1, len(story.records) + 1) if seq not in {81, 82, *behind}]


def test_a_generation_in_the_making_stops_on_it_and_names_it(own, tenant, told, monkeypatch):
    story, poison = told
    break_projection(monkeypatch, poison)

    async def fill():
        follower = await generations("analytics", own, tenant).follower("next")
        await follower.open(tenant, story.stream)
        try:
            await follower.apply(story.batch(1, len(story.records)))
        finally:
            await follower.close()

    with pytest.raises(Unprojectable, match=rf"event {poison.stream_seq} \({poison.event.subject}\).*no such thing"):
        asyncio.run(fill())


def test_parked_events_whose_file_is_gone_are_named_with_the_way_out(own, tenant, told, monkeypatch):
    story, poison = told
    break_projection(monkeypatch, poison)
    own.feed(story)
    for path in own.stored():
        if path.parent.name == "parked":
            path.unlink()

    with pytest.raises(Inconsistent, match=rf"parked from {poison.stream_seq} on .*tally rebuild analytics --accept"):
        own.feed(story)
