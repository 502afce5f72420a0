"""How far apart a follower's batches begin: soon while few come, further apart in a burst."""

from __future__ import annotations

import pytest

from adapters.feed import BURST_EVERY_S, BURST_PER_S, BURST_SEEN_S, Pace

EVERY_S = 0.02


def waits_of(pace: Pace, per_s: int, *, from_s: float, to_s: float) -> list[float]:
    """What a follower waits after each batch while so many events a second come."""
    waits, now_s, before_s = [], from_s, from_s
    while now_s < to_s:
        waits.append(pace.next_at(round(per_s * (now_s - before_s)), now_s) - now_s)
        before_s, now_s = now_s, now_s + waits[-1]
    return waits


def test_a_follower_keeps_its_own_pace_while_fewer_events_come_than_in_a_burst() -> None:
    waits = waits_of(Pace(EVERY_S, 0.0), BURST_PER_S * 8 // 10, from_s=0.0, to_s=3.0)

    assert waits == pytest.approx([EVERY_S] * len(waits))


def test_batches_of_a_burst_begin_further_apart_until_it_is_over() -> None:
    pace = Pace(EVERY_S, 0.0)

    in_burst = waits_of(pace, BURST_PER_S * 2, from_s=0.0, to_s=3.0)
    after_it = waits_of(pace, BURST_PER_S // 10, from_s=3.0, to_s=6.0)

    assert in_burst[0] == pytest.approx(EVERY_S)
    assert in_burst[-1] == pytest.approx(BURST_EVERY_S)
    assert after_it[-1] == pytest.approx(EVERY_S)


def test_one_large_batch_after_a_quiet_time_is_no_burst() -> None:
    pace = Pace(EVERY_S, 0.0)

    wait_s = pace.next_at(BURST_PER_S // 10, 10 * BURST_SEEN_S) - 10 * BURST_SEEN_S

    assert wait_s == pytest.approx(EVERY_S)


def test_a_follower_slower_than_that_is_not_hurried() -> None:
    waits = waits_of(Pace(2 * BURST_EVERY_S, 0.0), BURST_PER_S * 2, from_s=0.0, to_s=3.0)

    assert waits == pytest.approx([2 * BURST_EVERY_S] * len(waits))
