"""Migrations on a live schema: from the last released one forward, while a reader and a projector use it."""

import asyncio
import contextlib
import json
import queue
import threading
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sinks import ReadModels
from stories import fold, random_story
from test_read_models import by_hand, write

from adapters import postgres, postgres_migrations
from adapters.postgres_generations import ReadModelGenerations
from adapters.postgres_queries import player_page, sums
from adapters.postgres_readmodels import ReadModelFollower
from adapters.postgres_roles import OWNER, READER, WRITER, role_of
from adapters.postgres_schema import MIGRATIONS, READ_MODELS, Migration, Tables, schema_of
from bus.envelope import Recorded
from bus.follower import StreamIdentity
from projections.errors import Fenced, NewerSchema, SinkUnavailable, Switched
from projections.generations import LIVE, NEXT, PREVIOUS

FROZEN = Path(__file__).parent / "frozen"
STREAM = StreamIdentity("EVENTS_frozen", "2026-11-21T10:00:00.123456789Z")
FROZEN_SEQ = 250


def restore(settings, tenant):
    """What version 4 of the schema held after 250 events, and all the events of that stream."""
    dump = (FROZEN / "readmodels-4.sql").read_text("utf-8").replace("tally_frozen", f'"{schema_of(tenant)}"')
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
        connection.execute(dump)  # type: ignore[arg-type]
    bodies = (FROZEN / "readmodels-4.jsonl").read_bytes().splitlines()
    return [Recorded(seq, body) for seq, body in enumerate(bodies, 1)]


def old_reader(settings, tenant, stop, seen):
    """A program that was there before, and reads all the time."""

    def read():
        dsn, options = settings.postgres_dsn, f'-c search_path="{schema_of(tenant)}" -c lock_timeout=10000'
        with psycopg.connect(dsn, options=options) as connection:
            while not stop.is_set():
                with connection.transaction():
                    row = connection.execute(
                        "SELECT (SELECT sum(amount) FROM postings), (SELECT sum(balance) FROM accounts), "
                        "(SELECT count(*) FROM attempts)"
                    ).fetchone()
                seen.put(row)

    return asyncio.to_thread(read)


async def project(settings, tenant, records):
    """A projector of this version that goes on until all is there."""
    while True:
        follower = ReadModelFollower(settings)
        with contextlib.suppress(Switched, Fenced):
            reached = (await follower.open(tenant, STREAM)).stream_seq
            while reached < len(records):
                await follower.apply(records[reached : reached + 7])
                reached = min(reached + 7, len(records))
        await follower.close()
        if (await postgres.read_position(settings, tenant)).stream_seq >= len(records):
            return


def test_the_frozen_schema_goes_forward_with_its_rows_while_it_is_read_and_written(settings, tenant):
    async def scenario():
        records = restore(settings, tenant)
        stop, seen = threading.Event(), queue.SimpleQueue()
        reading = asyncio.create_task(old_reader(settings, tenant, stop, seen))
        first = await asyncio.to_thread(seen.get)

        try:
            await asyncio.gather(*(project(settings, tenant, records) for _ in range(2)))
        finally:
            stop.set()
            await reading

        rows = [first, *(seen.get() for _ in range(seen.qsize()))]
        assert {(total, balances) for total, balances, _ in rows} == {(0, 0)}
        assert rows[0][2] < rows[-1][2]
        wanted = fold([record.body for record in records])
        found, wanted = await ReadModels.found(settings, tenant, wanted), ReadModels.wanted(wanted)
        xp, wanted_xp = found.pop("xp_awards"), wanted.pop("xp_awards")
        assert found == wanted
        # The history of XP cannot be told from rows: it begins with the migration, and a rebuild brings the rest.
        assert 0 < len(xp) < len(wanted_xp)
        assert [row for row in xp if row not in wanted_xp] == []

    asyncio.run(scenario())


def test_a_migrated_schema_and_a_new_one_are_the_same_to_a_rebuild(settings, tenant):
    async def scenario():
        records = restore(settings, tenant)
        store = ReadModelGenerations(settings, tenant)
        await store.prepare()
        fresh = await store.follower(NEXT)
        await fresh.open(tenant, STREAM)
        await fresh.apply(records[:FROZEN_SEQ])
        await fresh.close()

        live, next_ = await store.state(LIVE), await store.state(NEXT)

        different = {name for name in live.hashes if live.hashes[name] != next_.hashes[name]}
        assert different == {"xp_awards"}
        assert (live.version, next_.version) == (1, READ_MODELS.version)
        assert {"days", "quest_days", "attempts", "postings"} < set(live.hashes)

    asyncio.run(scenario())


