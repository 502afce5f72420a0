"""Reconciliation agrees with what is right and finds each single thing that is wrong."""

import asyncio

import psycopg
import pyarrow as pa
import pytest
import redis
from sinks import Analytics, Leaderboards, ReadModels
from stories import random_story

from adapters import cli, iceberg_table
from adapters.commands.reconcile import meet
from adapters.errors import TallyError
from adapters.postgres_schema import schema_of
from adapters.redis_keys import Keys
from adapters.settings import SOURCES
from projections.reconciliation import compare


async def fill(settings, tenant, sinks=(Leaderboards, ReadModels, Analytics)):
    story = random_story(tenant, seed=41, events=250)
    for sink in sinks:
        follower = sink.follower(settings)
        await follower.open(tenant, story.stream)
        await follower.apply(story.batch(1, len(story.records)))
        await follower.close()


def differences(settings, tenant):
    return [str(found) for found in compare(*asyncio.run(meet(settings, tenant, 0)))]


def test_three_read_sides_of_one_stream_agree(settings, tenant):
    asyncio.run(fill(settings, tenant))

    assert differences(settings, tenant) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE players SET xp = xp + 1 WHERE player = (SELECT min(player) FROM players)", "XP in"),
        ("UPDATE accounts SET balance = balance + 1 WHERE account = (SELECT min(account) FROM accounts)", "treasury"),
        (
            "UPDATE postings SET amount = amount + 1 WHERE stream_seq = (SELECT min(stream_seq) FROM postings)",
            "postings",
        ),
        ("DELETE FROM badges WHERE player = (SELECT min(player) FROM badges)", "badges"),
        ("DELETE FROM attempt_steps WHERE player = (SELECT min(player) FROM attempt_steps)", "steps reached"),
        ("UPDATE quests SET completed = completed + 1 WHERE quest = 'race'", "race"),
        ("UPDATE attempts SET status = 'abandoned' WHERE status = 'completed'", "abandoned attempts"),
        ("INSERT INTO players VALUES ('extra', NULL, NULL, now(), 0, 1)", "players"),
    ],
)
def test_a_row_of_the_read_models_that_was_touched_is_found(settings, tenant, damage, said):
    asyncio.run(fill(settings, tenant))
    with psycopg.connect(settings.postgres_dsn, options=f'-c search_path="{schema_of(tenant)}"') as connection:
        assert connection.execute(damage).rowcount

    found = differences(settings, tenant)

    assert any(said in line for line in found), found


def test_a_score_that_was_touched_is_found(settings, tenant):
    asyncio.run(fill(settings, tenant))
    with redis.Redis.from_url(settings.redis_url) as client:
        board = Keys(tenant).board("xp")
        client.zincrby(board, -1, client.zrange(board, 0, 0)[0])

    assert any("XP in Redis" in line for line in differences(settings, tenant))


def test_a_finisher_who_vanished_from_a_board_is_found(settings, tenant):
    asyncio.run(fill(settings, tenant))
    with redis.Redis.from_url(settings.redis_url) as client:
        client.zremrangebyrank(Keys(tenant).board("quest:race"), 0, 0)

    assert any("ranked in race" in line for line in differences(settings, tenant))


def altered(rows):
    at = rows.column("event_type").to_pylist().index("tokens-minted/1")
    data = rows.column("data").to_pylist()
    data[at] = data[at].replace('"amount":', '"amount":1')
    return rows.set_column(rows.schema.get_field_index("data"), rows.schema.field("data"), pa.array(data))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (altered, "not what was signed"),
        (lambda rows: rows.slice(1), "against its position"),
        (lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "distinct events"),
    ],
    ids=["altered", "missing", "twice"],
)
def test_a_row_of_the_analytics_that_was_touched_is_found(settings, tenant, damage, said):
    asyncio.run(fill(settings, tenant))
    with iceberg_table.events_table(settings, tenant) as table:
        properties = {
            key: table.current_snapshot().summary[key]
            for key in (iceberg_table.CREATED, iceberg_table.SEQ, iceberg_table.LEAF)
        }
        rows = table.scan().to_arrow().cast(iceberg_table.ARROW)
        table.overwrite(damage(rows), snapshot_properties=properties)

    found = differences(settings, tenant)

    assert any(said in line for line in found), found


def test_read_sides_that_do_not_meet_in_time_are_not_compared(settings, tenant):
    asyncio.run(fill(settings, tenant, sinks=(Leaderboards, ReadModels)))

    with pytest.raises(TallyError, match="analytics at 0"):
        asyncio.run(meet(settings, tenant, 0))


@pytest.fixture
def tally(settings, tenant, monkeypatch, capsys):
    """The command line on this tenant; returns exit code, output and error."""
    for field, (variable, _) in SOURCES.items():
        monkeypatch.setenv(variable, str(getattr(settings, field)))
    asyncio.run(fill(settings, tenant, sinks=(Leaderboards, ReadModels)))

    def run(*arguments):
        try:
            code = cli.main([*arguments, "--tenant", tenant])
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("leaderboard", "top", "--xp", "-n", "3"), "ranked"),
        (("leaderboard", "top", "--quest", "race", "--json"), '"lines":['),
        (("player", "p1"), "attempt 1"),
        (("player", "p1", "--json"), '"player":"p1"'),
        (("account", "p1"), "movements"),
        (("account", "@treasury", "-n", "2", "--json"), '"postings_total":'),
    ],
)
def test_the_command_line_shows_it(tally, arguments, shown):
    code, out, err = tally(*arguments)

    assert (code, err) == (0, "")
    assert shown in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("leaderboard", "top", "--quest", "nope"), "nobody is ranked in quest:nope"),
        (("leaderboard", "rank", "nobody", "--xp"), "player nobody is not ranked in xp"),
        (("leaderboard", "rank", "--xp"), "needs a player"),
        (("leaderboard", "top", "p1", "--xp"), "top takes no player"),
        (("leaderboard", "top", "--xp", "--division", "runners"), "--division ranks within a quest"),
        (("leaderboard", "top", "--xp", "-n", "0"), "-n is 0"),
        (("leaderboard", "top", "--quest", "a:b"), "--quest is 'a:b'"),
        (("player", "nobody"), "player nobody is not registered"),
        (("account", "nobody"), "account nobody is not known"),
        (("account", "p1", "-n", "-1"), "-n is -1"),
    ],
)
def test_wrong_use_of_the_command_line_is_one_line(tally, arguments, said):
    code, out, err = tally(*arguments)

    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
