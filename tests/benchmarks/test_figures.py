"""How figures are made of rounds: medians of ratios taken within a round; a run that lost something is no figure."""

from __future__ import annotations

import itertools

import pytest

from adapters.errors import TallyError
from benchmarks import cold, freshness, hot, intake_modes, latency, pace, rebuilds, scaling
from benchmarks import eventsourcing_postgres as postgres
from benchmarks.backlog import Done, events_of
from benchmarks.disk import fsync_ms
from benchmarks.open_loop_client import completion, schedule


def done(rate):
    return Done(1, 400, 1, 100 / rate, 0.1, 0.1, rate, {"workers": 1.0})


def run(latencies, **more):
    count = len(latencies)
    return {
        "sent": count,
        "answered": count,
        "refused": 0,
        "example": "",
        "offered_s": 1.0,
        "answered_s": 1.25,
        "latencies_us": latencies,
        "late_us": [0] * count,
        "answered_at_s": [0.1, 1.2],
        **more,
    }


@pytest.mark.parametrize(
    ("completions", "supply", "events"), [(10, None, 40), (10, 0, 30), (10, 4, 38), (10, 10, 50), (10, 99, 50)]
)
def test_events_of_a_backlog_are_known_beforehand(completions, supply, events):
    assert events_of(completions, supply) == events


def test_cold_over_warm_is_the_median_of_the_ratios_of_the_rounds():
    rates = {cold.WARM: [100, 200, 400], cold.TERMINATED: [50, 180, 240], cold.KILLED: [10, 10, 40]}

    found = cold.as_measurement({way: [done(rate) for rate in of_way] for way, of_way in rates.items()}, {})

    assert found.value == 0.6
    assert found.baseline == 200
    assert found.details["ratio"] == {"sigterm": 0.6, "sigkill": 0.1}


def test_the_best_number_of_workers_counts_and_one_may_be_the_best():
    found = scaling.as_measurement({1: [done(100)], 2: [done(150)], 4: [done(120)]}, {})
    single = scaling.as_measurement({1: [done(100)], 2: [done(50)], 4: [done(20)]}, {})

    assert (found.value, found.baseline) == (1.5, 100)
    assert single.value == 1.0


def test_the_worst_case_of_the_hot_quest_is_its_figure():
    rates = {(1, None): 100, (1, 5): 90, (1, 50): 70, (4, None): 200, (4, 5): 190, (4, 50): 120}

    found = hot.as_measurement({hot.Case(*case): [done(rate)] for case, rate in rates.items()}, {})

    assert (found.value, found.baseline) == (0.6, 200)
    assert "supply 50, 4 workers" in found.of


def test_the_baseline_on_postgres_is_the_fastest_options_with_one_client():
    slow = [postgres.Theirs("defaults", 1, 10.0, 0.1), postgres.Theirs("defaults", 2, 16.0, 0.1)]
    rates = {1: 20.0, 2: 40.0, 4: 30.0}
    fast = [postgres.Theirs("aggregates in memory", clients, rate, 0.1) for clients, rate in rates.items()]

    found = postgres.as_measurement([done(800)], [[*slow, *fast]], {})

    assert (found.value, found.baseline) == (40, 20)
    assert found.details["eventsourcing_by_options"] == {
        "defaults": {
            "ratio_to_one_client": 80,
            "ratio_to_best_number_of_clients": 50,
            "per_second_by_clients": {"1": 10.0, "2": 16.0},
        },
        "aggregates in memory": {
            "ratio_to_one_client": 40,
            "ratio_to_best_number_of_clients": 20,
            "per_second_by_clients": {"1": 20.0, "2": 40.0, "4": 30.0},
        },
    }


def test_durable_intake_is_set_against_fast_intake_of_the_same_round():
    found = intake_modes.as_measurement({"fast": [100.0, 200.0, 300.0], "durable": [10.0, 40.0, 30.0]}, {})

    assert (found.value, found.baseline) == (0.1, 200)


def test_the_latency_of_commands_stands_beside_the_bare_one():
    one = {"commands": latency.summary(run([30_000, 20_000])), "bare": latency.summary(run([3_000, 2_000]))}

    found = latency.as_measurement({latency.WORKER_ONLY: [one], latency.EVERYTHING: [one]}, {})

    assert 29.9 < found.value < 30.1
    assert 2.99 < found.baseline < 3.01
    assert 9.9 < found.details["latency_ms"]["worker only"]["p99_ratio"] < 10.1
    assert one["bare"]["answered_in_each_second"] == [1, 1]
    assert one["bare"]["drained_after_s"] == 0.25


@pytest.mark.parametrize("more", [{"answered": 1}, {"refused": 1}])
def test_a_run_with_a_lost_or_refused_command_is_no_figure(more):
    with pytest.raises(TallyError):
        latency.summary(run([1_000, 1_000], **more))


def test_the_schedule_is_fixed_by_its_seed_and_keeps_the_rate():
    due = schedule(10_000, 2_000.0, seed=7)

    assert due == schedule(10_000, 2_000.0, seed=7)
    assert due != schedule(10_000, 2_000.0, seed=8)
    assert all(before <= after for before, after in itertools.pairwise(due))
    assert 4.8 < due[-1] < 5.2


def test_both_runs_of_the_open_loop_publish_the_same_bodies():
    first, second = completion("t", "q", "u1"), completion("t", "q", "u2")

    assert first.body.replace(b"u1", b"u2") == second.body
    assert b'"id":"u1-open-loop-q"' in first.body


def test_the_disk_says_how_long_a_sync_takes(tmp_path):
    found = fsync_ms(tmp_path, writes=3)

    assert 0 < found["p50"] <= found["p99"] <= found["max"]


def test_the_processor_says_how_long_a_fixed_loop_takes():
    found = pace.pace_ms(loops=3)

    assert 0 < found["p50"] <= found["max"]


def test_what_the_host_took_is_a_share_of_all_that_passed(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    monkeypatch.setattr(pace, "STAT", stat)
    stat.write_text("cpu  100 10 50 1000 5 0 1 30 0 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n")
    since = pace.host_took()
    stat.write_text("cpu  140 10 60 1045 5 0 1 35 0 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n")

    assert since() == 0.05


def test_a_rebuild_is_set_against_the_bare_reader_of_its_round_with_hash_and_switch():
    def passed(seconds, filled_s):
        return rebuilds.Pass(1_000, seconds, filled_s, {"process": 1.0})

    readers = {rebuilds.CALLBACK: [passed(1.0, 1.0), passed(2.0, 2.0)], rebuilds.FRAMES: [passed(0.5, 0.5)] * 2}
    found = rebuilds.as_measurement("analytics", {**readers, "analytics": [passed(2.0, 1.6), passed(2.5, 2.0)]}, {})

    assert found.value == 0.65
    assert found.details["filling_ratio"] == 0.8125
    assert found.details["ratio_to_frames"] == 0.225
    assert found.baseline == 750


def test_an_event_is_visible_when_a_position_at_or_behind_it_is_first_seen():
    seen = freshness.Seen()
    for position, at_ns in ((2, 5_000_000), (2, 6_000_000), (5, 9_000_000)):
        seen.add(position, at_ns)

    assert seen.waits_us(1, [1_000_000, 2_000_000, 3_000_000, 4_000_000]) == [4_000, 3_000, 6_000, 5_000]
    with pytest.raises(TallyError, match="seen up to event 5"):
        seen.waits_us(5, [1, 2])
