"""Boards that a tenant defines: every metric, scope and window against a fold; ranks against counting; bad ones."""

import asyncio
import json
import random

import msgspec
import pytest
from board_fold import board_fold
from sinks import Leaderboards
from stories import random_story
from test_followers import feed, require_fold
from test_rebuild import Live

from adapters import cli
from adapters.board_settings import define, defined
from adapters.generations import generations
from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.redis_boards import LeaderboardFollower
from adapters.redis_keys import Keys
from adapters.redis_keys import connect as connect_redis
from adapters.redis_ranks import Boards
from adapters.settings import SOURCES
from bus.errors import WrongStream
from projections.boards import Board, decode_settings, xp_board
from projections.errors import ProjectionError, RebuildRefused, WrongBoard
from projections.generations import LIVE
from projections.windows import Season, labels, zone_of

DEFINED = {
    "zone": "Asia/Tokyo",  # the stories begin there an hour before midnight
    "seasons": [
        {"name": "old", "first_day": "2013-01-01", "last_day": "2014-04-21"},
        {"name": "new", "first_day": "2014-04-22", "last_day": "2014-04-30"},
    ],
    "boards": [
        {"name": "daily", "metric": "xp", "window": "day"},
        {"name": "month-by-region", "metric": "xp", "window": "month", "scope": ["region"]},
        {"name": "everywhere", "metric": "completions", "window": "week", "scope": ["quest", "region", "cohort"]},
        {"name": "slowest", "metric": "elapsed", "direction": "most", "scope": ["cohort"]},
        {"name": "fastest-of-a-day", "metric": "elapsed", "direction": "least", "window": "day"},
        {"name": "steps", "metric": "steps", "window": "season", "scope": ["quest"]},
        {"name": "fewest-tokens", "metric": "tokens", "direction": "least"},
        {"name": "tokens-of-a-day", "metric": "tokens", "window": "day"},
        {"name": "divisions", "metric": "completions", "scope": ["division", "quest"], "window": "season"},
    ],
}


async def make(settings, tenant, defined=DEFINED):
    client = await connect(settings.nats_url, "test")
    await streams.create_tenant(client, tenant)
    await client.close()
    return await define(settings, tenant, json.dumps(defined).encode())


def board_of(boards, name):
    """A board by its name."""
    head, *values = name.split(":")
    definition, _, label = head.partition("@")
    return Board({one.name: one for one in boards.definitions}[definition], label, tuple(values))


async def contents(settings, tenant):
    async with Boards(settings, tenant) as boards:
        known = await boards.settings()
        return {
            name: [(line.player, line.score) for line in await boards.top(board_of(known, name), 1_000)]
            for name in await boards.names()
        }


@pytest.mark.parametrize("seed", [41, 42])
def test_every_board_that_is_defined_holds_the_fold_of_the_stream_in_batches_of_any_size(settings, tenant, seed):
    async def scenario():
        await make(settings, tenant)
        story = random_story(tenant, seed=seed, events=900)
        await feed(Leaderboards, settings, story, random.Random(seed))

        found = await contents(settings, tenant)

        wanted = board_fold([record.body for record in story.records], DEFINED)
        assert found == wanted
        kinds = {name.split(":")[0].split("@")[0] for name in wanted}
        assert kinds == {"xp", "quest", "division", *(one["name"] for one in DEFINED["boards"])}
        assert {"tokens-of-a-day@2014-04-21", "daily@2014-04-22", "steps@old:race", "steps@new:race"} <= wanted.keys()

    asyncio.run(scenario())


