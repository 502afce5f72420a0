"""Each measurement runs to its end on real servers; in tiny sizes only what it counts is told, its figure is not."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

from benchmarks.__main__ import MEASUREMENTS
from benchmarks.cold import cold_vs_warm_on
from benchmarks.crew import SERVERS_ONLY, Crew
from benchmarks.eventsourcing_postgres import commit_vs_eventsourcing_postgres_on
from benchmarks.freshness import STEADY, freshness_p99_ms_on
from benchmarks.hot import hot_quest_vs_ordinary_on
from benchmarks.intake_modes import intake_durable_vs_fast_on
from benchmarks.lab import lab
from benchmarks.latency import command_p99_ms_at_2000_on
from benchmarks.passivation import passivation_of
from benchmarks.ranks import rank_us_on
from benchmarks.rebuilds import fill, rebuild_vs_reader_on
from benchmarks.scaling import workers_1_2_4_on
from benchmarks.segments import segment_p99_ms_on
from benchmarks.signing import signer_vs_bare_on

SIZE = 40


@pytest.fixture(scope="module")
def found():
    with lab(SERVERS_ONLY) as servers:
        yield servers


def test_every_measurement_in_the_table_is_there():
    for place in MEASUREMENTS.values():
        module, _, function = place.partition(":")

        assert callable(getattr(importlib.import_module(module), function))


def test_both_modes_of_intake_take_commands(found):
    measured = intake_durable_vs_fast_on(found, rounds=1, size=SIZE)

    assert measured.value > 0
    assert set(measured.details["commands_per_second"]) == {"fast", "durable"}


def test_a_worker_that_was_restarted_works_the_backlog_off(found):
    measured = cold_vs_warm_on(found, rounds=1, size=SIZE, ways=["sigterm"])

    assert measured.value > 0
    assert set(measured.details["ratio"]) == {"sigterm"}


def test_two_workers_work_the_backlog_off(found):
    measured = workers_1_2_4_on(found, rounds=1, size=SIZE, counts=(1, 2))

    assert measured.value >= 1
    assert set(measured.details["ratio"]) == {"1", "2"}


def test_a_limited_supply_goes_to_the_first(found):
    measured = hot_quest_vs_ordinary_on(found, rounds=1, size=SIZE, counts=(1,))

    assert measured.value > 0
    assert set(measured.details["ratio"]) == {"supply 1, 1 worker", "supply 20, 1 worker"}


def test_every_command_of_the_open_loop_is_answered(found):
    measured = command_p99_ms_at_2000_on(found, rounds=1, size=SIZE)

    assert measured.value > 0
    assert set(measured.details["latency_ms"]) == {"worker only", "everything running"}
    assert measured.details["fsync_ms_before_and_after"][0]["p50"] > 0


def test_every_question_about_a_board_is_counted_by_the_server(found):
    measured = rank_us_on(found, rounds=1, size=200, questions=20)

    assert measured.value > 0
    assert len(measured.details["microseconds"]) == 7
    assert all(one["p99"] >= one["p50"] > 0 for one in measured.details["microseconds"].values())


def test_three_ways_to_find_a_segment_count_the_same_players(found):
    measured = segment_p99_ms_on(found, rounds=1, size=2_000, questions=25)

    assert measured.value > 0
    assert measured.details["sizes"]["largest"] > 0
    assert all(measured.details[way]["p50"] > 0 for way in ("ours_ms", "postgres_ms", "redis_sets_ms"))


def test_the_library_on_postgres_stores_the_same_completions(found):
    measured = commit_vs_eventsourcing_postgres_on(
        found, rounds=1, size=SIZE, theirs=8, options=["aggregates in memory"], counts=(1, 2)
    )

    assert measured.value > 0
    (by_options,) = measured.details["eventsourcing_by_options"].values()
    assert set(by_options["per_second_by_clients"]) == {"1", "2"}
    assert measured.details["postgres"]["fsync"] == "on"


@pytest.fixture(scope="module")
def history(found):
    fill(found, SIZE)


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("projection", ["leaderboards", "readmodels", "analytics"])
def test_a_projection_is_rebuilt_beside_a_bare_reader(found, projection):
    measured = rebuild_vs_reader_on(found, projection, rounds=1)

    assert measured.value > 0
    assert measured.details["events"] >= 6 * SIZE
    assert set(measured.details["events_per_second"]) == {"nats-py", "frames", projection}


@pytest.mark.timeout(300)
def test_every_event_of_the_load_is_seen_in_every_projection(found, monkeypatch):
    monkeypatch.setenv("TALLY_ANALYTICS_COMMIT_AGE_S", "1")
    with Crew(found), Crew(found, group="leaderboards,readmodels,analytics"):
        measured = freshness_p99_ms_on(found, rounds=1, size=SIZE, loads=[STEADY])

    assert measured.value > 0
    assert set(measured.details["freshness_ms"][STEADY]) == {"leaderboards", "readmodels", "analytics"}


def test_more_players_than_a_worker_may_keep_pass_through_it():
    measured = passivation_of(players=60, owners_max=8, waves_max=6)

    assert measured.value >= 1
    assert [wave["players"] for wave in measured.details["waves"]] == list(range(10, 61, 10))
    assert measured.details["peak_mb"] >= measured.baseline > 0


def test_every_event_that_was_appended_is_signed(found):
    measured = signer_vs_bare_on(found, rounds=1, events=1_000)

    assert measured.value > 0
    assert measured.details["rounds"][0]["checkpoints"] >= 1
    assert measured.details["freshness_p99_s"] > 0
    (wanted,) = measured.details["at_40000_per_second"]
    assert 0 < wanted["appended_per_second"] < 40_100  # of two batches the second is due after 999 events
