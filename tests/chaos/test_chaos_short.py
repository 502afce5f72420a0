"""Crashes under load in short: real workers and a real server, killed and stopped by a schedule with a fixed seed."""

import asyncio
from collections import Counter

import pytest

from simulations.chaos import run
from simulations.chaos_report import print_result
from simulations.chaos_schedule import LONG, SHORT, SHORT_CLUSTER, duration_s, schedule


@pytest.mark.timeout(180)
def test_kills_of_workers_and_server_and_a_stopped_worker_lose_double_and_reorder_nothing(tmp_path):
    said: list[str] = []

    result = asyncio.run(run(SHORT, seed=166, folder=tmp_path, say=said.append))

    print_result(result)
    assert [list(verdict.faults) for verdict in result.verdicts] == [[], []]
    assert all(verdict.ok for verdict in result.verdicts)
    assert Counter(struck.fault.kind for struck in result.struck) == SHORT.faults
    assert len(said) == sum(SHORT.faults.values())
    assert all(verdict.counts["operations"] > 300 for verdict in result.verdicts)
    assert all(wait >= 0 for waits in result.waits_ms.values() for wait in waits)


@pytest.mark.parametrize("plan", [SHORT, SHORT_CLUSTER, *LONG], ids=lambda plan: plan.name)
def test_a_seed_gives_the_same_faults_again_and_another_seed_others(plan):
    assert schedule(plan, 7) == schedule(plan, 7) != schedule(plan, 8)
    assert Counter(fault.kind for fault in schedule(plan, 7)) == plan.faults


def test_the_long_form_kills_as_often_as_promised_and_stays_within_twenty_minutes():
    kinds = sum((Counter(plan.faults) for plan in LONG), Counter())
    for seed in range(50):
        lasting = sum(duration_s(plan, schedule(plan, seed)) for plan in LONG)
        assert lasting < 18 * 60

    assert kinds["kill worker"] >= 50
    assert kinds["kill server"] >= 20
    assert kinds["stop worker"]
    assert kinds["kill leader"]
    assert kinds["stop node"]
    assert kinds["cut leader"] + kinds["cut routes"] + kinds["cut node"] >= 9
