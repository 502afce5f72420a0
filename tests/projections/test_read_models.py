"""Read models in PostgreSQL: migrations, books that balance, rows that somebody touched, and what people ask."""

import asyncio
import re

import psycopg
import pytest
from sinks import ReadModels
from stories import START_MS, Story, finish, fold, publish, random_story
from test_followers import require_fold
from test_rebuild import Live

from adapters import postgres
from adapters.postgres_queries import player_page, quest_page, sums
from adapters.postgres_readmodels import ReadModelFollower
from adapters.postgres_schema import IDENTIFIER_BYTES_MAX, schema_of
from adapters.postgres_statements import statement
from domain.player import AbandonQuest, AcceptQuest, ReachStep, RegisterPlayer
from domain.token import MintTokens, TransferTokens
from projections.errors import Fenced, Inconsistent, NotFound, ProjectionError, SinkUnavailable
from projections.read_models import TREASURY


async def write(settings, story, upto=None):
    follower = ReadModelFollower(settings)
    position = await follower.open(story.tenant, story.stream)
    try:
        await follower.apply(story.batch(position.stream_seq + 1, upto or len(story.records)))
    finally:
        await follower.close()


def by_hand(settings, tenant, statement):
    with psycopg.connect(settings.postgres_dsn, options=f'-c search_path="{schema_of(tenant)}"') as connection:
        return connection.execute(statement).rowcount


def two_players(tenant):
    story = Story(tenant)
    publish(story)
    for player in ("ann", "bob"):
        story.tell("player", player, RegisterPlayer(region="USA"))
    story.tell("token", "ann", MintTokens(amount=50, reason='a "gift", \\ or so'))
    story.tell("token", "ann", TransferTokens(recipient="bob", amount=20))
    return story


def test_books_are_never_seen_between_the_two_halves_of_a_transfer(settings, tenant):
    async def scenario():
        story = two_players(tenant)
        follower = ReadModelFollower(settings)
        await follower.open(tenant, story.stream)
        sent = len(story.records) - 1

        await follower.apply(story.batch(1, sent))
        half = await sums(settings, tenant)
        await follower.idle()
        await follower.apply(story.batch(sent + 1, sent + 1))
        whole = await sums(settings, tenant)
        await follower.close()

        assert (half.stream_seq, half.balances, half.treasury) == (sent - 1, 50, -50)
        assert (whole.stream_seq, whole.balances, whole.treasury) == (sent + 1, 50, -50)
        assert whole.accounts == 2

    asyncio.run(scenario())


def test_a_postgresql_that_lost_its_data_or_was_restored_is_said_and_filled_again_also_at_rest(
    settings, tenant, caplog
):
    def copies(old, new):
        """As a backup does: all tables of a schema as they are at this moment."""
        with psycopg.connect(settings.postgres_dsn) as connection:
            found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [old])
            return [
                (f'TRUNCATE "{new}".{table}', f'INSERT INTO "{new}".{table} SELECT * FROM "{old}".{table}')
                for (table,) in found.fetchall()
            ]

    def run(*statements):
        with psycopg.connect(settings.postgres_dsn) as connection:
            for statement in statements:
                connection.execute(statement)

    async def scenario():
        story = random_story(tenant, seed=71, events=300)
        schema = schema_of(tenant)
        async with Live(ReadModels, settings, tenant, story) as live:
            await live.tell(120)
            await live.caught_up()
            yesterday = [
                statement.replace("INSERT INTO", "CREATE TABLE").replace(" SELECT", " AS SELECT")
                for _, statement in copies(schema, f"backup of {tenant}")
            ]
            run(f'CREATE SCHEMA "backup of {tenant}"', *yesterday)
            await live.tell(len(story.records))
            await live.caught_up()

            run(*(statement for both in copies(f"backup of {tenant}", schema) for statement in both))
            await live.caught_up()
            await require_fold(ReadModels, settings, story)
            run(f'DROP SCHEMA "{schema}" CASCADE', f'DROP SCHEMA "backup of {tenant}" CASCADE')
            await live.caught_up()

        await require_fold(ReadModels, settings, story)

    asyncio.run(scenario())
    assert re.search(r"lost its data, .* it is at 0, wanted 30\d; nothing to do, it goes on from event 1;", caplog.text)
    assert re.search(r"was restored, .* it is at 12\d, wanted 30\d; nothing to do", caplog.text)


