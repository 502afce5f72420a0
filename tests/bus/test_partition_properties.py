import asyncio
import json
from collections import Counter
from unittest import mock

from harness import QUEST, TENANT, Town, said, town_with
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import partition as partitions
from bus.errors import Conflict
from bus.memory import MemoryEventStore
from domain.values import to_ms

ACTIONS = st.sampled_from(
    ["RegisterPlayer", "AcceptQuest", "CompleteQuest", "MintTokens", "SpendTokens", "TransferTokens", "AbandonQuest"]
)
STEP = st.tuples(ACTIONS, st.sampled_from("abcd"), st.sampled_from("abcd"), st.booleans(), st.integers(0, 9))
STEPS = st.lists(STEP, max_size=40)


def data_of(action: str, other: str, amount: int) -> dict:
    return {
        "RegisterPlayer": {},
        "AcceptQuest": {"quest": "q"},
        "CompleteQuest": {"quest": "q", "elapsed_ms": amount + 1},
        "AbandonQuest": {"quest": "q"},
        "MintTokens": {"amount": amount + 1},
        "SpendTokens": {"amount": amount + 1},
        "TransferTokens": {"recipient": other, "amount": amount + 1},
    }[action]


async def lived(steps, *, pauses=(), restarts=(), owners_max=1000):
    """What was answered and stored."""
    town = Town(owners_max=owners_max)
    await town.take_over()
    await town.send("PublishQuest", "q", QUEST, "k")
    for number, (action, owner, other, is_repeated, amount) in enumerate(steps):
        for _ in range(1 + is_repeated):
            await town.send(action, owner, data_of(action, other, amount), f"k{number}")
        await town.drain()
        if number in pauses:
            await town.snapshot()
        if number in restarts:
            await town.restart()
    return [said(json.loads(body)) for _, body in town.outbox.sent], town.types()


@settings(max_examples=40, deadline=None)
@given(STEPS, st.sets(st.integers(0, 39)), st.sets(st.integers(0, 39)))
def test_a_worker_that_restarts_or_snapshots_decides_as_one_that_never_did(steps, pauses, restarts):
    restless = asyncio.run(lived(steps, pauses=pauses, restarts=restarts, owners_max=2))

    assert restless == asyncio.run(lived(steps))


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sets(st.integers(0, 39)), st.integers(1, 3), st.integers(1, 30))
def test_a_worker_that_snapshots_in_parts_and_restarts_decides_as_one_that_never_did(steps, restarts, few, soon):
    with mock.patch.multiple(partitions, SNAPSHOTS_A_FEW=few, BEHIND_SOON=soon):
        restless = asyncio.run(lived(steps, restarts=restarts))

    assert restless == asyncio.run(lived(steps))


def test_snapshots_of_an_overtaken_worker_are_refused_and_harm_nobody(caplog):
    async def story():
        town = await town_with("p")
        stale = town.partitions
        await town.restart()
        await town.send("MintTokens", "p", {"amount": 5})
        await town.drain()
        await town.snapshot()
        for partition in stale:
            await partition.snapshot()
        await town.restart()
        await town.send("SpendTokens", "p", {"amount": 5}, "spend")
        await town.drain()
        return town.outcome("spend")[0]

    assert asyncio.run(story()) == "accepted"
    assert "snapshots of partition" in caplog.text


class Flaky(MemoryEventStore):
    """Loses acknowledgements and raises conflicts as it is told to."""

    def __init__(self, plan):
        super().__init__(TENANT)
        self.plan = iter(plan)

    async def append(self, batch_id, messages):
        fate = next(self.plan, "ok")
        if fate == "conflict":
            raise Conflict("made up")
        if fate == "lost":
            self.lose_answers = 1
        return await super().append(batch_id, messages)


