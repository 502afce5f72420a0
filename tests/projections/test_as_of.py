"""Pages, statements and funnels as of any date, compared with a fold of what had happened by then."""

import asyncio
import json
from datetime import UTC, date, datetime

import pytest
from stories import fold, random_story
from test_read_models import by_hand, write

from adapters.cli import main
from adapters.postgres_queries import player_page, quest_page
from adapters.postgres_statements import books, days, statement
from adapters.settings import SOURCES
from projections.errors import AsOfRefused, NotFound, SinkUnavailable
from projections.moments import parse_as_of
from projections.read_models import TREASURY


def happened_by(story, moment):
    """The fold of the events whose time is not later: what happened, not what was heard."""
    events = [json.loads(record.body) for record in story.records]
    kept = [event for event in events if datetime.fromisoformat(event["time"]) <= moment]
    kept.sort(key=lambda event: event["type"] != "quest-published/1")
    return fold([json.dumps(event) for event in kept])


@pytest.fixture(scope="module")
def told(settings):
    story = random_story("t-as-of", seed=80, events=350, is_in_order=True)
    asyncio.run(write(settings, story))
    times = sorted({json.loads(record.body)["time"] for record in story.records})
    return story, [datetime.fromisoformat(times[len(times) * part // 5]) for part in (1, 3, 4)]


def test_a_statement_as_of_any_moment_is_the_sum_of_what_had_happened(settings, told):
    story, moments = told

    async def scenario():
        seen = 0
        for moment in moments:
            wanted = happened_by(story, moment)
            for account, balance in wanted["balances"].items():
                found = await statement(settings, story.tenant, account, 1000, as_of=moment)
                running = [posting.balance for posting in found.postings]
                amounts = [posting.amount for posting in found.postings]
                assert (found.balance, found.opening) == (balance, 0)
                assert running == [sum(amounts[: end + 1]) for end in range(len(amounts))]
                assert [posting.at for posting in found.postings] == sorted(posting.at for posting in found.postings)
                assert sorted(amounts) == sorted(row[3] for row in wanted["postings"] if row[0] == account)
                seen += len(amounts) > 2
            last = await statement(settings, story.tenant, TREASURY, 2, as_of=moment)
            assert last.opening + sum(posting.amount for posting in last.postings) == last.balance
        assert seen > 10

    asyncio.run(scenario())


def test_a_players_page_as_of_any_moment_holds_what_had_happened(settings, told):
    story, moments = told

    async def scenario():
        seen = 0
        for moment in moments:
            wanted = happened_by(story, moment)
            for player, (region, cohort, xp, level) in list(wanted["players"].items())[::3]:
                page = await player_page(settings, story.tenant, player, as_of=moment)
                assert (page.region, page.cohort, page.xp) == (region, cohort, xp)
                assert page.level == (level if xp else 1)
                assert page.balance == wanted["balances"].get(player, 0)
                assert {(player, badge.quest, badge.badge) for badge in page.badges} == {
                    badge for badge in wanted["badges"] if badge[0] == player
                }
                attempts = {key[1:]: row for key, row in wanted["attempts"].items() if key[0] == player}
                found = {(one.quest, one.attempt): [one.status, one.elapsed_ms, one.divisions] for one in page.attempts}
                assert found == attempts
                steps = {(one.quest, one.attempt, step.step) for one in page.attempts for step in one.steps}
                assert steps == {key[1:] for key in wanted["steps"] if key[0] == player}
                seen += len(attempts)
        assert seen > 20

    asyncio.run(scenario())


def test_a_funnel_as_of_any_moment_counts_what_had_happened(settings, told):
    story, moments = told

    async def scenario():
        for moment in moments:
            wanted = happened_by(story, moment)
            for quest, row in wanted["quests"].items():
                page = await quest_page(settings, story.tenant, quest, as_of=moment)
                counts = (page.accepted, page.completed, page.abandoned, page.expired, page.taken)
                assert counts == tuple(row[name] for name in ("accepted", "completed", "abandoned", "expired", "taken"))
                reached = {(quest, step.step): step.reached for step in page.steps}
                assert reached == {key: count for key, count in wanted["quest_steps"].items() if key[0] == quest}

    asyncio.run(scenario())


def test_before_anything_happened_nobody_is_known(settings, told):
    story, _ = told
    before = datetime(1999, 1, 1, tzinfo=UTC)

    for ask in (
        player_page(settings, story.tenant, "p1", as_of=before),
        quest_page(settings, story.tenant, "race", as_of=before),
    ):
        with pytest.raises(NotFound, match="1999"):
            asyncio.run(ask)


def test_the_books_sum_to_zero_by_a_query_and_do_not_when_a_row_is_changed(settings, tenant):
    asyncio.run(write(settings, random_story(tenant, seed=81, events=150)))

    assert asyncio.run(books(settings, tenant)).balance
    by_hand(settings, tenant, "UPDATE postings SET amount = amount + 1 WHERE ctid = (SELECT min(ctid) FROM postings)")
    broken = asyncio.run(books(settings, tenant))

    assert not broken.balance
    assert (broken.balances, broken.postings, broken.accounts_off) == (0, 1, 1)


def test_days_are_those_of_the_events_in_utc(settings, told):
    story, _ = told

    found = asyncio.run(days(settings, story.tenant, date(2014, 1, 1), date(2014, 12, 31)))

    wanted = fold([record.body for record in story.records])["days"]
    assert {f"{day.day}": (day.registered, day.minted, day.spent, day.sent) for day in found} == {
        day: tuple(row.values()) for day, row in wanted.items()
    }
    assert len(found) > 1


def test_a_page_of_the_past_is_refused_where_no_history_of_xp_was_kept(settings, tenant):
    asyncio.run(write(settings, random_story(tenant, seed=82, events=60)))
    by_hand(settings, tenant, "UPDATE position SET version = 1")

    with pytest.raises(SinkUnavailable, match="tally rebuild readmodels --accept"):
        asyncio.run(player_page(settings, tenant, "p1", as_of=datetime.max.replace(tzinfo=UTC)))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2014-04-21", datetime(2014, 4, 21, 23, 59, 59, 999_999, UTC)),
        ("2014-04-21T14:00:00Z", datetime(2014, 4, 21, 14, tzinfo=UTC)),
        ("2014-04-21t10:00:00.25-04:00", datetime(2014, 4, 21, 14, 0, 0, 250_000, UTC)),
    ],
)
def test_a_day_counts_to_its_end_and_a_moment_to_itself(text, moment):
    assert parse_as_of(text) == moment


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2014-04-31", "2014-04-21T14:00:00", "2014-04", "9" * 500, "٢٠١٤-٠٤-٢١"]
)
def test_what_is_no_date_is_said_in_one_line(text):
    with pytest.raises(AsOfRefused, match="wanted 2014-04-21"):
        parse_as_of(text)


def test_the_commands_show_what_the_queries_say(settings, told, monkeypatch, capsys):
    story, moments = told
    for field, (variable, _) in SOURCES.items():
        monkeypatch.setenv(variable, str(getattr(settings, field)))
    monkeypatch.setenv("TALLY_TENANT", story.tenant)
    moment = moments[1].isoformat().replace("+00:00", "Z")

    def ask(*arguments):
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    funnel = json.loads(ask("quest", "funnel", "race", "--as-of", moment, "--json"))
    assert funnel["accepted"] == happened_by(story, moments[1])["quests"]["race"]["accepted"]
    assert "completed" in ask("quest", "funnel", "race")
    account = json.loads(ask("account", TREASURY, "--as-of", "2014-04-21", "--json", "-n", "3"))
    assert account["balance"] == account["opening"] + sum(posting["amount"] for posting in account["postings"])
    assert "tokens before them" in ask("account", TREASURY, "-n", "3")
    assert "as of" in ask("player", "p1", "--as-of", moment)
    with pytest.raises(SystemExit, match="2"):
        main(["player", "p1", "--as-of", "soon"])
    assert "wanted 2014-04-21" in capsys.readouterr().err
