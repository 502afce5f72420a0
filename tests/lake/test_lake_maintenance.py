"""Maintenance loses no row and no position, whatever runs beside it."""

import asyncio
import os
import random
import subprocess
import sys

import pytest

from adapters import lake, lake_maintenance
from adapters.iceberg import AnalyticsFollower
from adapters.iceberg_table import position_of
from projections.errors import Inconsistent, NotFound
from projections.lake_upkeep import HOUR_MS
from tests.lake.lakes import EAGER, Lake, derived_in, derived_of
from tests.platform.source_tree import ROOT
from tests.projections.stories import random_story

LIMITS = lake_maintenance.Limits


@pytest.fixture
def own(tmp_path, tenant):
    return Lake(tmp_path, tenant)


def sequences(own):
    return sorted(row["stream_seq"] for row in own.query("events", columns=["stream_seq"]).rows)


def test_small_files_of_an_hour_become_one_and_no_row_and_no_position_is_lost(own, tenant):
    story = random_story(tenant, seed=51, events=60)
    own.feed(story, pieces=3)
    rows, before, stands = own.table("events"), own.info(), position_of(own.opened())

    report = own.maintain()

    after = own.info()
    assert own.table("events") == rows
    assert position_of(own.opened()) == stands
    assert after.stream_seq == before.stream_seq == len(story.records)
    assert after.files < before.files
    assert len(after.snapshots) == 1 < len(before.snapshots)
    partitions = [tuple(str(path.parent).split("/")[-3:]) for path in own.files()]
    assert len(set(partitions)) == len(partitions)
    assert own.maintain().tables[0].files_compacted == 0 < report.tables[0].files_compacted


def test_an_hour_in_which_something_was_added_lately_is_left_alone(own, tenant):
    own.feed(random_story(tenant, seed=52, events=40), pieces=2)
    before = own.files()

    report = own.maintain(LIMITS())

    assert report.tables[0].files_compacted == 0
    assert own.files() == before


def test_the_analytics_go_on_after_a_compaction_between_two_of_their_commits(own, tenant):
    story = random_story(tenant, seed=53, events=60)

    async def scenario():
        follower = AnalyticsFollower(own, commit_rows=1)
        await follower.open(tenant, story.stream)
        await follower.apply(story.batch(1, 20))
        await follower.apply(story.batch(21, 40))
        compacted = lake_maintenance.compact(await asyncio.to_thread(own.opened), 0)
        await follower.apply(story.batch(41, len(story.records)))
        await follower.close()
        assert compacted > 0

    asyncio.run(scenario())

    assert sequences(own) == list(range(1, len(story.records) + 1))


def test_two_maintainers_beside_running_analytics_lose_and_double_nothing(own, tenant):
    story, dice = random_story(tenant, seed=54, events=90), random.Random(54)
    begun, done = asyncio.Event(), asyncio.Event()

    async def analytics():
        follower = AnalyticsFollower(own, commit_rows=1)
        await follower.open(tenant, story.stream)
        await follower.apply(story.batch(1, 5))
        begun.set()
        at = 5
        while at < len(story.records):
            end = min(len(story.records), at + dice.randrange(5, 20))
            await follower.apply(story.batch(at + 1, end))
            at = end
            await asyncio.sleep(0.2)
        await follower.close()
        done.set()

    async def in_this_process():
        runs = 0
        while not done.is_set():
            try:
                await asyncio.to_thread(own.maintain)
                runs += 1
            except NotFound:
                await asyncio.sleep(0.01)
        return runs

    async def in_another_process():
        words = ["lake", "maintain", "--older-than", "0s", "--keep", "0s", "--tenant", tenant]
        environ = os.environ | {
            "TALLY_ICEBERG_CATALOG_URI": own.iceberg_catalog_uri,
            "TALLY_ICEBERG_WAREHOUSE": own.iceberg_warehouse,
        }
        await begun.wait()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "adapters.cli", *words, cwd=ROOT, env=environ, stdout=subprocess.PIPE
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:  # another part of the scenario failed
                process.kill()
                await process.communicate()
        return process.returncode, said.decode()

    async def scenario():
        return await asyncio.gather(in_this_process(), in_another_process(), analytics())

    runs, (code, said), _ = asyncio.run(scenario())
    own.maintain()

    assert runs > 0
    assert code == 0, said
    assert said.startswith(f"{tenant} at event")
    assert sequences(own) == list(range(1, len(story.records) + 1))
    assert derived_in(own) == derived_of(story.records)