def test_a_schema_can_be_migrated_again_and_by_several_at_once(settings, tenant):
    async def scenario():
        story = two_players(tenant)
        followers = [ReadModelFollower(settings) for _ in range(4)]

        positions = await asyncio.gather(*(follower.open(tenant, story.stream) for follower in followers))
        await asyncio.gather(*(follower.close() for follower in followers))

        assert {position.stream_seq for position in positions} == {0}

    asyncio.run(scenario())


def test_a_schema_of_a_newer_version_is_refused(settings, tenant):
    async def scenario():
        story = two_players(tenant)
        await write(settings, story)
        by_hand(settings, tenant, "INSERT INTO migrations (version) VALUES (999)")

        with pytest.raises(ProjectionError, match="schema version 999"):
            await ReadModelFollower(settings).open(tenant, story.stream)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "damage",
    ["DELETE FROM attempts", "DELETE FROM quest_steps", "DELETE FROM players", "DELETE FROM quests"],
)
def test_rows_that_somebody_took_away_are_missed_when_they_change(settings, tenant, damage):
    async def scenario():
        story = Story(tenant)
        publish(story)
        story.tell("player", "ann", RegisterPlayer())
        story.tell("player", "ann", AcceptQuest(quest="race"))
        await write(settings, story)
        before = len(story.records)
        story.tell("player", "ann", ReachStep(quest="race", step="5k", elapsed_ms=1_000))
        finish(story, "ann", 9_000)
        assert by_hand(settings, tenant, damage)

        with pytest.raises(Inconsistent, match="something else changed"):
            await write(settings, story)

        assert (await postgres.read_position(settings, tenant)).stream_seq == before

    asyncio.run(scenario())


def test_a_row_that_is_there_too_early_is_refused(settings, tenant):
    async def scenario():
        story = two_players(tenant)
        await write(settings, story, upto=2)
        by_hand(settings, tenant, "INSERT INTO players VALUES ('bob', NULL, NULL, now(), 0, 1)")

        with pytest.raises(Inconsistent, match="players_pkey"):
            await write(settings, story)

    asyncio.run(scenario())


def test_a_database_restored_to_yesterday_goes_on_from_there(settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=21)
        await write(settings, story, upto=200)
        with psycopg.connect(settings.postgres_dsn) as connection:
            tables = [row[0] for row in connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema_of(tenant)]
            )]  # fmt: skip
        backup = f'"{schema_of(tenant)}.backup"'
        by_hand(settings, tenant, f"CREATE SCHEMA {backup}")
        for table in tables:
            by_hand(settings, tenant, f"CREATE TABLE {backup}.{table} AS SELECT * FROM {table}")
        running = ReadModelFollower(settings)
        await running.open(tenant, story.stream)
        reached = await at(settings, tenant)
        await running.apply(story.batch(reached + 1, 300))
        reached = 300
        for table in tables:
            by_hand(settings, tenant, f"TRUNCATE {table}")
            by_hand(settings, tenant, f"INSERT INTO {table} SELECT * FROM {backup}.{table}")

        with pytest.raises(Fenced):
            await running.apply(story.batch(reached + 1, 350))
        await running.close()
        await write(settings, story)

        wanted = fold([record.body for record in story.records])
        assert await ReadModels.found(settings, tenant, wanted) == ReadModels.wanted(wanted)

    asyncio.run(scenario())


async def at(settings, tenant):
    return (await postgres.read_position(settings, tenant)).stream_seq