@settings(max_examples=60, deadline=None)
@given(
    STEPS,
    st.lists(st.sampled_from(["ok", "ok", "lost", "conflict"]), max_size=12),
    st.sets(st.integers(0, 39)),
    st.sets(st.integers(0, 39)),
    st.booleans(),
)
def test_whatever_happens_each_command_has_one_outcome_and_one_set_of_events(
    steps, fates, restarts, pauses, is_sent_again
):
    async def story():
        town = Town(store=Flaky(fates))
        await town.take_over()
        await town.send("PublishQuest", "q", QUEST)
        sent = {}
        for number, (action, owner, other, is_repeated, amount) in enumerate(steps):
            data = data_of(action, other, amount)
            command_id = f"k{number}"
            sent[command_id] = 1 + is_repeated
            for _ in range(1 + is_repeated):
                await town.send(action, owner, data, command_id)
            if number in pauses:
                await town.drain()
                await town.snapshot()
            if number in restarts:
                await town.drain()
                await town.restart()
        await town.drain()
        if is_sent_again:  # everything, to a worker that has to take over what all of them left
            await town.restart()
            for number, (action, owner, other, _, amount) in enumerate(steps):
                await town.send(action, owner, data_of(action, other, amount), f"k{number}")
                sent[f"k{number}"] += 1
            await town.drain()
        return town, sent

    town, sent = asyncio.run(story())

    for command_id, times in sent.items():
        outcomes = [said(outcome) for outcome in town.outcomes(command_id)]
        assert len(outcomes) == times
        assert all(outcome == outcomes[0] for outcome in outcomes)
    _require_sound(town)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(STEP, min_size=12, max_size=40),
    st.dictionaries(st.integers(0, 20), st.tuples(st.integers(1, 6), st.booleans()), min_size=1),
    st.booleans(),
)
def test_what_a_killed_server_forgot_is_decided_once_and_what_got_its_sequences_is_not_passed_over(
    steps, kills, is_restarted
):
    async def story():
        town = Town()
        await town.take_over()
        await town.send("PublishQuest", "q", QUEST, "quest")
        sent, stream = {}, ["quest"]
        for number, (action, owner, other, _, amount) in enumerate(steps):
            sent[f"k{number}"] = action, owner, data_of(action, other, amount)
            await town.send(*sent[f"k{number}"], f"k{number}")
            stream.append(f"k{number}")
            if number in kills:
                count, are_decided = kills[number]
                if are_decided:
                    await town.drain()
                town.commands.forget(count)
                del stream[-count:]
                if is_restarted:
                    await town.restart()
        await town.drain()
        not_answered = [command_id for command_id in stream if not town.outcomes(command_id)]
        for command_id, (action, owner, data) in sent.items():
            if not town.outcomes(command_id):
                await town.send(action, owner, data, command_id)
        await town.drain()
        return town, sent, not_answered

    town, sent, not_answered = asyncio.run(story())

    assert not_answered == []
    for command_id in sent:
        outcomes = [said(outcome) for outcome in town.outcomes(command_id)]
        assert outcomes
        assert all(outcome == outcomes[0] for outcome in outcomes)
    _require_sound(town, may_forget=True)


def _require_sound(town: Town, *, may_forget: bool = False) -> None:
    """Versions contiguous, one set of events a command, the books sum to zero, inboxes without gaps."""
    versions, treasury, balances, decided = Counter(), 0, {}, {}
    for subject, body in town.store.events:
        event = json.loads(body)
        versions[subject] += 1
        assert event["aggregateversion"] == versions[subject]
        data = event["data"]
        treasury -= {"tokens-minted/1": 1, "tokens-spent/1": -1}.get(event["type"], 0) * data.get("amount", 0)
        if ".token." in subject:
            balances[subject] = data["balance"]
        if event["type"] == "commands-decided/1":
            assert may_forget or data["first_seq"] > decided.get(data["partition"], 0)
            decided[data["partition"]] = data["last_seq"]
        assert to_ms(event["recordedtime"]) == town.clock_ms
    assert sum(balances.values()) + treasury == 0
    assert all(balance >= 0 for balance in balances.values())
