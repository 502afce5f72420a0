"""Refusals are kept in segments beside the snapshots; whoever takes over knows each for a day."""

import asyncio
import json

import msgspec
import pytest
from harness import said, town_with
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import snapshots
from bus.refusals import KEPT_MS, SEGMENT_MAX, Refusals, decode, encode

STEPS = st.lists(
    st.tuples(st.sampled_from([1, 2, SEGMENT_MAX, SEGMENT_MAX + 1, 600]), st.integers(0, KEPT_MS), st.booleans()),
    max_size=8,
)


def kept_by(refusals, disk):
    for unkept in refusals.unkept():
        disk[unkept.slot] = unkept.body
        unkept.is_kept()
    return refusals.slots


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_what_is_restored_is_what_was_refused_within_a_day(steps):
    refusals, disk, now_ms, number, slots = Refusals(3), {}, 0, 0, ()
    refused_at = {}
    for count, wait_ms, is_kept in steps:
        now_ms += wait_ms
        new = [(n, f"c{n}", "code", f"line {n}") for n in range(number, number + count)]
        number += count
        refused_at |= {name: now_ms for _, name, _, _ in new}
        refusals.remember(new, now_ms)
        if is_kept:
            slots = kept_by(refusals, disk)
    slots = kept_by(refusals, disk)

    successor = Refusals(3)
    assert successor.restore(slots, disk)
    successor.remember((), now_ms)
    for name, at_ms in refused_at.items():
        wanted = ("code", f"line {name[1:]}") if at_ms >= now_ms - KEPT_MS else None
        assert refusals.get(name) == successor.get(name) == wanted
    assert len(disk) <= 2 + number // SEGMENT_MAX + len(steps)


def test_slots_of_what_is_older_than_a_day_are_used_again():
    refusals, disk = Refusals(0), {}
    for day in range(20):
        refused = [(n, f"{day}-{n}", "code", "line") for n in range(SEGMENT_MAX)]
        refusals.remember(refused, day * (KEPT_MS + 1))
        kept_by(refusals, disk)

    assert len(disk) <= 2


@pytest.mark.parametrize("spoil", ["gone", "cut", "of another partition", "of another format"])
def test_a_segment_that_is_not_what_it_must_be_is_noticed(spoil):
    refusals, disk = Refusals(1), {}
    refusals.remember([(1, "a", "code", "line")], 5)
    slots = kept_by(refusals, disk)
    rows = decode(1, disk[0])
    spoilt = {
        "gone": {},
        "cut": {0: disk[0][:-1]},
        "of another partition": {0: encode(2, rows)},
        "of another format": {0: disk[0].replace(b"refusals/1", b"refusals/9")},
    }[spoil]

    assert rows == [(5, "a", "code", "line")]
    assert not Refusals(1).restore(slots, spoilt)


def story(spoil, *, is_idle=True):
    """Refuse, snapshot, spoil what was kept, take over, change the world, send the same again."""

    async def tell():
        town = await town_with("p")
        await town.send("SpendTokens", "p", {"amount": 5}, "kept")
        await town.drain()
        if is_idle:
            await town.snapshot()
        await town.send("SpendTokens", "p", {"amount": 5}, "tail")
        await town.drain()
        spoil(town)
        await town.restart()
        await town.send("MintTokens", "p", {"amount": 9})
        for name in ("kept", "tail"):
            await town.send("SpendTokens", "p", {"amount": 5}, name)
        await town.drain()
        return [[said(outcome) for outcome in town.outcomes(name)] for name in ("kept", "tail")]

    return asyncio.run(tell())


def without_segments(town):
    for key in [key for key in town.snapshots.bodies if key[1].startswith("$")]:
        del town.snapshots.bodies[key]


def with_old_watermarks(town):
    for partition, (seq, body) in town.snapshots.watermarks.items():
        found = json.loads(body)
        old = {"format": "snapshot-watermark/1", "partition": partition, "stream_seq": found["stream_seq"]}
        town.snapshots.watermarks[partition] = seq, json.dumps(old).encode()


def without_anything(town):
    town.snapshots.bodies.clear()
    town.snapshots.watermarks.clear()


@pytest.mark.parametrize(
    "spoil", [lambda _: None, without_segments, with_old_watermarks, without_anything], ids=lambda each: each.__name__
)
def test_a_refusal_outlives_every_take_over_whatever_became_of_what_was_kept(spoil):
    assert story(spoil) == [[("refused", "insufficient-tokens")] * 2] * 2


def test_who_takes_over_reads_no_day_of_inbox_events_once_refusals_are_kept():
    async def tell():
        town = await town_with("p")
        await town.send("SpendTokens", "p", {"amount": 5}, "early")
        await town.drain()
        await town.snapshot()
        asked = []

        async def inbox_since(partition, since_ms):
            asked.append((partition, since_ms))
            return []

        town.store.inbox_since = inbox_since
        await town.restart()
        await town.send("MintTokens", "p", {"amount": 9})
        await town.send("SpendTokens", "p", {"amount": 5}, "early")
        await town.drain()
        return asked, [said(outcome) for outcome in town.outcomes("early")]

    assert asyncio.run(tell()) == ([], [("refused", "insufficient-tokens")] * 2)


def test_a_partition_at_rest_follows_the_stream_so_that_its_tail_stays_short(monkeypatch):
    monkeypatch.setattr("bus.restoring.KEEP_UP_EVENTS", 5)

    async def tell():
        town = await town_with(*(f"p{number}" for number in range(40)))
        for _ in range(30):
            await town.snapshot()
        return [snapshots.decode_watermark(n, body) for n, (_, body) in town.snapshots.watermarks.items()], town

    watermarks, town = asyncio.run(tell())

    assert len(watermarks) == 4
    assert all(mark.stream_seq > len(town.store.events) - 5 for mark in watermarks)


def test_the_watermark_is_written_as_the_formats_say():
    mark = snapshots.Watermark(partition=2, stream_seq=40, refusals=(0, 3))

    body = snapshots.encode_watermark(mark)
    assert body == b'{"format":"snapshot-watermark/2","partition":2,"stream_seq":40,"refusals":[0,3]}'
    assert snapshots.decode_watermark(2, body) == mark
    assert snapshots.decode_watermark(3, body).stream_seq == 0
    assert msgspec.json.decode(encode(2, [])) == {"format": "refusals/1", "partition": 2, "refused": []}


def test_in_steady_traffic_of_a_few_players_snapshots_do_not_wait_for_a_pause(monkeypatch):
    monkeypatch.setattr("bus.restoring.FEW_BEHIND", 10)

    async def tell():
        town = await town_with("p")
        seqs = []
        for _ in range(30):
            town.clock_ms += 1_000
            await town.send("MintTokens", "p", {"amount": 1})
            await town.drain()
            seqs.append(
                max(snapshots.decode_watermark(n, b).stream_seq for n, (_, b) in town.snapshots.watermarks.items())
            )
        return seqs, len(town.store.events)

    seqs, count = asyncio.run(tell())

    assert 2 <= len(set(seqs)) <= 4
    assert seqs[-1] > count // 2