def test_a_generation_that_goes_live_has_every_key_index_policy_and_right_of_the_one_before(settings, tenant):
    def made(connection, schema):
        def ask(query):
            return sorted(str(row).replace(schema, "") for row in connection.execute(query, [schema]).fetchall())

        return (
            ask("SELECT indexdef FROM pg_indexes WHERE schemaname = %s"),
            ask("SELECT tablename, policyname, roles, cmd, qual, with_check FROM pg_policies WHERE schemaname = %s"),
            ask("SELECT relname, relacl, relforcerowsecurity, reloptions FROM pg_class "
                "WHERE relnamespace = to_regnamespace(quote_ident(%s)) AND relkind IN ('r', 'v')"),
            ask("SELECT nspacl FROM pg_namespace WHERE nspname = %s"),
        )  # fmt: skip

    async def scenario():
        story = random_story(tenant, seed=74, events=60)
        await write(settings, story)
        store = ReadModelGenerations(settings, tenant)
        follower = await store.follower(NEXT)
        await follower.open(tenant, story.stream)

        async def feed(upto_seq):
            await follower.apply(story.batch(1, upto_seq))
            await follower.idle()

        await store.switch(NEXT, feed)
        await follower.close()

    asyncio.run(scenario())

    with psycopg.connect(settings.postgres_dsn) as connection:
        live, previous = (made(connection, schema_of(tenant, generation)) for generation in (LIVE, PREVIOUS))
    assert live == previous
    assert [len(part) for part in live] > [14, 28, 17, 0]


def test_a_projector_of_the_former_version_is_told_that_it_was_overtaken(settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=70, events=80)
        await write(settings, story, upto=40)
        former = ReadModelFollower(settings)
        position = await former.open(tenant, story.stream)
        later = Tables(READ_MODELS.name, 2, (*MIGRATIONS, Migration("CREATE TABLE more (x integer)")))
        connection = await postgres.connect(settings, tenant, role=OWNER)
        await postgres_migrations.migrate(connection, tenant, LIVE, later)
        await connection.close()

        with pytest.raises(Switched):
            await former.apply(story.batch(position.stream_seq + 1, 60))
        for use in (former.open(tenant, story.stream), sums(settings, tenant)):
            with pytest.raises(NewerSchema, match=r"version 7, this program knows 6; upgrade tallyroot"):
                await use
        await former.close()

        assert (by_hand(settings, tenant, "SELECT FROM more"), by_hand(settings, tenant, "SELECT FROM migrations")) == (
            0,
            7,
        )

    asyncio.run(scenario())


def test_a_reader_of_a_schema_that_is_behind_is_told_who_brings_it_forward(settings, tenant):
    restore(settings, tenant)

    with pytest.raises(SinkUnavailable, match="tally up"):
        asyncio.run(player_page(settings, tenant, "p1"))


def test_a_migration_gives_up_its_place_in_the_queue_and_goes_through_when_the_long_reader_ends(
    settings, tenant, monkeypatch
):
    monkeypatch.setattr(postgres_migrations, "LOCK_WAIT_MS", 50)
    monkeypatch.setattr(postgres_migrations, "LOCK_PAUSE_S", 0.05)
    tables = Tables(READ_MODELS.name, 2, (*MIGRATIONS, Migration("ALTER TABLE players ADD COLUMN more text")))

    async def scenario():
        await write(settings, random_story(tenant, seed=71, events=40))
        connection = await postgres.connect(settings, tenant, role=OWNER)
        async with postgres.reading(settings, tenant) as reader:
            await postgres.rows(reader, "SELECT player FROM players", [])
            monkeypatch.setattr(postgres_migrations, "LOCK_TRIES", 2)
            with pytest.raises(SinkUnavailable, match="end long transactions"):
                await postgres_migrations.migrate(connection, tenant, LIVE, tables)
            monkeypatch.setattr(postgres_migrations, "LOCK_TRIES", 1000)
            migrating = asyncio.create_task(postgres_migrations.migrate(connection, tenant, LIVE, tables))
            await asyncio.sleep(0.3)
            assert not migrating.done()
            # Who comes later than the migration does not wait behind it for longer than one try.
            assert (await sums(settings, tenant)).unbalanced == 0
        await migrating
        await connection.close()

    asyncio.run(scenario())


def test_an_index_that_was_interrupted_is_made_again(settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=72, events=40)
        await write(settings, story, upto=30)
        by_hand(
            settings,
            tenant,
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass('postings_at')",
        )

        await write(settings, story)

        valid = "SELECT FROM pg_index WHERE indexrelid = to_regclass('postings_at') AND indisvalid"
        assert by_hand(settings, tenant, valid) == 1

    asyncio.run(scenario())


def test_a_database_that_was_restored_without_its_roles_gets_them_again(settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=73, events=60)
        await write(settings, story, upto=40)
        by_hand(settings, tenant, "DROP POLICY tally_reader ON players; DROP POLICY tally_writer ON players")
        with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
            for kind in (READER, WRITER):
                role = sql.Identifier(role_of(connection.info.dbname, tenant, kind))
                connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))

        with pytest.raises(SinkUnavailable, match="tally up"):
            await sums(settings, tenant)
        await write(settings, story)

        wanted = fold([record.body for record in story.records])
        assert await ReadModels.found(settings, tenant, wanted) == ReadModels.wanted(wanted)
        assert (await sums(settings, tenant)).stream_seq == len(story.records)

    asyncio.run(scenario())


def test_the_frozen_events_are_events_of_this_version():
    records = [
        Recorded(seq, body) for seq, body in enumerate((FROZEN / "readmodels-4.jsonl").read_bytes().splitlines(), 1)
    ]

    kinds = {record.event.type for record in records if record.data}

    assert {json.loads(record.body)["type"] for record in records} == kinds
    assert len(kinds) > 12
