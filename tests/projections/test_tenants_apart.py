"""A hostile session of one tenant: arbitrary SQL, and nothing of another tenant is seen or changed."""

import asyncio
import dataclasses
import json
import uuid
from contextlib import suppress

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from stories import random_story
from test_read_models import write

from adapters import postgres
from adapters.cli import main
from adapters.postgres_generations import ReadModelGenerations
from adapters.postgres_queries import sums
from adapters.postgres_readmodels import ReadModelFollower
from adapters.postgres_roles import OWNER, READER, WRITER, new_password, passfile_of, reader_dsn, role_of
from adapters.postgres_schema import schema_of
from adapters.settings import SOURCES
from domain.player import RegisterPlayer
from domain.token import MintTokens
from projections.errors import SinkUnavailable
from projections.generations import LIVE

EVERY_RELATION = """
SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE relkind IN ('r', 'v', 'm', 'p', 'f') AND nspname <> 'information_schema'
"""


def log_in(settings, tenant):
    """A session as the tenant's reader, who may write as far as the server lets anybody."""
    return psycopg.connect(
        reader_dsn(settings, tenant),
        autocommit=True,
        prepare_threshold=None,
        options="-c default_transaction_read_only=off",
    )


async def provide(settings, story):
    await write(settings, story)
    connection = await postgres.connect(settings, story.tenant, role=OWNER)
    await new_password(connection, settings, story.tenant)
    await connection.execute("ANALYZE")
    await connection.close()


@pytest.fixture(scope="module")
def neighbours(settings):
    """Two tenants; what the second one wrote holds a word that the first must never see, among other rows."""
    mine, theirs = (random_story(f"t-{uuid.uuid4().hex[:12]}", seed=60, events=150) for _ in range(2))
    word = f"secret-{uuid.uuid4().hex[:8]}"
    theirs.tell("player", word, RegisterPlayer(region=word, cohort=word))
    for _ in range(3):
        theirs.tell("token", word, MintTokens(amount=7, reason=word))
    for story in (mine, theirs):
        asyncio.run(provide(settings, story))
    return mine, theirs, word


@pytest.fixture(scope="module")
def administrator_pid(settings):
    """A session of the administrator that is there all the time."""
    with psycopg.connect(settings.postgres_dsn) as connection:
        yield connection.info.backend_pid


@pytest.fixture(scope="module")
def hostile(settings, neighbours):
    """The session of the first tenant's reader that attacks."""
    with log_in(settings, neighbours[0].tenant) as connection:
        yield connection


def seen(connection, word):
    """In which relations a session can read a word, and how many it can read."""
    found, readable = [], 0
    for (relation,) in connection.execute(EVERY_RELATION).fetchall():
        with suppress(psycopg.Error):
            holds = connection.execute(f"SELECT count(*) FROM {relation} AS r WHERE strpos(r::text, %s) > 0", [word])
            found += [relation] if holds.fetchone() != (0,) else []
            readable += 1
    return found, readable


def test_whatever_a_reader_can_select_holds_nothing_that_another_tenant_wrote(settings, neighbours, hostile):
    mine, theirs, word = neighbours

    found, readable = seen(hostile, word)
    own, _ = seen(hostile, "gift")
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as administrator:
        everything, _ = seen(administrator, word)

    assert found == []
    assert f'"{schema_of(mine.tenant)}".postings' in own
    assert readable > 50
    # The search finds what is there: in their tables, their views, and the statistics of their columns.
    assert {f'"{schema_of(theirs.tenant)}".{name}' for name in ("players", "postings", "account_statements")} < set(
        everything
    )
    assert {"pg_catalog.pg_stats", "pg_catalog.pg_statistic"} < set(everything)


