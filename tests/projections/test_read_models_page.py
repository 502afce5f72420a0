"""docs/read-models.md: its SQL runs as a tenant's reader, and its tables are those that there are."""

import asyncio
import re
from pathlib import Path

import psycopg
import pytest
from stories import random_story
from test_tenants_apart import provide

from adapters.postgres_roles import reader_dsn
from adapters.postgres_schema import MIGRATIONS

PAGE = (Path(__file__).parents[2] / "docs" / "read-models.md").read_text("utf-8")
BLOCK = re.search(r"```sql\n(.*?)```", PAGE, re.DOTALL)
EXAMPLES = [part.strip() for part in BLOCK.group(1).split(";") if part.strip()]


@pytest.fixture(scope="module")
def reader(settings):
    story = random_story("t-page", seed=100, events=400, is_in_order=True)
    asyncio.run(provide(settings, story))
    with psycopg.connect(reader_dsn(settings, story.tenant), autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_page_finds_something(reader, example):
    assert reader.execute(example).fetchall()


def test_the_page_names_every_table_and_every_view(reader):
    cursor = reader.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = ANY (%s)",
        [["r", "v"]],
    )
    there = {name for (name,) in cursor.fetchall()}

    named = {
        name
        for row in re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", PAGE, re.MULTILINE)
        for name in re.findall(r"`([a-z_]+)`", row)
    }
    assert named >= there - {"migrations", "parked"}
    assert f"this program knows {len(MIGRATIONS)}" in PAGE
