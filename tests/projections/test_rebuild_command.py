"""`tally rebuild` as people call it."""

import asyncio
import json

import pytest
from sinks import Leaderboards, ReadModels
from stories import Story, finish, publish
from test_rebuild import Live

from adapters.cli import main
from adapters.settings import SOURCES
from projections.generations import RowsHash, State, differences, require_name


@pytest.fixture
def told(settings, tenant, monkeypatch):
    """An installation with two finishers, the first of them at event 8; returns where the first one ends."""
    for field, (variable, _) in SOURCES.items():
        monkeypatch.setenv(variable, str(getattr(settings, field)))
    monkeypatch.setenv("TALLY_TENANT", tenant)
    story = Story(tenant)
    publish(story)
    finish(story, "first", 9_000_000)
    upto = len(story.records)
    finish(story, "second", 8_000_000)
    story.decide_inbox()

    async def tell():
        for sink in (Leaderboards, ReadModels):
            async with Live(sink, settings, tenant, story) as live:
                await live.tell(len(story.records)) if sink is Leaderboards else None
                live.told = len(story.records)
                await live.caught_up()

    asyncio.run(tell())
    return upto


def ask(capsys, *arguments):
    code = main(list(arguments))
    answer = capsys.readouterr()
    return code, answer.out, answer.err


@pytest.mark.parametrize("name", ["leaderboards", "readmodels"])
def test_a_rebuild_says_that_both_were_equal_and_how_to_go_back(told, capsys, name):
    code, out, _ = ask(capsys, "rebuild", name)

    assert code == 0
    assert "equal" in out
    assert f"tally rebuild {name} --rollback" in out
    assert ask(capsys, "rebuild", name, "--rollback")[0] == 0


def test_json_holds_counts_and_the_state_hash(told, capsys):
    code, out, _ = ask(capsys, "rebuild", "readmodels", "--json")

    done = json.loads(out)
    assert (code, done["differences"], done["rows"]["players"]) == (0, [], 2)
    assert len(done["state_hash"]) == 64


def test_a_past_state_is_built_shown_and_removed(told, capsys):
    assert ask(capsys, "rebuild", "leaderboards", "--to-sequence", str(told), "--as", "early")[0] == 0
    assert ask(capsys, "rebuild", "readmodels", "--to-sequence", str(told), "--as", "early")[0] == 0

    top = json.loads(ask(capsys, "leaderboard", "top", "--xp", "--generation", "early", "--json")[1])
    unknown = ask(capsys, "player", "second", "--generation", "early")
    removed = ask(capsys, "rebuild", "leaderboards", "--drop", "early")
    gone = ask(capsys, "leaderboard", "top", "--xp", "--generation", "early")

    assert [line["player"] for line in top["lines"]] == ["first"]
    assert (unknown[0], "second is not registered" in unknown[2]) == (2, True)
    assert removed[0] == 0
    assert (gone[0], "no past state early" in gone[2]) == (2, True)
    assert "no past state late" in ask(capsys, "player", "first", "--generation", "late")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("leaderbord",), "there are leaderboards, readmodels, analytics"),
        (("leaderboards", "--to-sequence", "3"), "--as OTHER"),
        (("leaderboards", "--as", "x"), "--to-sequence N"),
        (("leaderboards", "--rollback", "--accept"), "leave it out"),
        (("leaderboards", "--to-sequence", "3", "--as", "next"), "none of live, next, previous"),
        (("leaderboards", "--to-sequence", "3", "--as", "12"), "not digits alone"),
        (("leaderboards", "--to-sequence", "999999", "--as", "x"), "has the events 1 to"),
        (("leaderboards", "--drop", "never"), "no past state never"),
        (("readmodels", "--rollback"), "no previous generation"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_with_the_way_out(told, capsys, arguments, words):
    code, out, err = ask(capsys, "rebuild", *arguments)

    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_the_hash_of_rows_knows_no_order_and_every_row():
    hashes = []
    for rows in ([b"a", b"b"], [b"b", b"a"], [b"a"], [b"a", b"b", b"b"], []):
        found = RowsHash()
        found.add(rows)
        hashes.append(found.hex)

    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4


def test_differences_name_the_tables_that_differ_and_no_others():
    def state(rows, hashes):
        return State(stream_seq=1, version=1, rows=rows, hashes=hashes)

    found = differences(state({"a": 1, "b": 2}, {"a": "x", "b": "y"}), state({"a": 1, "b": 2}, {"a": "x", "b": "z"}))

    assert found == ["b: 2 rows in both, and not the same ones"]
    assert differences(state({"a": 1}, {"a": "x"}), state({}, {})) == ["a: 1 rows, the live one has 0"]
    assert require_name("before-noon") == "before-noon"