REFUSED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable)
ATTACKS = """
SELECT * FROM {theirs}.players
SELECT count(*) FROM {theirs}.postings
SELECT * FROM {theirs}.daily
SELECT * FROM {theirs}.account_statements
SELECT * FROM {theirs}.books
SELECT * FROM {theirs}.position
TABLE {theirs}.migrations
SET search_path TO {theirs}; SELECT * FROM players
SET app.tenant TO '{tenant}'; SELECT * FROM {theirs}.players
SET row_security TO off; SELECT * FROM {theirs}.players
COPY {theirs}.players TO STDOUT
COPY (SELECT * FROM {theirs}.players) TO STDOUT
COPY {theirs}.players FROM STDIN
COPY (SELECT 1) TO PROGRAM 'true'
COPY (SELECT 1) TO '/tmp/tally-stolen'
DECLARE c CURSOR WITH HOLD FOR SELECT * FROM {theirs}.players
PREPARE p AS SELECT * FROM {theirs}.players; EXECUTE p
EXPLAIN ANALYZE SELECT * FROM {theirs}.players
SELECT query_to_xml('SELECT * FROM {theirs}.players', true, false, '')
SELECT table_to_xml('{theirs}.players', true, false, '')
SELECT * FROM pg_read_file('postgresql.conf')
SELECT lo_import('/etc/hostname')
SELECT pg_relation_filepath(0), * FROM pg_statistic
SELECT * FROM pg_authid
CREATE TEMP VIEW v AS SELECT * FROM {theirs}.players; SELECT * FROM v
CREATE TEMP TABLE t AS SELECT * FROM {theirs}.players
CREATE TEMP TABLE t (LIKE {theirs}.players INCLUDING STATISTICS)
DO $$ BEGIN PERFORM * FROM {theirs}.players; END $$
CREATE FUNCTION pg_temp.f() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM {theirs}.players'; SELECT pg_temp.f()
CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'
CREATE VIEW {mine}.v AS SELECT 1
CREATE SCHEMA stolen
INSERT INTO {theirs}.players VALUES ('x', NULL, NULL, now(), 0, 1)
UPDATE {theirs}.accounts SET balance = 1000000
DELETE FROM {theirs}.postings
MERGE INTO {theirs}.accounts AS a USING (SELECT 1) AS s ON true WHEN MATCHED THEN DELETE
TRUNCATE {theirs}.players
DROP TABLE {theirs}.players
DROP SCHEMA {theirs} CASCADE
BEGIN; LOCK TABLE {theirs}.position IN ACCESS SHARE MODE
BEGIN; LOCK TABLE {mine}.position IN ROW EXCLUSIVE MODE
ALTER TABLE {theirs}.players DISABLE ROW LEVEL SECURITY
ALTER TABLE {mine}.players NO FORCE ROW LEVEL SECURITY
ALTER SCHEMA {mine} RENAME TO stolen
ALTER POLICY tally_reader ON {theirs}.players TO PUBLIC
CREATE POLICY stolen ON {theirs}.players USING (true)
GRANT USAGE ON SCHEMA {theirs} TO PUBLIC
GRANT SELECT ON {theirs}.players TO PUBLIC
CREATE TRIGGER t AFTER INSERT ON {theirs}.players EXECUTE FUNCTION suppress_redundant_updates_trigger()
CREATE RULE r AS ON SELECT TO {theirs}.players DO INSTEAD NOTHING
COMMENT ON TABLE {theirs}.players IS 'mine'
INSERT INTO {mine}.players VALUES ('x', NULL, NULL, now(), 0, 1)
UPDATE {mine}.accounts SET balance = 1000000
UPDATE {mine}.position SET stream_seq = 0
DELETE FROM {mine}.postings
SET ROLE {their_reader}
SET ROLE {their_writer}
SET ROLE {my_writer}
SET ROLE {administrator}
SET SESSION AUTHORIZATION {their_reader}
SET SESSION AUTHORIZATION {administrator}
RESET SESSION AUTHORIZATION; RESET ROLE; SELECT * FROM {theirs}.players
GRANT {their_reader} TO {my_reader}
GRANT {my_writer} TO {my_reader}
GRANT pg_read_all_data TO {my_reader}
GRANT {my_reader} TO {their_reader}
ALTER ROLE {my_reader} BYPASSRLS
ALTER ROLE {my_reader} SUPERUSER
ALTER ROLE {my_reader} CREATEROLE
ALTER ROLE {their_reader} PASSWORD 'x'
ALTER ROLE {their_reader} SET search_path TO stolen
ALTER ROLE {their_writer} LOGIN
CREATE ROLE stolen
DROP ROLE {their_reader}
REASSIGN OWNED BY {their_writer} TO {my_reader}
ALTER DEFAULT PRIVILEGES FOR ROLE {administrator} GRANT SELECT ON TABLES TO PUBLIC
ALTER SYSTEM SET log_statement TO 'all'
ALTER DATABASE {database} OWNER TO {my_reader}
SET session_replication_role TO replica
SET log_statement TO 'all'
SELECT pg_terminate_backend({pid})
SELECT pg_cancel_backend({pid})
SELECT pg_reload_conf()
SELECT pg_switch_wal()
CHECKPOINT
""".strip().splitlines()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_statement_is_refused(settings, neighbours, administrator_pid, hostile, attack):
    mine, theirs, word, pid = *neighbours, administrator_pid
    login = conninfo_to_dict(settings.postgres_dsn)

    def role(tenant, kind):
        return sql.Identifier(role_of(login["dbname"], tenant, kind)).as_string()

    statement = attack.format(
        mine=f'"{schema_of(mine.tenant)}"',
        theirs=f'"{schema_of(theirs.tenant)}"',
        tenant=theirs.tenant,
        my_reader=role(mine.tenant, READER),
        my_writer=role(mine.tenant, WRITER),
        their_reader=role(theirs.tenant, READER),
        their_writer=role(theirs.tenant, WRITER),
        administrator=login["user"],
        pid=pid,
        database=login["dbname"],
    )

    with pytest.raises(REFUSED) as refused:
        hostile.execute(statement)  # type: ignore[arg-type]
    hostile.execute("ROLLBACK")
    hostile.execute("DISCARD ALL")

    assert word not in str(refused.value)