def test_a_players_page_holds_profile_badges_attempts_and_steps(settings, tenant):
    async def scenario():
        story = Story(tenant)
        publish(story)
        story.tell("player", "ann", RegisterPlayer(region="USA", cohort="c1"))
        story.tell("player", "ann", AcceptQuest(quest="race", divisions=("runners",)))
        story.tell("player", "ann", AbandonQuest(quest="race", reason="rain"))
        story.tell("player", "ann", AcceptQuest(quest="race", divisions=("runners",)), START_MS + 1)
        story.tell("player", "ann", ReachStep(quest="race", step="10k", elapsed_ms=2_000))
        story.tell("player", "ann", ReachStep(quest="race", step="5k", elapsed_ms=1_000))
        finish(story, "ann", 9_000)
        await write(settings, story)

        page = await player_page(settings, tenant, "ann")

        assert (page.region, page.cohort, page.xp, page.level, page.balance) == ("USA", "c1", 1020, 4, 26)
        assert [badge.badge for badge in page.badges] == ["finisher"]
        first, second = page.attempts
        assert (first.attempt, first.status, first.elapsed_ms) == (1, "abandoned", None)
        assert (second.attempt, second.status, second.elapsed_ms, second.steps_reached) == (2, "completed", 9_000, 2)
        assert [(step.step, step.elapsed_ms) for step in second.steps] == [("5k", 1_000), ("10k", 2_000)]

    asyncio.run(scenario())


def test_a_statement_shows_the_newest_movements_with_the_balance_after_each(settings, tenant):
    async def scenario():
        story = two_players(tenant)
        await write(settings, story)

        ann = await statement(settings, tenant, "ann", 10)
        newest = await statement(settings, tenant, "ann", 1)
        treasury = await statement(settings, tenant, TREASURY, 10)

        assert ann.balance == 30
        assert [(p.amount, p.balance, p.counterparty) for p in ann.postings] == [(50, 50, TREASURY), (-20, 30, "bob")]
        assert ann.postings[0].reason == 'a "gift", \\ or so'
        assert ([p.amount for p in newest.postings], newest.postings_total) == ([-20], 2)
        assert treasury.balance == -50

    asyncio.run(scenario())


def test_a_quests_funnel_counts_accepted_steps_completed_and_abandoned(settings, tenant):
    async def scenario():
        story = Story(tenant)
        publish(story, supply=1)
        for player in ("ann", "bob", "cyd"):
            story.tell("player", player, RegisterPlayer())
            story.tell("player", player, AcceptQuest(quest="race"))
        for player in ("ann", "bob"):
            story.tell("player", player, ReachStep(quest="race", step="5k", elapsed_ms=1_000))
            finish(story, player, 9_000)
        story.tell("player", "cyd", AbandonQuest(quest="race", reason=""))
        await write(settings, story)

        page = await quest_page(settings, tenant, "race")

        assert (page.accepted, page.completed, page.abandoned, page.best_ms) == (3, 2, 1, 9_000)
        assert (page.taken, page.supply) == (1, 1)
        assert [(step.step, step.reached) for step in page.steps] == [("5k", 2), ("10k", 0), ("half", 0), ("40k", 0)]

    asyncio.run(scenario())


@pytest.mark.parametrize("ask", [player_page, quest_page, lambda *what: statement(*what, 5)])
def test_what_is_not_there_is_said_in_one_line(settings, tenant, ask):
    asyncio.run(write(settings, two_players(tenant)))

    with pytest.raises(NotFound, match="nothing-like-it"):
        asyncio.run(ask(settings, tenant, "nothing-like-it"))


def test_read_models_that_were_never_made_are_one_line(settings, tenant):
    with pytest.raises(SinkUnavailable, match="no read models of this tenant"):
        asyncio.run(player_page(settings, tenant, "ann"))


def test_schemas_of_different_tenants_differ_however_long_their_names_are():
    tenants = ["a" * 64, "a" * 63 + "b", "a" * 50, "a-b", "a_b", "A_b"]

    names = {schema_of(tenant, generation) for tenant in tenants for generation in ("", "2")}

    assert len(names) == 2 * len(tenants)
    assert max(len(name.encode()) for name in names) <= IDENTIFIER_BYTES_MAX
