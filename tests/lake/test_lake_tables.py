"""Derived tables, time travel, changes of the schema, and engines that are not ours."""

import asyncio
import contextlib
import json
import re
import shlex

import duckdb
import pytest
from pyiceberg.types import StringType

import adapters.lake
from adapters import cli, lake_derived, lake_maintenance
from adapters.iceberg import AnalyticsFollower
from bus.envelope import TIME_MS_MAX, TIME_MS_MIN
from domain.token import MintTokens
from domain.values import to_time
from projections import lake, lake_upkeep
from projections.errors import Inconsistent, NotFound, ProjectionError, UnknownEvent
from projections.lake_upkeep import LiveFile, parse_duration, to_compact
from tests.lake.lakes import Lake, derived_in, derived_of
from tests.platform.source_tree import ROOT
from tests.projections.stories import START_MS, Story, finish, publish, random_story

KEEP_ALL = lake_maintenance.Limits()


@pytest.fixture
def own(tmp_path, tenant):
    return Lake(tmp_path, tenant)


@pytest.fixture
def shell(own, monkeypatch, capsys):
    monkeypatch.setenv("TALLY_ICEBERG_CATALOG_URI", own.iceberg_catalog_uri)
    monkeypatch.setenv("TALLY_ICEBERG_WAREHOUSE", own.iceberg_warehouse)

    def run(line):
        code = cli.main([*shlex.split(line)[1:], "--tenant", own.tenant, "--data", str(own.folder)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_derived_tables_take_in_what_is_new_and_count_every_event_once(own, tenant, monkeypatch):
    story = random_story(tenant, seed=71, events=100)
    monkeypatch.setattr(lake_derived, "EVENTS_AT_ONCE", 50)

    own.feed(story, up_to=70)
    first = own.maintain(KEEP_ALL).derived
    partly = derived_in(own)
    own.feed(story)
    second = own.maintain(KEEP_ALL).derived
    third = own.maintain(KEEP_ALL).derived

    assert partly == derived_of(story.records[:70])
    assert derived_in(own) == derived_of(story.records)
    assert {(one.from_seq, one.to_seq, one.commits) for one in first} == {(0, 70, 2)}
    assert {(one.from_seq, one.to_seq) for one in second} == {(70, len(story.records))}
    assert {one.commits for one in third} == {0}


def test_a_derived_table_of_other_events_is_made_anew(own, tenant, tmp_path):
    own.feed(random_story(tenant, seed=72, events=30))
    own.maintain(KEEP_ALL)
    other = random_story(tenant, seed=73, events=40)
    with own.opened().catalog as catalog:
        catalog.drop_table((tenant, "events"))
    own.feed(other)

    report = own.maintain(KEEP_ALL)

    assert all(one.anew for one in report.derived)
    assert derived_in(own) == derived_of(other.records)


def test_events_that_are_missing_or_twice_are_not_summed(own, tenant):
    own.feed(random_story(tenant, seed=74, events=40))
    table = own.opened()
    rows = table.scan().to_arrow()
    table.overwrite(rows.slice(1), snapshot_properties=adapters.lake.carried(table.current_snapshot()))

    with pytest.raises(Inconsistent, match="tally rebuild analytics"):
        own.maintain()


def test_a_type_that_this_version_does_not_know_is_not_passed_over():
    fact = lake.Fact(7, "quest-vanished/1", None, "ann", "{}")

    with pytest.raises(UnknownEvent, match="event 7"):
        lake.fold(lake.TABLES.values(), [fact])


def test_any_sequence_shows_the_events_up_to_it_and_derived_tables_at_their_last_position(own, tenant):
    story = random_story(tenant, seed=75, events=40)
    for up_to in (20, len(story.records)):
        own.feed(story, up_to=up_to)
        own.maintain(KEEP_ALL)
    exact = {one.stream_seq: one.snapshot_id for one in own.info().snapshots}

    for at in (0, 20, 33, len(story.records)):
        found = own.query("events", as_of=str(at))
        assert sorted(row["stream_seq"] for row in found.rows) == list(range(1, at + 1))
        assert found.snapshot_id == exact.get(at, found.snapshot_id)
    funnel = own.query("quest_funnel", as_of="33")
    moment = own.query("events", as_of=to_time(START_MS + 24))  # the 25th event was recorded then

    wanted = derived_of(story.records[:20])["quest_funnel"]
    assert {
        (row["quest"], row["stage"], row["step"]): (row["attempts"], row["elapsed_ms"]) for row in funnel.rows
    } == wanted
    assert (funnel.stream_seq, moment.stream_seq) == (20, 25)
    own.maintain()
    assert own.query("events", as_of="33").matching == 33
    with pytest.raises(NotFound, match="have expired"):
        own.query("quest_funnel", as_of="33")
    with pytest.raises(NotFound, match="reaches event"):
        own.query("events", as_of="100000")


def test_a_column_can_be_added_beside_running_analytics_and_old_files_stay_readable(own, tenant):
    story = random_story(tenant, seed=76, events=60)

    async def scenario():
        follower = AnalyticsFollower(own, commit_rows=1)
        await follower.open(tenant, story.stream)
        await follower.apply(story.batch(1, 30))
        with own.opened().update_schema() as change:
            change.add_column("note", StringType())
        await follower.apply(story.batch(31, len(story.records)))
        await follower.close()

    asyncio.run(scenario())
    before = own.table("events")
    own.maintain()

    assert own.table("events") == before
    assert {row["note"] for row in before} == {None}
    assert len(before) == len(story.records)
    assert derived_in(own) == derived_of(story.records)


def test_a_field_that_an_event_type_gains_needs_no_change(own, tenant):
    story = Story(tenant)
    publish(story)
    completed = next(one for one in finish(story, "zoe", 60_000) if "quest-completed" in one.event.type)
    own.feed(story)
    rows = own.opened().scan(f"stream_seq == {completed.stream_seq}").to_arrow()
    data = json.loads(rows.column("data")[0].as_py())
    kind = rows.column("event_type")[0].as_py()

    said = lake.fold(lake.TABLES.values(), [lake.Fact(1, kind, None, "zoe", json.dumps(data | {"mood": "glad"}))])

    assert json.loads(completed.body)["data"] == data
    assert said == lake.fold(lake.TABLES.values(), [lake.Fact(1, kind, None, "zoe", json.dumps(data))])


def test_duckdb_reads_every_table_as_pyiceberg_does(own, tenant):
    own.feed(random_story(tenant, seed=78, events=60), pieces=2)
    own.maintain()
    with duckdb.connect() as engine:
        engine.execute("SET TimeZone = 'UTC'")
        for name in ("events", *lake.TABLES):
            order = "stream_seq" if name == "events" else ", ".join(lake.TABLES[name].key)
            arrow = own.opened(name).scan().to_arrow()
            # The iceberg extension would have to be downloaded; the files that the metadata list are the table.
            files = engine.read_parquet([str(path) for path in own.files(name)], union_by_name=True)

            in_files = files.order(order).to_arrow_table().to_pylist()
            through_arrow = engine.from_arrow(arrow).order(order).to_arrow_table().to_pylist()

            by_key = [(column, "ascending") for column in order.split(", ")]
            assert in_files == through_arrow == arrow.sort_by(by_key).to_pylist()
            assert in_files


def test_the_examples_of_the_page_do_what_they_say(own, tenant, shell):
    own.feed(random_story(tenant, seed=79, events=60), pieces=2)
    own.maintain(KEEP_ALL)
    page = (ROOT / "docs/analytics.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]

    said = []
    space = {"settings": own, "tenant": tenant, "print": lambda *what: said.append(what)}
    for block in blocks:
        exec(compile(block, "analytics.md", "exec"), space)
    space["catalog"].close()

    assert len(blocks) >= 5
    assert len(lines) >= 6
    assert (10, 10) in said
    for line in lines:
        code, out, err = shell(line)
        assert (code, err) == (0, ""), line
        assert out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tally lake query nothing", "there is events"),
        ("tally lake query events --as-of soon", "--as-of is 'soon'"),
        ("tally lake query events --where 'version >'", "--where is"),
        ("tally lake query events --where 'colour == 3'", "--where does not fit"),
        ("tally lake query events --columns colour", "no column 'colour'"),
        ("tally lake query events -n -1", "-n is -1"),
        ("tally lake maintain --older-than soon", "--older-than is 'soon'"),
        ("tally lake maintain --grace 1s", "at least 10m"),
    ],
)
def test_wrong_use_is_one_line(own, tenant, shell, line, said):
    own.feed(random_story(tenant, seed=80, events=10), up_to=5)

    code, out, err = shell(line)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_tenant_without_events_in_the_lake_is_one_line(shell):
    for action in ("maintain", "tables", "query events", "files events"):
        code, _, err = shell(f"tally lake {action}")

        assert (code, err.count("\n")) == (2, 1)
        assert "has no table 'events'" in err


def test_groups_are_of_one_quiet_partition_and_no_larger_than_the_target():
    def file(name, partition, size, added_at_ms=0):
        return LiveFile(path=name, partition=partition, ends_at_ms=10, added_at_ms=added_at_ms, rows=1, size_bytes=size)

    files = [file("a", 1, 40), file("b", 1, 40), file("c", 1, 30), file("d", 1, 30), file("e", 1, 50)]
    files += [file("f", 2, 1), file("g", 2, 1, 95), file("h", 3, 1)]
    groups = to_compact(files, now_ms=100, quiet_ms=10, target_bytes=100)

    assert [[one.path for one in group] for group in groups] == [["a", "b"], ["c", "d"]]
    assert to_compact(files, now_ms=19, quiet_ms=10, target_bytes=100) == []


@pytest.mark.parametrize(("text", "ms"), [("0s", 0), ("90s", 90_000), ("30m", 1_800_000), ("7d", 604_800_000)])
def test_a_duration_is_a_number_and_a_unit(text, ms):
    assert parse_duration("--keep", text) == ms


@pytest.mark.parametrize("text", ["", "7", "d", "+7d", "07d", "1.5h", "7 d", "7w", "\u0667d"])
def test_a_duration_that_makes_no_sense_is_refused(text):
    with pytest.raises(ProjectionError, match="--keep"):
        parse_duration("--keep", text)


def test_a_snapshot_of_a_table_without_positions_is_not_found():
    with contextlib.suppress(NotFound):
        lake_upkeep.standing_at("events", [], 5, is_cut=True)
        pytest.fail("nothing can stand anywhere")


def test_days_at_the_edges_of_time_are_days_like_any_other(own, tenant):
    story = Story(tenant)
    publish(story)
    finish(story, "ann", 60_000)
    for at_ms in (TIME_MS_MIN, -1, 0, TIME_MS_MAX - 1):
        story.tell("token", "ann", MintTokens(amount=2, reason="édgé"), at_ms)
    own.feed(story, pieces=2)
    own.maintain()
    story.tell("token", "ann", MintTokens(amount=3, reason="édgé"), -1)
    own.feed(story)

    own.maintain()

    assert derived_in(own) == derived_of(story.records)