def test_ranks_percentiles_neighbours_and_friends_are_what_counting_gives(settings, tenant):
    async def scenario():
        await make(settings, tenant)
        story = random_story(tenant, seed=43, events=900)
        await feed(Leaderboards, settings, story, random.Random(1))
        ties = 0
        for name, lines in board_fold([record.body for record in story.records], DEFINED).items():
            async with Boards(settings, tenant) as boards:
                board = board_of(await boards.settings(), name)
                sign = -1 if board.is_descending else 1
                scores = [sign * score for _, score in lines]
                ties += len(scores) - len(set(scores))

                def ranks(at, scores=scores, lines=lines):
                    score = scores[at]
                    better = {each for each in scores if each < score}
                    return (at + 1, 1 + sum(each < score for each in scores), 1 + len(better), *lines[at])

                wanted = [ranks(at) for at in range(len(lines))]
                page, size = await boards.page(board, len(lines) // 3, 7)
                assert size == len(lines)
                assert [tuple_of(line) for line in page] == wanted[len(lines) // 3 :][:7]
                for at in {0, len(lines) // 2, len(lines) - 1}:
                    player = lines[at][0]
                    around, _ = await boards.around(board, player, 2)
                    assert [tuple_of(line) for line in around] == wanted[max(0, at - 2) : at + 3]
                    rank = await boards.rank(board, player)
                    worse = sum(each > scores[at] for each in scores)
                    assert tuple_of(rank.line) == wanted[at]
                    assert (rank.better, rank.equal, rank.worse) == (
                        wanted[at][1] - 1,
                        scores.count(scores[at]),
                        worse,
                    )
                    assert rank.percentile_bp == 10_000 * (2 * worse + scores.count(scores[at])) // (2 * size)
                friends = ["nobody", *(player for player, _ in lines[::3]), lines[0][0]]
                found, _ = await boards.friends(board, friends, with_places=True)
                bare, size_again = await boards.friends(board, random.Random(2).sample(friends, len(friends)))
                assert bare == [msgspec.structs.replace(line, place=None) for line in found]
                assert size_again == size
                among = scores[::3]
                assert [tuple_of(line) for line in found] == [
                    (place, 1 + sum(each < score for each in among), 1 + len({e for e in among if e < score}), *who)
                    for (place, _, _, *who), score in zip(wanted[::3], among, strict=True)
                ]
        assert ties > 20

    asyncio.run(scenario())


def tuple_of(line):
    return (line.place, line.rank, line.dense_rank, line.player, line.score)


def test_a_change_of_the_boards_waits_for_a_rebuild_which_says_that_they_differ(settings, tenant):
    async def scenario():
        await make(settings, tenant, {"boards": []})
        story = random_story(tenant, seed=44)
        await feed(Leaderboards, settings, story, random.Random(1), upto=200)
        assert await make(settings, tenant) == 2
        await feed(Leaderboards, settings, story, random.Random(1))
        before = await contents(settings, tenant)

        store = generations("leaderboards", settings, tenant)
        await store.prepare()
        follower = await store.follower("next")
        await follower.open(tenant, story.stream)
        await follower.apply(story.batch(1, len(story.records)))
        await follower.close()
        live, following = await store.standing(LIVE), await store.standing("next")

        bodies = [record.body for record in story.records]
        assert before == board_fold(bodies, {"zone": "UTC", "boards": []})
        assert (live.version, following.version, store.version) == (3_000_001, 3_000_002, 3_000_002)
        await store.switch("next", nothing)
        assert await contents(settings, tenant) == board_fold(bodies, DEFINED)

    async def nothing(_):
        return

    asyncio.run(scenario())


def test_a_generation_of_another_version_of_the_projector_is_refused_and_a_rebuild_replaces_it(settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=45)
        async with Live(Leaderboards, settings, tenant, story) as live:
            await live.tell(len(story.records))
            await live.caught_up()
            async with connect_redis(settings) as client:
                for version, said in ((4_000_000, "upgrade tallyroot"), (1, "tally rebuild leaderboards --accept")):
                    await client.hset(Keys(tenant).position, "version", version)
                    follower = LeaderboardFollower(settings)
                    with pytest.raises(ProjectionError, match=said) as refused:
                        await follower.open(tenant, live.stream)
                    assert "\n" not in str(refused.value)
                    async with Boards(settings, tenant) as boards:
                        for ask in (
                            boards.settings(),
                            boards.top(xp_board(), 3),
                            boards.friends(xp_board(), ["p0", "p1"]),
                        ):
                            with pytest.raises(ProjectionError, match=said):
                                await ask
                await client.delete(*[key async for key in client.scan_iter(f"{Keys(tenant).prefix}scores:*")])

            await live.rebuild().run(is_accepted=True)

        await require_fold(Leaderboards, settings, story)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{", "not as they must be"),
        ({"zone": "Mars/Olympus"}, "wanted an IANA name"),
        ({"zone": "../etc/passwd"}, "wanted an IANA name"),
        ({"boards": [{"name": "xp", "metric": "xp"}]}, "two boards are called xp"),
        ({"boards": [{"name": "a b", "metric": "xp"}]}, r"\$.boards\[0\].name"),
        ({"boards": [{"name": "a", "metric": "karma"}]}, "Invalid enum value 'karma'"),
        ({"boards": [{"name": "a", "metric": "xp", "scop": []}]}, "unknown field `scop`"),
        ({"boards": [{"name": "a", "metric": "tokens", "scope": ["region"]}]}, "tokens is not known by region"),
        ({"boards": [{"name": "a", "metric": "elapsed", "scope": ["division"]}]}, "scope quest and division"),
        ({"boards": [{"name": "a", "metric": "xp", "scope": ["region", "region"]}]}, "each of them once"),
        ({"boards": [{"name": "a", "metric": "xp", "window": "season"}]}, "say `seasons`"),
        ({"seasons": [{"name": "a", "first_day": "2014-02-01", "last_day": "2014-01-01"}]}, "before it begins"),
        (
            {"seasons": [{"name": n, "first_day": "2014-01-01", "last_day": "2014-02-01"} for n in "ab"]},
            "share the day",
        ),
        ({"seasons": [{"name": "a", "first_day": "tomorrow", "last_day": "2014-02-01"}]}, "date"),
    ],
)
def test_boards_that_cannot_be_are_refused_in_one_line(change, said):
    with pytest.raises(WrongBoard, match=said) as refused:
        decode_settings(change if isinstance(change, str) else json.dumps(change))

    assert "\n" not in str(refused.value)


def test_defining_for_a_tenant_that_is_not_there_is_refused_and_the_same_again_changes_nothing(settings, tenant):
    async def scenario():
        with pytest.raises(WrongStream, match="tally tenant create"):
            await define(settings, tenant, b"{}")

        first, second = await make(settings, tenant), await make(settings, tenant)

        assert first == second
        assert await defined(settings, tenant) == (decode_settings(json.dumps(DEFINED)), first)

    asyncio.run(scenario())


def test_boards_that_are_defined_before_the_first_event_are_there_with_it(settings, tenant):
    async def scenario():
        await make(settings, tenant, {"boards": []})
        story = random_story(tenant, seed=52, events=200)
        follower = LeaderboardFollower(settings)
        await follower.open(tenant, story.stream)
        await define(settings, tenant, json.dumps(DEFINED).encode())

        await follower.apply(story.batch(1, len(story.records)))
        await follower.close()

        assert await contents(settings, tenant) == board_fold([record.body for record in story.records], DEFINED)

    asyncio.run(scenario())


def test_a_tenant_can_be_created_with_its_boards(settings, tenant, tmp_path, monkeypatch, capsys):
    for field, (variable, _) in SOURCES.items():
        monkeypatch.setenv(variable, str(getattr(settings, field)))
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(DEFINED))
    bad.write_text('{"zone": "Mars"}')

    assert cli.main(["tenant", "create", tenant, "--boards", str(bad)]) == 2
    assert "wanted an IANA name" in capsys.readouterr().err
    assert cli.main(["tenant", "create", tenant, "--boards", str(good)]) == 0

    assert asyncio.run(defined(settings, tenant)) == (decode_settings(json.dumps(DEFINED)), 1)


def test_days_follow_the_zone_over_a_change_of_the_clock_and_at_the_ends_of_time():
    seasons = [Season(name="s", first_day="2014-03-09", last_day="2014-03-09")]
    day = labels("day", zone_of("America/New_York"), seasons)

    assert day("2014-03-09T04:59:59.999Z") == "2014-03-08"
    assert day("2014-03-09T05:00:00.000Z") == "2014-03-09"
    assert day("2014-03-10T03:59:59.999Z") == "2014-03-09"
    assert day("2014-03-10T04:00:00.000Z") == "2014-03-10"
    assert day("0001-01-01T00:00:00.000Z") == "0001-01-01"
    assert labels("day", zone_of("Asia/Tokyo"), [])("9999-12-31T23:59:59.999Z") == "9999-12-31"
    assert labels("week", zone_of("UTC"), [])("2014-12-30T00:00:00.000Z") == "2015-W01"


@pytest.fixture
def tally(settings, tenant, monkeypatch, capsys):
    for field, (variable, _) in SOURCES.items():
        monkeypatch.setenv(variable, str(getattr(settings, field)))

    def run(*arguments):
        try:
            code = cli.main(["leaderboard", *arguments, "--tenant", tenant])
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_the_command_line_defines_lists_and_asks_every_question(tally, settings, tenant, tmp_path):
    file = tmp_path / "boards.json"
    file.write_text(json.dumps(DEFINED))
    asyncio.run(make(settings, tenant, {"boards": []}))
    story = random_story(tenant, seed=46, events=600)
    asyncio.run(feed(Leaderboards, settings, story, random.Random(1), upto=1))
    code, out, _ = tally("define", str(file))
    assert (code, "version 2" in out) == (0, True)
    assert "version 2 is defined and not yet there" in tally("boards")[1]

    asyncio.run(renew(settings, tenant, story))
    folded = board_fold([record.body for record in story.records], DEFINED)
    day = folded["daily@2014-04-22"]
    asked = ("--board", "daily", "--window", "2014-04-22", "--json")

    assert [(line["player"], line["score"]) for line in json.loads(tally("top", "-n", "3", *asked)[1])["lines"]] == day[
        :3
    ]
    assert [line["player"] for line in json.loads(tally("page", "-n", "2", "--page", "2", *asked)[1])["lines"]] == [
        player for player, _ in day[2:4]
    ]
    friends = json.loads(tally("friends", day[1][0], day[0][0], *asked)[1])["lines"]
    assert [line["place"] for line in friends] == [1, 2]
    assert json.loads(tally("percentile", day[0][0], *asked)[1])["rank"]["better"] == 0
    assert "percentile" in tally("percentile", day[0][0], *asked[:-1])[1]
    assert "rank 1, without gaps 1" in tally("rank", day[0][0], *asked[:-1])[1]
    listed = tally("boards", "--past")[1]
    assert "days as in Asia/Tokyo, 2 seasons" in listed
    assert "tokens-of-a-day@2014-04-21" in listed.splitlines()
    for arguments, said in (
        (("top", "--board", "nope"), "no board is called 'nope'; there are xp, quest, division, daily"),
        (("top", "--board", "daily", "--region", "USA"), "not one of each region"),
        (("top", "--board", "month-by-region"), "say which region"),
        (("top", "--xp", "--window", "2014-04-21"), "has no window"),
        (("top", "--board", "steps", "--quest", "race"), "no season now; say which: old, new"),
        (("top",), "which board?"),
        (("rank", "a", "b", "--xp"), "friends takes several"),
        (("define", str(tmp_path / "no.json")), "cannot be read"),
        (("define",), "takes one JSON file"),
    ):
        code, out, err = tally(*arguments)
        assert (code, out) == (2, ""), arguments
        assert said in err


async def renew(settings, tenant, story):
    """As a rebuild: a new generation with the boards that are defined now goes live."""
    store = generations("leaderboards", settings, tenant)
    follower = await store.follower("next")
    await follower.open(tenant, story.stream)
    await follower.apply(story.batch(1, len(story.records)))
    await follower.close()

    async def nothing(_):
        return

    await store.switch("next", nothing)


def test_defined_boards_go_live_by_a_rebuild_are_followed_and_rolled_back(settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=47, events=700)
        bodies = [record.body for record in story.records]
        async with Live(Leaderboards, settings, tenant, story) as live:
            await live.tell(300)
            await live.caught_up()
            await define(settings, tenant, json.dumps(DEFINED).encode())
            with pytest.raises(
                RebuildRefused, match="the live one is of version 3000000, the new one of version 3000001"
            ):
                await live.rebuild().run(is_accepted=False)

            await live.rebuild().run(is_accepted=True)
            await live.tell(500)
            await live.caught_up()
            assert await contents(settings, tenant) == board_fold(bodies[: live.told], DEFINED)

            await live.rebuild().roll_back()
            await live.tell(len(story.records))
            await live.caught_up()
            assert await contents(settings, tenant) == board_fold(bodies, {"zone": "UTC", "boards": []})

    asyncio.run(scenario())