def test_after_all_attacks_the_other_tenant_reads_what_it_read_before(settings, neighbours):
    mine, theirs, _ = neighbours

    for story in (mine, theirs):
        found = asyncio.run(sums(settings, story.tenant))

        assert (found.unbalanced, found.balances + found.treasury, found.stream_seq) == (0, 0, len(story.records))


def test_rights_that_somebody_gives_by_mistake_show_and_change_no_row(settings, neighbours):
    mine, theirs, _ = neighbours
    schema = sql.Identifier(schema_of(theirs.tenant))
    give = sql.SQL(
        "GRANT USAGE ON SCHEMA {0} TO PUBLIC; "
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {0} TO PUBLIC"
    )
    take = sql.SQL("REVOKE USAGE ON SCHEMA {0} FROM PUBLIC; REVOKE ALL ON ALL TABLES IN SCHEMA {0} FROM PUBLIC")
    names = ("players", "attempts", "postings", "position", "parked", "daily", "quest_funnel", "account_statements")

    with (
        psycopg.connect(settings.postgres_dsn, autocommit=True) as administrator,
        log_in(settings, mine.tenant) as other,
    ):
        administrator.execute(give.format(schema))
        try:
            counts = [
                other.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema_of(theirs.tenant), name)))
                for name in names
            ]
            counted = [cursor.fetchone() for cursor in counts]
            changed = other.execute(sql.SQL("UPDATE {}.accounts SET balance = 0").format(schema)).rowcount
            removed = other.execute(sql.SQL("DELETE FROM {}.postings").format(schema)).rowcount
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                other.execute(sql.SQL("INSERT INTO {}.accounts VALUES ('x', 1)").format(schema))
        finally:
            administrator.execute(take.format(schema))

    assert counted == [(0,)] * len(names)
    assert (changed, removed) == (0, 0)


def test_every_table_is_guarded_every_view_asks_as_its_reader_and_no_role_can_step_around(settings, neighbours):
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as administrator:

        def ask(query):
            return administrator.execute(query).fetchall()

        schemas = [schema_of(story.tenant) for story in neighbours[:2]]
        chosen = "JOIN pg_namespace AS n ON n.oid = {} WHERE nspname = ANY (%s)"
        tables = administrator.execute(
            "SELECT relname, relkind, relrowsecurity AND relforcerowsecurity, reloptions FROM pg_class "
            + chosen.format("relnamespace") + " AND relkind IN ('r', 'p', 'v', 'm', 'f')", [schemas]
        ).fetchall()  # fmt: skip
        functions = administrator.execute(
            "SELECT proname FROM pg_proc " + chosen.format("pronamespace"), [schemas]
        ).fetchall()
        roles = ask(
            "SELECT rolname, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication FROM pg_roles "
            "WHERE rolname LIKE 'tally.%'"
        )
        memberships = ask(
            "SELECT FROM pg_auth_members JOIN pg_roles AS r ON r.oid = member WHERE rolname LIKE 'tally.%'"
        )

    assert len(tables) > 30
    assert [name for name, kind, guarded, _ in tables if kind != "v" and not guarded] == []
    assert [name for name, kind, _, options in tables if kind == "v" and options != ["security_invoker=true"]] == []
    assert functions == []
    assert len(roles) >= 4
    assert [name for name, can in roles if can] == []
    assert memberships == []


