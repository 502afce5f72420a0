"""The worked example of docs/projections.md: one file and one line make a projection, live and rebuilt."""

import asyncio
import re
import sys
import types
from pathlib import Path

import psycopg
from test_rebuild import Live, stories

from adapters import generations
from adapters.postgres_schema import schema_of

PAGE = (Path(__file__).parents[2] / "docs" / "projections.md").read_text("utf-8")


def example():
    """The file and the line that the page shows."""
    file = re.search(r"```python\n(# projections/streaks\.py\n.*?)```", PAGE, re.DOTALL)
    line = re.search(r'```python\n *("streaks": tables\("projections\.streaks"\)),\n```', PAGE)
    assert file
    assert line
    return file.group(1), line.group(1)


class Streaks:
    """The example as the other sinks are fed."""

    url = "postgres_dsn"

    @staticmethod
    def follower(settings):
        return generations.follower_maker("streaks")(settings)

    @staticmethod
    async def read_position(settings, tenant):
        standing = await generations.generations("streaks", settings, tenant).standing("")
        return standing.position if standing else None


def test_the_example_of_the_page_runs_live_and_is_rebuilt(settings, tenant, monkeypatch):
    file, line = example()
    module = types.ModuleType("projections.streaks")
    exec(compile(file, "projections/streaks.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "projections.streaks", module)
    entry = eval("{" + line + "}", vars(generations))
    monkeypatch.setattr(generations, "PROJECTIONS", generations.PROJECTIONS | entry)

    async def scenario():
        story = stories.random_story(tenant, seed=50)
        async with Live(Streaks, settings, tenant, story) as live:
            await live.tell(200)
            await live.caught_up()
            done = await live.rebuild().run(is_accepted=False)
            await live.tell(len(story.records))
            await live.caught_up()
        assert done.differences == ()
        return story

    story = asyncio.run(scenario())

    completed = [record for record in story.records if record.event.type == "quest-completed/1"]
    with psycopg.connect(settings.postgres_dsn) as connection:
        schema = schema_of(tenant, projection="streaks")
        found = connection.execute(f'SELECT sum(completed)::bigint FROM "{schema}".streaks').fetchone()
    assert found == (len(completed),)
