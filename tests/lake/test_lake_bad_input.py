"""A lake that somebody damaged: a clear line, the way out named and taken, nothing silently skipped."""

import asyncio

import pytest
from pyiceberg.types import StringType

from adapters.iceberg import AnalyticsFollower
from adapters.iceberg_table import PROJECTION_VERSION
from adapters.lake import carried, opened
from projections.errors import Inconsistent, ProjectionError
from tests.lake.lakes import Lake
from tests.projections.stories import random_story


@pytest.fixture
def own(tmp_path, tenant):
    return Lake(tmp_path, tenant)


@pytest.fixture
def story(own, tenant):
    """A story of which the first half is in the lake."""
    found = random_story(tenant, seed=81, events=60, minutes=50)
    own.feed(found, up_to=30)
    return found


def require_one_line(refused, *words):
    said = str(refused.value)
    assert "\n" not in said
    for word in words:
        assert word in said


def take_out(own):
    """The way out of docs/analytics.md."""
    with opened(own) as catalog:
        catalog.drop_table((own.tenant, "events"))


@pytest.mark.parametrize("kind", ["*.metadata.json", "snap-*.avro", "*-m0.avro"], ids=["metadata", "list", "manifest"])
def test_metadata_that_somebody_deleted_are_named_with_the_way_out(own, tenant, story, kind):
    for path in own.folder.rglob(kind):
        if "events" in path.parts:
            path.unlink()

    with pytest.raises(ProjectionError) as refused:
        own.feed(story)
        own.table("events")

    require_one_line(refused, ".json" if "json" in kind else ".avro", "docs/analytics.md")
    take_out(own)
    own.feed(story)
    assert own.info().rows == len(story.records)


@pytest.mark.usefixtures("story")
def test_rows_that_somebody_deleted_are_named_with_the_way_out(own):
    for path in own.folder.rglob("*.parquet"):
        path.unlink()

    with pytest.raises(ProjectionError) as refused:
        own.table("events")

    require_one_line(refused, ".parquet", "tally rebuild analytics --accept")


def test_a_table_that_lost_a_column_is_refused_and_a_new_one_is_filled_from_the_first_event(own, tenant, story):
    table = own.opened()
    with table.update_schema(allow_incompatible_changes=True) as change:
        change.delete_column("causation_id")
    table.catalog.close()

    with pytest.raises(Inconsistent) as refused:
        own.feed(story)
    require_one_line(refused, "events", tenant, "causation_id", "docs/analytics.md")

    take_out(own)
    own.feed(story)
    assert sorted(row["stream_seq"] for row in own.table("events")) == list(range(1, len(story.records) + 1))


def test_a_column_that_became_another_type_is_refused(own, tenant, story):
    table = own.opened()
    with table.update_schema(allow_incompatible_changes=True) as change:
        change.delete_column("version")
    with table.update_schema() as change:
        change.add_column("version", StringType())
    table.catalog.close()

    with pytest.raises(Inconsistent) as refused:
        own.feed(story)

    require_one_line(refused, "column version is string", "wanted long")


def test_a_table_of_a_newer_version_of_the_program_is_refused_and_left_alone(own, tenant, story):
    table = own.opened()
    summary = carried(table.current_snapshot()) | {PROJECTION_VERSION: "999"}
    table.append(table.scan().to_arrow().slice(0, 0), snapshot_properties=summary)
    table.catalog.close()

    with pytest.raises(ProjectionError) as refused:
        own.feed(story)

    require_one_line(refused, "999", "upgrade")
    assert own.info().rows == 30


def test_a_generation_of_an_older_version_goes_on_until_it_is_rebuilt(own, tenant, story):
    table = own.opened()
    summary = carried(table.current_snapshot()) | {PROJECTION_VERSION: "0"}
    table.append(table.scan().to_arrow().slice(0, 0), snapshot_properties=summary)
    table.catalog.close()

    own.feed(story)

    assert own.info().rows == len(story.records)


def test_a_catalog_without_the_table_is_filled_from_the_first_event(own, tenant, story):
    take_out(own)

    position = asyncio.run(AnalyticsFollower(own).open(tenant, story.stream))
    own.feed(story)

    assert position.stream_seq == 0
    assert own.info().rows == len(story.records)
