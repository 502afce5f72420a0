"""Projectors that are killed at random points, and two copies of one at once: the fold of the stream, row for row.

The long form, 100 kills for each sink: `make chaos`, or `pytest tests/projections/test_projector_crashes.py
--projector-kills 100 -s`; `--projector-seed` repeats a run's random choices.
"""

import asyncio
import random

import pytest
from crashes import crash
from test_followers import ALL

SHORT_KILLS, SHORT_SEED = 3, 41
TIMEOUT_S = 3600  # the long form


@pytest.fixture
def kills(request):
    return request.config.getoption("--projector-kills")


@pytest.fixture
def seed(request, kills):
    chosen = request.config.getoption("--projector-seed")
    if chosen is None:
        chosen = SHORT_SEED if kills == SHORT_KILLS else random.SystemRandom().randrange(1 << 32)
    print(f"--projector-seed {chosen}")
    return chosen


@ALL
@pytest.mark.timeout(TIMEOUT_S)
def test_killed_at_random_points_while_events_flow_it_ends_with_the_fold(sink, settings, tenant, tmp_path, kills, seed):
    done = asyncio.run(crash(sink, settings, tenant, tmp_path, kills=kills, seed=seed))

    print(done)
    assert done.in_work


@ALL
@pytest.mark.timeout(TIMEOUT_S)
def test_two_copies_at_once_one_of_them_killed_now_and_then_end_with_the_fold(
    sink, settings, tenant, tmp_path, kills, seed
):
    done = asyncio.run(crash(sink, settings, tenant, tmp_path, kills=max(1, kills // 3), seed=seed + 1, copies=2))

    print(done)
    assert done.refused
