"""Refusals are kept in segments beside the snapshots; whoever takes over knows each for a day."""

import asyncio
import json

import msgspec
import pytest
from harness import PARTITIONS, body_of, said, town_with
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import snapshots
from bus.batch import REFUSALS_MAX, Batch
from bus.envelope import BODY_BYTES_MAX, COMMANDS, CommandsDecided
from bus.owners import Owner
from bus.ports import Delivery
from bus.reading import read
from bus.refusals import KEPT_MS, SEGMENT_MAX, Refusals, decode, encode
from bus.subjects import partition_of

OWNER = "player/p"


def refusing(*rows, subjects=None):
    """An inbox event that refuses (command id, code, message), each addressed to the same player."""
    refused = tuple((number, *row) for number, row in enumerate(rows, 1))
    addressed = (OWNER,) * len(refused) if subjects is None else subjects
    return CommandsDecided(
        partition=0, first_seq=1, last_seq=9, accepted=0, batch="b", refused=refused, refused_subjects=addressed
    )


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
        new = [(f"c{n}", "code", f"line {n}") for n in range(number, number + count)]
        number += count
        refused_at |= {name: now_ms for name, _, _ in new}
        refusals.remember(refusing(*new), now_ms)
        if is_kept:
            slots = kept_by(refusals, disk)
    slots = kept_by(refusals, disk)

    successor = Refusals(3)
    assert successor.restore(slots, disk)
    successor.remember(refusing(), now_ms)
    for name, at_ms in refused_at.items():
        wanted = ("code", f"line {name[1:]}") if at_ms >= now_ms - KEPT_MS else None
        assert refusals.get("p", name) == successor.get("p", name) == wanted
    assert len(disk) <= 2 + number // SEGMENT_MAX + len(steps)


def test_slots_of_what_is_older_than_a_day_are_used_again():
    refusals, disk = Refusals(0), {}
    for day in range(20):
        refused = [(f"{day}-{n}", "code", "line") for n in range(SEGMENT_MAX)]
        refusals.remember(refusing(*refused), day * (KEPT_MS + 1))
        kept_by(refusals, disk)

    assert len(disk) <= 2


def test_whoever_sends_refused_commands_without_end_takes_no_more_memory_than_is_configured(monkeypatch, caplog):
    monkeypatch.setattr("bus.refusals.KEPT_MAX", kept_max := 4 * SEGMENT_MAX)
    refusals, disk = Refusals(0), {}
    for number in range(100):
        refusals.remember(refusing(*((f"{number}-{n}", "code", "line") for n in range(60))), now_ms := number)
        slots = kept_by(refusals, disk)
    told = [record.getMessage() for record in caplog.records]
    successor = Refusals(0)
    assert successor.restore(slots, disk)
    successor.remember(refusing(), now_ms)

    for each in (refusals, successor):
        assert len(each) == kept_max
        assert [each.get("p", f"{n}-59") is not None for n in (0, 82, 83, 84, 99)] == [False, False, True, True, True]
    assert len(disk) <= kept_max // SEGMENT_MAX + 2
    assert told == [
        f"partition 0 refused more than {kept_max} commands in a day: older ones are decided anew if they come again"
    ]


def test_a_refusal_that_was_forgotten_is_decided_anew_and_has_one_effect_at_most(monkeypatch):
    monkeypatch.setattr("bus.refusals.KEPT_MAX", 3)

    async def tell():
        town = await town_with("p")
        for name in ("first", "b", "c", "d"):
            await town.send("SpendTokens", "p", {"amount": 5}, name)
            await town.drain()
        await town.send("MintTokens", "p", {"amount": 9})
        for name in ("first", "d", "first"):
            await town.send("SpendTokens", "p", {"amount": 5}, name)
        await town.drain()
        return [[said(outcome)[0] for outcome in town.outcomes(name)] for name in ("first", "d")], town.types()

    told, types = asyncio.run(tell())

    assert told == [["refused", "accepted", "accepted"], ["refused", "refused"]]
    assert types.count("tokens-spent/1") == 1


def together():
    """Two owners of one partition."""
    first, second, *_ = (f"p{n}" for n in range(99) if partition_of(f"p{n}", PARTITIONS) == 0)
    return first, second


