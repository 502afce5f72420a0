"""The judge of crash tests: a good recording passes, and one altered event or outcome makes it fail."""

import asyncio
import json

import pytest

from simulations.chaos_check import check
from simulations.chaos_recording import Operation, Outcome, Publish, Recording, partition_of, takeovers
from tests.bus.harness import PARTITIONS, TENANT, town_with

STORY = [
    ("MintTokens", "a", {"amount": 9}, [("a", 9)]),
    ("SpendTokens", "a", {"amount": 4}, [("a", -4)]),
    ("SpendTokens", "a", {"amount": 40}, [("a", -40)]),
    ("TransferTokens", "a", {"recipient": "b", "amount": 2}, [("a", -2), ("b", 2)]),
    ("AcceptQuest", "b", {"quest": "q"}, []),
    ("CompleteQuest", "b", {"quest": "q", "elapsed_ms": 1}, [("b", 3)]),
    ("MintTokens", "a", {"amount": 1}, [("a", 1)]),
]


async def recorded() -> Recording:
    """What a sender and the stream hold after a short story; each command was received as its number."""
    town = await town_with("a", "b")
    sent = [("c1", "q", ()), ("c2", "a", ()), ("c3", "b", ())]
    for name, owner, data, moves in STORY:
        sent.append((await town.send(name, owner, data), owner, tuple(moves)))
        await town.drain()
    operations = []
    for number, (command_id, owner, moves) in enumerate(sent, 1):
        heard = town.outcomes(command_id)
        outcomes = [Outcome(told["type"], told["subject"], told["data"], 0) for told in heard]
        operations.append(Operation(command_id, owner, 0, moves, [Publish(number, 0, number)], outcomes))
    events = [(seq, body) for seq, (_, body) in enumerate(town.store.events, 1)]
    return Recording(TENANT, PARTITIONS, False, operations, events)


@pytest.fixture(scope="module")
def good() -> Recording:
    return asyncio.run(recorded())


def operation(recording, command_id):
    return next(each for each in recording.operations if each.command_id == command_id)


def with_operation(recording, changed):
    every = [changed if each.command_id == changed.command_id else each for each in recording.operations]
    return recording._replace(operations=every)


def with_event(recording, seq, **changes):
    body = json.loads(recording.events[seq - 1][1]) | changes
    events = list(recording.events)
    events[seq - 1] = seq, json.dumps(body).encode()
    return recording._replace(events=events)


def seq_of(recording, kind, which=0):
    found = [seq for seq, body in recording.events if json.loads(body)["type"] == kind]
    return found[which]


def data_of(recording, seq):
    return json.loads(recording.events[seq - 1][1])["data"]


def id_of(recording, what):
    """The command of the first domain event of a type."""
    return json.loads(recording.events[seq_of(recording, what) - 1][1])["causationid"]


def test_a_good_recording_is_ok(good):
    verdict = check(good)

    assert list(verdict.faults) == []
    assert verdict.ok
    assert verdict.classes == {"ok": 10, "recovered": 0, "lost": 0, "duplicated": 0, "unexpected": 0}
    assert verdict.counts["refused"] == 1


def test_an_outcome_that_is_heard_twice_is_one_outcome(good):
    spent = operation(good, id_of(good, "tokens-spent/1"))
    again = spent._replace(outcomes=[*spent.outcomes, spent.outcomes[0]._replace(heard_ms=9)])

    assert check(with_operation(good, again)).ok


def test_every_event_that_is_left_out_repeated_or_swapped_with_the_next_is_found(good):
    events = list(good.events)
    for at in range(len(events)):
        bodies = [body for _, body in events]
        left_out = bodies[:at] + bodies[at + 1 :]
        repeated = bodies[: at + 1] + bodies[at:]
        swapped = bodies[:at] + bodies[at : at + 2][::-1] + bodies[at + 2 :]
        for altered in (left_out, repeated, swapped):
            if altered != bodies:
                assert not check(good._replace(events=list(enumerate(altered, 1)))).ok


@pytest.mark.parametrize("key", ["id", "type", "subject", "aggregateversion", "causationid"])
def test_every_event_with_one_altered_attribute_is_found(good, key):
    for seq, body in good.events:
        value = json.loads(body)[key]
        altered = with_event(good, seq, **{key: value + 1 if isinstance(value, int) else value + "x"})

        assert not check(altered).ok


