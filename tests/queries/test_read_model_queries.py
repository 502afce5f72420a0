"""Read models over NATS: what a service in any language is told."""

import asyncio
import sys
from pathlib import Path

import psycopg
import pytest
from asking import answering

sys.path.append(str(Path(__file__).parents[1] / "projections"))

from stories import random_story
from test_read_models import write

from adapters import postgres
from adapters.postgres_statements import statement
from projections.read_models import TREASURY


@pytest.fixture(scope="module")
def story(settings):
    told = random_story("t-asked", seed=90, events=200)
    asyncio.run(write(settings, told))
    return told


def test_a_page_a_statement_a_funnel_the_books_and_days_are_answered(settings, story):
    tenant = story.tenant

    async def scenario():
        async with answering(settings, tenant) as asker:
            _, page = await asker.ask("player.p1")
            _, then = await asker.ask("player.p1", {"as_of": "2014-04-22"})
            _, account = await asker.ask("account.p1", {"lines": 5})
            _, treasury = await asker.ask("treasury")
            _, funnel = await asker.ask("quest.race.funnel", {"as_of": "2014-04-22"})
            _, books = await asker.ask("books")
            _, days = await asker.ask("days", {"first": "2014-04-01", "last": "2014-04-30"})
            wanted = await statement(settings, tenant, TREASURY, 20)

        assert page["player"] == then["player"] == "p1"
        assert page["balance"] == account["balance"]
        assert treasury["balance"] == wanted.balance
        assert funnel["accepted"] > funnel["completed"] > 0
        assert books == {"balances": 0, "postings": 0, "accounts_off": 0}
        assert sum(day["accepted"] for day in days["days"]) > 0

    asyncio.run(scenario())


NOS = (
    ("player.nobody", None, "404"),
    ("account.nobody", {"as_of": "2014-04-21"}, "404"),
    ("quest.nothing.funnel", None, "404"),
    ("player.p1", {"as_of": "soon"}, "400"),
    ("player.p1", {"asof": "2014-04-21"}, "400"),
    ("account.p1", {"lines": 1001}, "400"),
    ("days", {"first": "2014-04-30", "last": "2014-04-01"}, "400"),
    ("days", {"first": "1014-04-30", "last": "2014-04-01"}, "400"),
)


def test_a_no_says_why(settings, story):
    async def scenario():
        async with answering(settings, story.tenant) as asker:
            return [await asker.ask(path, request) for path, request, _ in NOS]

    answers = asyncio.run(scenario())

    assert [code for code, _ in answers] == [code for *_, code in NOS]
    assert all(line for _, line in answers)


def test_queries_share_few_connections_and_outlive_their_ends(settings, story):
    tenant = story.tenant

    async def scenario():
        readers = postgres.Readers(settings, 3)
        answers = await asyncio.gather(*(statement(readers, tenant, "p1", 5) for _ in range(20)))
        with psycopg.connect(settings.postgres_dsn, autocommit=True) as administrator:
            idle = sum(map(len, readers._idle.values()))
            for connection in readers._idle[tenant]:
                administrator.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
        again = await statement(readers, tenant, "p1", 5)
        await readers.close()
        return answers, idle, again

    answers, idle, again = asyncio.run(scenario())

    assert idle <= 3
    assert all(answer == again for answer in answers)


def test_a_tenant_without_read_models_is_answered_with_what_to_do(settings, tenant):
    async def scenario():
        async with answering(settings, tenant) as asker:
            return await asker.ask("player.p1")

    code, line = asyncio.run(scenario())

    assert code == "503"
    assert "tally up" in line
