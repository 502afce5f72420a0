"""What the bus commits passes the auditors' rule of exactly once, whatever is repeated, restarted or redriven."""

import asyncio

import harness
from harness import QUEST, Town
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import subjects
from bus.owners import Owner
from bus.ports import Redrive
from ledger.commands import RECORD_BYTES, CommandRuns
from ledger.events import EventRules, Window

OWNERS = "abc"
#: One id may come again, to the same owner or to another one, soon or after a restart.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["RegisterPlayer", "AcceptQuest", "CompleteQuest", "MintTokens", "TransferTokens"]),
        st.sampled_from(OWNERS),
        st.sampled_from(OWNERS),
        st.integers(0, 5),
        st.booleans(),
    ),
    min_size=5,
    max_size=60,
)


def data_of(action, other):
    return {
        "RegisterPlayer": {},
        "AcceptQuest": {"quest": "q"},
        "CompleteQuest": {"quest": "q", "elapsed_ms": 1},
        "MintTokens": {"amount": 5},
        "TransferTokens": {"recipient": other, "amount": 1},
    }[action]


def repeated(store):
    """What an audit of a log with these events says of their commands, and how many there were."""
    rules = EventRules()
    for leaf_index, (_, body) in enumerate(store.events):
        rules.check(leaf_index, body, Window(0, len(store.events)))
    runs = CommandRuns(None, [])
    runs.add(bytes(rules.runs))
    return runs.first_repeated(), len(rules.runs) // RECORD_BYTES


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_ids_that_come_again_lead_to_no_second_execution_in_the_log(steps):
    async def story():
        town = Town(owners_max=2)
        await town.take_over()
        await town.send("PublishQuest", "q", QUEST, "k0")
        for owner in OWNERS:
            await town.send("RegisterPlayer", owner, {}, "k1")
        await town.drain()
        for action, owner, other, number, is_restarted in steps:
            await town.send(action, owner, data_of(action, other), f"k{number}")
            if is_restarted:
                await town.drain()
                await town.restart()
        await town.drain()
        return town

    found, runs = repeated(asyncio.run(story()).store)

    assert found is None
    assert runs > 4


def test_a_parked_command_that_is_redriven_is_executed_at_one_place(monkeypatch):
    cursed = harness.curse(monkeypatch, "a")

    async def story():
        town = Town()
        await town.take_over()
        await town.send("RegisterPlayer", "a")
        await town.send("MintTokens", "a", {"amount": 5}, "parked")
        await town.drain()
        cursed.clear()
        for _ in range(3):
            _, _, delivery, _ = town.dead.letters[0]
            aggregate, owner, name = subjects.split_command(delivery.subject)
            await town.commands.publish(aggregate, owner, name, delivery.body, None, Redrive(1, False))
            await town.drain()
        return town

    town = asyncio.run(story())

    assert town.types().count("tokens-minted/1") == 1
    assert repeated(town.store)[0] is None


def test_a_bus_that_forgot_a_command_would_be_found(monkeypatch):
    monkeypatch.setattr(Owner, "known", property(lambda _: {}, lambda *_: None), raising=False)

    async def story():
        town = Town()
        await town.take_over()
        await town.send("RegisterPlayer", "a")
        for _ in range(2):
            await town.send("MintTokens", "a", {"amount": 5}, "twice")
            await town.drain()
        return town

    town = asyncio.run(story())

    assert town.types().count("tokens-minted/1") == 2
    first, again = repeated(town.store)[0]
    assert first < again