@pytest.mark.parametrize("key", ["partition", "first_seq", "last_seq", "accepted"])
@pytest.mark.parametrize("by", [-1, 1])
def test_every_inbox_event_that_is_off_by_one_is_found(good, key, by):
    for seq, body in good.events:
        data = json.loads(body)["data"]
        if "batch" in data:
            assert not check(with_event(good, seq, data={**data, key: data[key] + by})).ok, (seq, key)


@pytest.mark.parametrize(("kind", "key"), [("tokens-minted/1", "amount"), ("tokens-received/1", "balance")])
def test_an_altered_amount_or_balance_is_found(good, kind, key):
    seq = seq_of(good, kind)
    data = data_of(good, seq)

    assert not check(with_event(good, seq, data={**data, key: data[key] + 1})).ok


def test_every_command_without_an_outcome_is_found(good):
    for each in good.operations:
        verdict = check(with_operation(good, each._replace(outcomes=[])))
        assert (verdict.ok, verdict.classes["unexpected"]) == (False, 1)


def test_a_command_that_left_nothing_anywhere_is_lost(good):
    forgotten = Operation("never", "a", 0, (), [Publish(99, 0, None)], [])

    assert check(good._replace(operations=[*good.operations, forgotten])).classes["lost"] == 1


def test_every_outcome_that_says_something_else_is_found(good):
    for each in good.operations:
        (outcome,) = each.outcomes
        if outcome.type == "command-accepted/1":
            altered = outcome._replace(data={"events": outcome.data["events"][:-1]})
        else:
            altered = outcome._replace(data={**outcome.data, "code": "quest-closed"})
        swapped = check(with_operation(good, each._replace(outcomes=[altered])))
        both = check(with_operation(good, each._replace(outcomes=[outcome, altered])))
        parked = check(with_operation(good, each._replace(outcomes=[outcome._replace(type="command-parked/1")])))
        assert (swapped.ok, swapped.classes["unexpected"]) == (False, 1)
        assert (both.ok, both.classes["duplicated"]) == (False, 1)
        assert (parked.ok, parked.classes["unexpected"]) == (False, 1)


def test_a_decision_that_nobody_asked_for_is_found(good):
    assert not check(good._replace(operations=good.operations[:-1])).ok


def test_commands_that_are_left_undecided_are_found(good):
    assert not check(good._replace(left=1)).ok


def test_commands_of_one_player_in_another_order_are_found(good):
    minted, spent = operation(good, id_of(good, "tokens-minted/1")), operation(good, id_of(good, "tokens-spent/1"))
    swapped = with_operation(good, minted._replace(publishes=spent.publishes))
    swapped = with_operation(swapped, spent._replace(publishes=minted.publishes))
    forgetful = swapped._replace(may_forget=True)

    assert not check(swapped).ok
    assert check(forgetful).counts["reordered"] == 1


def test_a_receipt_that_was_skipped_is_found_and_a_forgotten_one_is_counted_apart(good):
    last = good.operations[-1]
    (received,) = last.publishes
    later = Publish(received.number + 2, 0, received.seq)
    first = Publish(received.number + 1, 0, 8_000)
    altered = with_operation(good, last._replace(publishes=[first, later]))

    assert check(altered).counts["skipped"] == 1
    assert not check(altered).ok
    forgetful = check(altered._replace(may_forget=True))
    assert (forgetful.ok, forgetful.classes["recovered"]) == (True, 1)
    assert forgetful.counts["forgotten by the server"] == 1


def test_a_receipt_in_a_range_that_was_decided_before_it_came_is_found_whatever_the_server_forgets(good):
    first = good.operations[1]
    late = Publish(50, 2_000_000_000_000, first.publishes[0].seq)
    altered = with_operation(good, first._replace(publishes=[*first.publishes, late]))

    assert check(altered._replace(may_forget=True)).counts["skipped"] == 1


def test_a_takeover_lasts_until_the_last_partition_decides_again(good):
    batches = check(good).batches
    times = {}
    for at, batch in enumerate(batches):
        times.setdefault(batch.partition, []).append(at)
    timed = [batch._replace(recorded_ms=1_000 * at) for at, batch in enumerate(batches)]
    alive = sorted(times)
    partitions = alive[-1] + 1

    waits = takeovers([-500, 1_000_000], timed, partitions)

    everybody = len(alive) == partitions
    assert waits[0] == (1_000 * max(ats[0] for ats in times.values()) + 500 if everybody else -1)
    assert waits[1] == -1


def test_the_partition_is_what_the_server_computes():
    from bus import subjects

    names = [f"p{number}" for number in range(100)]

    assert [partition_of(name, 8) for name in names] == [subjects.partition_of(name, 8) for name in names]