@pytest.mark.parametrize("is_restarted", [False, True], ids=["in one run", "after a take-over"])
@pytest.mark.parametrize("is_kept", [False, True], ids=["from the inbox", "from what is kept"])
def test_commands_of_one_id_to_two_owners_are_two_commands_also_when_one_is_refused(is_restarted, is_kept):
    poor, rich = together()

    async def tell():
        town = await town_with(poor, rich)
        await town.send("MintTokens", rich, {"amount": 9})
        for owner in (poor, rich, poor, rich):
            await town.send("SpendTokens", owner, {"amount": 5}, "same")
        if is_restarted:
            await town.drain()
            if is_kept:
                await town.snapshot()
            await town.restart()
            await town.send("MintTokens", poor, {"amount": 9})
        for owner in (poor, rich):
            await town.send("SpendTokens", owner, {"amount": 5}, "same")
        await town.drain()
        return [(outcome["subject"], said(outcome)[0]) for outcome in town.outcomes("same")]

    told = asyncio.run(tell())

    assert sorted(told) == [(f"token/{poor}", "refused")] * 3 + [(f"token/{rich}", "accepted")] * 3


def test_what_is_addressed_to_nobody_is_refused_without_taking_the_id_from_anybody():
    _, rich = together()

    async def tell():
        town = await town_with(rich)
        forged = next(
            name
            for n in range(999)
            if partition_of(name := f"{n}/{rich}", PARTITIONS) == partition_of(rich, PARTITIONS)
        )
        aggregate, body = body_of("MintTokens", rich, {"amount": 9}, "same")
        await town.commands.publish(aggregate, forged, "MintTokens", body)
        await town.send("MintTokens", rich, {"amount": 9}, "same")
        await town.drain()
        inboxes = [json.loads(body)["data"] for subject, body in town.store.events if ".inbox." in subject]
        return [said(outcome)[0] for outcome in town.outcomes("same")], [
            name for data in inboxes for name in data.get("refused_subjects", ())
        ]

    assert asyncio.run(tell()) == (["refused", "accepted"], ["?"])


def test_a_refusal_of_an_inbox_event_that_did_not_tell_the_owner_is_found_by_the_id_alone():
    refusals = Refusals(0)
    refusals.remember(refusing(("a", "code", "line"), subjects=msgspec.UNSET), 5)

    assert refusals.get("p", "a") == refusals.get("q", "a") == ("code", "line")
    assert refusals.get("p", "b") is None


def test_an_inbox_event_of_the_longest_refusals_still_fits_into_the_log():
    tenant, owner, grin = "t" * 64, "o" * 64, "\U0001f600"
    changes = [{}, *({key: 200 * grin} for key in ("type", "subject", "time", "tenantid", "datacontenttype"))]
    bodies = [body_of("MintTokens", owner, {"amount": 1}, "i" * 64, **change)[1] for change in changes]
    names = [*COMMANDS, 60 * grin, 120 * "\\", 200 * grin]
    addresses = [
        f"tally.cmd.{tenant}.7.{aggregate}.{owner}.{name}" for aggregate in ("token", "a" * 64) for name in names
    ]
    tasks = [read(tenant, Delivery(10**15, address, body, None), 0) for address in addresses for body in bodies]

    batch = Batch(tenant, "2026-01-01T00:00:00.000Z", lambda _: Owner(), lambda _: False)
    longest = max((task for task in tasks if hasattr(task, "code")), key=lambda task: len(task.message.encode()))
    while not batch.is_full:
        batch.refuse(10**15, longest.command_id, longest.subject, longest.code, longest.message)
    last = Delivery(10**15, "", b"", None, received_ns=2**63 - 1)
    batch.close(7, None, last, last, "b" * 22)

    assert len(batch.head(1).decided.refused) == REFUSALS_MAX
    assert 50_000 < len(batch.messages[-1].body) <= BODY_BYTES_MAX


@pytest.mark.parametrize("spoil", ["gone", "cut", "of another partition", "of another format"])
def test_a_segment_that_is_not_what_it_must_be_is_noticed(spoil):
    refusals, disk = Refusals(1), {}
    refusals.remember(refusing(("a", "code", "line")), 5)
    slots = kept_by(refusals, disk)
    rows = decode(1, disk[0])
    spoilt = {
        "gone": {},
        "cut": {0: disk[0][:-1]},
        "of another partition": {0: encode(2, rows)},
        "of another format": {0: disk[0].replace(b"refusals/2", b"refusals/1")},
    }[spoil]

    assert rows == [(5, "p", "a", "code", "line")]
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
            return
            yield

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
    assert msgspec.json.decode(encode(2, [])) == {"format": "refusals/2", "partition": 2, "refused": []}


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
