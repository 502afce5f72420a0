"""Segments over NATS: what a programme asks while its crowd plays."""

import asyncio
import json
import sys
from pathlib import Path

from asking import answering

sys.path.append(str(Path(__file__).parents[1] / "projections"))

from stories import random_story

from adapters import segments
from adapters.jetstream.append import BatchPublisher
from bus import subjects
from bus.ports import Message
from domain.zone import EnterZone

EVERYONE = {"not": {"zone": "moon"}}


async def append(client, tenant, records):
    publisher = BatchPublisher(client)
    messages = [
        Message(subjects.event(tenant, *record.event.subject.split("/")), record.body, None, None) for record in records
    ]
    for at in range(0, len(messages), 500):
        await publisher.append(publisher.new_id(), messages[at : at + 500])


async def found(asker, request):
    """The answer, once what was there at the start has been read."""
    async with asyncio.timeout(15):
        while True:
            code, answer = await asker.ask("segment.find", request)
            if code != "503":
                return code, answer
            assert "ask again" in answer
            await asyncio.sleep(0.05)


async def seen(asker, request, size):
    async with asyncio.timeout(15):
        while True:
            if (await asker.ask("segment.find", request))[1]["size"] == size:
                return
            await asyncio.sleep(0.02)


def test_a_segment_is_answered_follows_the_events_and_comes_back_from_its_file(settings, tenant):
    story = random_story(tenant, seed=7, events=300)
    registered = {json.loads(r.body)["subject"] for r in story.records if b"player-registered/1" in r.body}
    arrived = story.tell("player", next(iter(registered)).partition("/")[2], EnterZone(zone="north"))
    told, later = story.records[: -len(arrived)], story.records[-len(arrived) :]

    async def first():
        async with answering(settings, tenant) as asker:
            await append(asker.client, tenant, told)
            _, everyone = await found(asker, {"filter": EVERYONE, "limit": 2})
            _, nobody = await found(asker, {"filter": {"zone": "north"}})
            await append(asker.client, tenant, later)
            await seen(asker, {"filter": {"zone": "north"}}, 1)
            wrong = await asker.ask("segment.find", {"filter": {"zone": "a b"}})
            two = await asker.ask("segment.find", {"filter": {"zone": "a", "region": "b"}})
        return everyone, nobody, wrong, two

    async def again():
        async with answering(settings, tenant) as asker:
            return await found(asker, {"filter": {"zone": "north"}})

    everyone, nobody, wrong, two = asyncio.run(first())
    _, kept = asyncio.run(again())

    assert everyone["size"] == len(registered)
    assert len(everyone["players"]) == 2
    assert nobody["size"] == 0
    assert (wrong[0], two[0]) == ("400", "400")
    assert "zone, region" in two[1]
    assert kept["size"] == 1
    assert kept["stream_seq"] == len(story.records)
    assert (settings.data_dir / segments.NAME / f"{tenant}.index").exists()