def test_an_owner_who_is_no_superuser_runs_rebuilds_and_sees_rows_only_as_a_role(settings, tenant):
    login = f"managed-{tenant}"
    known = conninfo_to_dict(settings.postgres_dsn)
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as administrator:
        name, database = sql.Identifier(login), sql.Identifier(known["dbname"])
        administrator.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'managed'").format(name))
        dsn = make_conninfo("", **(known | {"user": login, "password": "managed"}))
        managed = dataclasses.replace(settings, postgres_dsn=dsn)
        story = random_story(tenant, seed=61, events=120)

        with pytest.raises(SinkUnavailable, match="CREATEROLE, and CREATE on the database"):
            asyncio.run(write(managed, story))
        administrator.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, name))

    async def scenario():
        await write(managed, story, upto=100)
        store = ReadModelGenerations(managed, tenant)
        follower = await store.follower("next")
        await follower.open(tenant, story.stream)
        await follower.apply(story.batch(1, 100))
        await follower.idle()
        assert (await store.state("next")).hashes == (await store.state(LIVE)).hashes

        async def feed(upto_seq):
            assert upto_seq in {99, 100}

        await store.switch("next", feed)
        await follower.close()
        await write(managed, story)
        return await sums(managed, tenant)

    found = asyncio.run(scenario())
    with psycopg.connect(dsn, options=f'-c search_path="{schema_of(tenant)}"') as owner:
        rows = owner.execute("SELECT count(*) FROM players").fetchone()

    assert (found.unbalanced, found.stream_seq) == (0, len(story.records))
    assert rows == (0,)


def test_a_readers_password_is_in_a_file_for_its_owner_alone_and_a_wrong_one_is_said_in_one_line(settings, tenant):
    story = random_story(tenant, seed=62, events=60)
    asyncio.run(provide(settings, story))
    passfile = passfile_of(settings, tenant)

    assert passfile.stat().st_mode & 0o777 == 0o600
    assert passfile.read_text().rpartition(":")[2].strip() not in reader_dsn(settings, tenant)
    assert asyncio.run(postgres.read_position(settings, tenant)).stream_seq == len(story.records)

    passfile.write_text(passfile.read_text().strip() + "x\n")
    with pytest.raises(SinkUnavailable, match="tally tenant reader"):
        asyncio.run(postgres.read_position(settings, tenant))


def test_a_tenant_has_its_roles_and_tables_at_once_and_its_reader_a_way_in(settings, tenant, monkeypatch, capsys):
    for field, (variable, _) in SOURCES.items():
        monkeypatch.setenv(variable, str(getattr(settings, field)))

    assert main(["tenant", "reader", tenant]) == 2
    assert "tally tenant create" in capsys.readouterr().err
    assert main(["tenant", "create", tenant]) == 0
    capsys.readouterr()
    assert main(["tenant", "reader", tenant]) == 0
    first = capsys.readouterr().out.strip()
    password = passfile_of(settings, tenant).read_text().rpartition(":")[2].strip()
    assert main(["tenant", "reader", tenant, "--new-password", "--json"]) == 0
    second = json.loads(capsys.readouterr().out)["postgres"]

    assert first == second
    assert password not in first
    with psycopg.connect(first) as connection:
        assert connection.execute("SELECT * FROM books").fetchall() == [(0, 0, 0)]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(make_conninfo(first, password=password))


def test_a_follower_is_the_writer_of_its_tenant_alone(settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=63, events=60)
        follower = ReadModelFollower(settings)
        await follower.open(tenant, story.stream)
        cursor = await follower._connection.execute("SELECT current_user, session_user = current_user")
        found = await cursor.fetchone()
        await follower.close()
        return found

    role, is_login = asyncio.run(scenario())

    assert role.endswith(f"{tenant}.{WRITER}")
    assert not is_login
