"""The Iceberg table: partitions by event time, commits by size and age, one table per tenant."""

import asyncio
from datetime import UTC, datetime

import pytest
from stories import START_MS, Story, publish, random_story

from adapters import iceberg, iceberg_table
from adapters.iceberg import AnalyticsFollower
from domain.player import AcceptQuest, ReachStep, RegisterPlayer
from projections.errors import ProjectionError, SinkUnavailable

HOUR_MS = 3_600_000


def partitions(settings, tenant):
    """Rows per event type and hour since 1970, as the table's metadata count them."""
    with iceberg_table.events_table(settings, tenant) as table:
        found = table.inspect.partitions().to_pylist()
    return {(row["partition"]["event_type"], row["partition"]["time_hour"]): row["record_count"] for row in found}


def snapshots(settings, tenant):
    with iceberg_table.events_table(settings, tenant) as table:
        return len(table.metadata.snapshots)


async def write(settings, story, **options):
    follower = AnalyticsFollower(settings, **options)
    position = await follower.open(story.tenant, story.stream)
    await follower.apply(story.batch(position.stream_seq + 1, len(story.records)))
    await follower.close()


def test_a_late_event_lands_in_the_hour_in_which_it_happened(settings, tenant):
    async def scenario():
        story = Story(tenant)
        publish(story)
        story.tell("player", "ann", RegisterPlayer(), START_MS)
        story.tell("player", "ann", AcceptQuest(quest="race"), START_MS)
        story.tell("player", "ann", ReachStep(quest="race", step="10k", elapsed_ms=3 * HOUR_MS), START_MS + 3 * HOUR_MS)
        await write(settings, story)
        story.tell("player", "ann", ReachStep(quest="race", step="5k", elapsed_ms=60_000), START_MS + 60_000)
        await write(settings, story)

        hour = START_MS // HOUR_MS
        found = partitions(settings, tenant)
        assert found["step-reached/1", hour + 3] == 1
        assert found["step-reached/1", hour] == 1
        assert found["quest-published/1", hour - 1] == 1
        assert sum(found.values()) == len(story.records)

    asyncio.run(scenario())


def test_a_filter_by_tenant_type_and_time_reads_only_the_files_of_that_hour(settings, tenant):
    asyncio.run(write(settings, random_story(tenant, seed=31)))

    with iceberg_table.events_table(settings, tenant) as table:
        everything = len(list(table.scan().plan_files()))
        one_hour = list(
            table.scan(
                f"tenant == '{tenant}' and event_type == 'step-reached/1' "
                "and time >= '2014-04-21T15:00:00+00:00' and time < '2014-04-21T16:00:00+00:00'"
            ).plan_files()
        )

    assert len(one_hour) == 1 < everything


def test_rows_wait_until_there_are_enough_or_they_are_old_enough(settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=32)
        follower = AnalyticsFollower(settings, commit_rows=100, commit_age_s=0.2)
        await follower.open(tenant, story.stream)

        await follower.apply(story.batch(1, 60))
        await follower.idle()
        waiting = await iceberg.read_position(settings, tenant)
        await follower.apply(story.batch(61, 120))
        by_size = await iceberg.read_position(settings, tenant)
        await follower.apply(story.batch(121, 130))
        await asyncio.sleep(0.25)
        await follower.idle()
        by_age = await iceberg.read_position(settings, tenant)
        await follower.close()

        assert waiting is None
        assert (by_size.stream_seq, by_age.stream_seq) == (120, 130)
        assert snapshots(settings, tenant) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["0", "-1", "soon", "1.5", "+7"])
def test_a_commit_age_that_makes_no_sense_is_refused_in_one_line(settings, monkeypatch, text):
    monkeypatch.setenv("TALLY_ANALYTICS_COMMIT_AGE_S", text)

    with pytest.raises(ProjectionError, match="TALLY_ANALYTICS_COMMIT_AGE_S"):
        AnalyticsFollower(settings)


def test_closing_commits_what_waits_and_a_crash_loses_it_to_the_next_start(settings, tenant):
    async def scenario():
        story = random_story(tenant, seed=33)
        crashed = AnalyticsFollower(settings)
        await crashed.open(tenant, story.stream)
        await crashed.apply(story.batch(1, 50))

        again = AnalyticsFollower(settings)
        position = await again.open(tenant, story.stream)
        await again.apply(story.batch(1, 80))
        await again.close()
        crashed._let_go()

        assert position.stream_seq == 0
        assert (await iceberg.read_position(settings, tenant)).stream_seq == 80
        assert [row["stream_seq"] for row in iceberg.read_rows(settings, tenant)] == list(range(1, 81))

    asyncio.run(scenario())


def test_every_tenant_has_a_table_of_its_own(settings, tenant):
    async def scenario():
        other = f"{tenant}-b"
        await write(settings, random_story(tenant, seed=34))
        await write(settings, random_story(other, seed=35, events=50))

        assert {row["tenant"] for row in iceberg.read_rows(settings, tenant)} == {tenant}
        assert {row["tenant"] for row in iceberg.read_rows(settings, other)} == {other}

    asyncio.run(scenario())


def test_times_are_moments_with_a_zone_and_data_are_json(settings, tenant):
    asyncio.run(write(settings, random_story(tenant, seed=36, events=20)))

    with iceberg_table.events_table(settings, tenant) as table:
        rows = table.scan(row_filter="event_type == 'quest-published/1'", selected_fields=("time", "data")).to_arrow()

    assert rows.column("time")[0].as_py() == datetime(2014, 4, 21, 13, tzinfo=UTC)
    assert '"title"' in rows.column("data")[0].as_py()


def test_a_warehouse_may_lie_in_a_folder_with_any_name(tenant, tmp_path):
    folder = tmp_path / "a lake für alle"
    folder.mkdir()

    class Here:
        iceberg_catalog_uri = f"sqlite:///{folder}/catalog.db"
        iceberg_warehouse = folder.as_uri()

    asyncio.run(write(Here(), random_story(tenant, seed=37, events=20)))

    assert list(tmp_path.iterdir()) == [folder]
    assert sum(iceberg.count_by_type(Here(), tenant).values()) >= 20


def test_a_catalog_that_is_not_there_is_one_line(tenant, tmp_path):
    class Nowhere:
        iceberg_catalog_uri = f"sqlite:///{tmp_path}/missing/catalog.db"
        iceberg_warehouse = tmp_path.as_uri()

    with pytest.raises(SinkUnavailable, match="TALLY_ICEBERG_CATALOG_URI") as refused:
        asyncio.run(iceberg.read_position(Nowhere(), tenant))

    assert "\n" not in str(refused.value)
