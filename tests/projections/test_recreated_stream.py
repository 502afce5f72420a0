"""A stream that was deleted and made again under a projection: refused in one line, replaced when that is accepted."""

import asyncio
import logging

import pytest
from stories import random_story
from test_followers import ALL, require_fold
from test_rebuild import Live

from adapters.jetstream import streams
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import api, connect
from bus import subjects
from bus.errors import WrongStream
from projections.generations import LIVE


async def told(sink, settings, tenant, story):
    """A story that the projection has taken in; returns what it holds then."""
    async with Live(sink, settings, tenant, story) as live:
        await live.tell(len(story.records))
        await live.caught_up()
        return await live.store().state(LIVE)


async def recreate(client, tenant):
    """Delete the tenant's event stream behind everybody's back, and provision it anew."""
    answer = await api(client, f"STREAM.DELETE.{subjects.events_stream(tenant)}", {})
    assert answer["success"]
    await streams.create_tenant(client, tenant)


async def said(caplog, words):
    """The first warning with these words, once it is there."""
    while True:
        found = next((record.message for record in caplog.records if words in record.message), None)
        if found is not None:
            return found
        await asyncio.sleep(0.02)


@ALL
def test_it_is_refused_in_one_line_and_replaced_when_that_is_accepted(sink, settings, tenant, caplog):
    async def scenario():
        old, new = random_story(tenant, seed=91, minutes=50), random_story(tenant, seed=92, events=600, minutes=50)
        before = await told(sink, settings, tenant, old)
        client = await connect(settings.nats_url, "test")
        await recreate(client, tenant)
        await client.close()
        with caplog.at_level(logging.WARNING):
            async with Live(sink, settings, tenant, new) as live:
                await live.tell(len(new.records))
                line = await said(caplog, "--accept")
                assert await live.store().state(LIVE) == before

                with pytest.raises(WrongStream, match=r"tally rebuild \w+ --accept"):
                    await live.rebuild().run(is_accepted=False)
                await live.rebuild().run(is_accepted=True)
                await live.caught_up()
        await require_fold(sink, settings, new)
        assert "created" in line
        assert "\n" not in line

    asyncio.run(scenario())


def test_under_a_follower_that_runs_nothing_of_the_other_stream_is_taken(settings, tenant, caplog):
    sink = ALL.args[1][0]

    async def scenario():
        old, new = random_story(tenant, seed=93, minutes=50), random_story(tenant, seed=94, events=600, minutes=50)
        with caplog.at_level(logging.WARNING):
            async with Live(sink, settings, tenant, old) as live:
                await live.tell(len(old.records))
                await live.caught_up()
                before = await live.store().state(LIVE)
                await recreate(live.client, tenant)
                live.story, live.told = new, 0
                live._publisher = BatchPublisher(live.client)
                await live.tell(len(new.records))

                line = await said(caplog, "was made anew")

                assert len(new.records) > len(old.records)
                assert await live.store().state(LIVE) == before
                assert "\n" not in line

    asyncio.run(scenario())