def test_who_expires_snapshots_a_moment_after_another_maintainer_did_looks_again(own, tenant, monkeypatch):
    own.feed(random_story(tenant, seed=59, events=60), pieces=3)
    choose, overtaken = lake_maintenance.to_expire, []

    def chosen_and_then_overtaken(*found, **limits):
        due = choose(*found, **limits)
        if not overtaken:
            overtaken.append(True)
            overtaken.append(lake_maintenance.expire(own.opened(), 0))
        return due

    monkeypatch.setattr(lake_maintenance, "to_expire", chosen_and_then_overtaken)
    expired = lake_maintenance.expire(own.opened(), 0)

    assert overtaken == [True, 2]
    assert expired == 0
    assert len(own.info().snapshots) == 1


def test_snapshots_are_kept_as_long_as_asked_and_those_with_a_tag_for_ever(own, tenant):
    own.feed(random_story(tenant, seed=55, events=60), pieces=3)
    table = own.opened()
    tagged = table.metadata.snapshots[0].snapshot_id
    table.manage_snapshots().create_tag(tagged, "month-end").commit()

    own.maintain(LIMITS(keep_ms=HOUR_MS))
    kept = len(own.info().snapshots)
    own.maintain(LIMITS(keep_ms=0))

    assert kept == 3
    assert {one.snapshot_id for one in own.opened().metadata.snapshots} >= {tagged}
    assert len(own.opened().metadata.snapshots) == 2


def test_the_position_outlives_a_snapshot_of_an_engine_that_knows_nothing_of_it(own, tenant):
    story = random_story(tenant, seed=56, events=60)
    own.feed(story, up_to=50)
    table = own.opened()
    lake.replace(table, [], lake.write_files(table, table.scan().to_arrow().slice(0, 0)), {})

    own.maintain()

    assert position_of(own.opened()).stream_seq == 50
    own.feed(story)
    assert sequences(own) == list(range(1, len(story.records) + 1))


def test_only_old_files_that_nothing_refers_to_are_removed(own, tenant):
    own.feed(random_story(tenant, seed=57, events=60), pieces=3)
    own.age()
    stray = own.files()[0].parent / "left-by-a-crash.parquet"
    young = stray.with_name("of-a-commit-that-comes.parquet")
    for path in (stray, young):
        path.write_bytes(b"PAR1")
        if path is stray:
            own.age()
    held = own.files()

    own.maintain(LIMITS(quiet_ms=HOUR_MS, keep_ms=100 * HOUR_MS))

    assert not stray.exists()
    assert young.exists()
    assert all(path.exists() for path in held)


def test_what_an_expired_snapshot_alone_needed_goes_and_all_else_can_be_read(own, tenant):
    story = random_story(tenant, seed=58, events=60)
    own.feed(story, pieces=3)
    own.age()
    before = own.files()

    report = own.maintain()

    now = own.files()
    assert report.tables[0].orphans_removed > 0
    assert [path for path in before if path.exists()] == [path for path in before if path in now]
    assert sequences(own) == list(range(1, len(story.records) + 1))


def test_files_that_another_table_of_the_tenant_took_over_are_spared(own, tenant):
    own.feed(random_story(tenant, seed=59, events=60), pieces=2)
    table = own.opened()
    other = table.catalog.create_table((tenant, "events@kept"), schema=table.schema(), partition_spec=table.spec())
    files = [task.file for task in lake.tasks_of(table, table.current_snapshot())]
    lake.replace(other, [], files, {})
    own.age()

    own.maintain()

    assert other.refresh().scan().to_arrow().num_rows == own.info().rows


def test_a_data_file_that_is_gone_is_named_with_the_way_out(own, tenant):
    own.feed(random_story(tenant, seed=60, events=60), pieces=2)
    victim = own.files()[0]
    victim.unlink()

    for act in (own.maintain, lambda: own.table("events")):
        with pytest.raises(Inconsistent, match="tally rebuild analytics") as told:
            act()
        assert str(victim) in str(told.value)
        assert "\n" not in str(told.value)


def test_a_derived_table_whose_file_is_gone_is_made_anew_from_the_events(own, tenant):
    story = random_story(tenant, seed=61, events=60)
    own.feed(story)
    own.maintain()
    own.files("quest_funnel")[0].unlink()

    with pytest.raises(Inconsistent, match=f"tally lake maintain --tenant {tenant} --anew"):
        own.table("quest_funnel")
    with pytest.raises(Inconsistent, match="--anew"):
        own.maintain()
    own.maintain(is_anew=True)

    assert derived_in(own) == derived_of(story.records)


def test_a_commit_that_comes_too_late_again_and_again_says_so(own, tenant, monkeypatch):
    own.feed(random_story(tenant, seed=62, events=30), pieces=2)
    monkeypatch.setattr(lake, "_RETRY_WAIT_MAX_S", 0.001)

    def refused(*_):
        raise lake.CONFLICTS[0]("somebody else")

    monkeypatch.setattr(lake, "replace", refused)

    with pytest.raises(Inconsistent, match="run tally lake maintain again"):
        lake_maintenance.compact(own.opened(), EAGER.quiet_ms)
