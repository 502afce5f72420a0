from __future__ import annotations

import asyncio

from simulations.burst import Slice, slices
from simulations.lag import EVENTS, Samples, percentiles, settled


def test_lag_counts_from_when_the_stream_outgrew_the_projection():
    samples = Samples()
    samples.add(10.0, {EVENTS: 100, "boards": 100})
    samples.add(11.0, {EVENTS: 200, "boards": 100})
    samples.add(12.0, {EVENTS: 300, "boards": 100})
    samples.add(13.0, {EVENTS: 300, "boards": 300})

    lag = samples.lags()["boards"]

    assert lag.events_max == 200
    assert 0.99 < lag.worst_s < 1.01
    assert lag.complete_at == 13.0
    assert samples.grown_at() == 12.0


def test_a_projection_that_never_arrives_is_not_complete():
    samples = Samples()
    samples.add(1.0, {EVENTS: 5, "log": 0})
    samples.add(2.0, {EVENTS: 5, "log": 4})

    assert samples.lags()["log"].complete_at is None


async def settled_while_sampled(samples, *positions):
    waiting = asyncio.create_task(settled(samples, patience_s=0.3))
    for at, position in enumerate(positions, 10):
        await asyncio.sleep(0.01)
        samples.add(at, position)
    return await waiting


def test_waiting_ends_when_nothing_moves_any_more():
    behind, there = {EVENTS: 5, "log": 4}, {EVENTS: 5, "log": 5}

    assert asyncio.run(settled_while_sampled(Samples(), behind, behind)) is False
    assert asyncio.run(settled_while_sampled(Samples(), behind, there, there)) is True


def test_what_was_read_before_does_not_count_as_settled():
    samples = Samples()
    samples.add(1.0, {EVENTS: 5, "log": 5})

    assert asyncio.run(settled_while_sampled(samples)) is False
    assert asyncio.run(settled_while_sampled(samples, {EVENTS: 5, "log": 5}, {EVENTS: 9, "log": 5})) is False


def test_percentiles_are_those_of_the_values():
    found = percentiles([1_000] * 98 + [50_000, 900_000])

    assert abs(found["p50"] - 1.0) < 0.01
    assert abs(found["p99"] - 50.0) < 0.1
    assert abs(found["max"] - 900.0) < 1.0


def test_players_are_shared_out_to_clients_without_gap_or_overlap():
    shares = slices(10, 3)

    assert [(share.first, share.players) for share in shares] == [(0, 3), (3, 3), (6, 4)]
    assert slices(2, 5) == [Slice(0, 1), Slice(1, 1)]
    players = [player for share in slices(1_000, 7) for player in share.finishes()]
    assert len(set(players)) == 1_000
