import asyncio
import json

import harness
import msgspec
import pytest
from harness import PARTITIONS, Town, body_of, said, town_with

from bus import subjects
from bus.ports import Redrive


@pytest.fixture(name="curse")
def cursed_owner(monkeypatch):
    """Whoever is in the set cannot be decided by our code."""
    return harness.curse(monkeypatch, "cursed")


def test_a_command_that_our_code_cannot_decide_is_parked_and_stops_nobody_else(curse, caplog):
    async def story():
        town = await town_with("a", "cursed", "b")
        ids = [await town.send("MintTokens", player, {"amount": 1}) for player in ("a", "cursed", "b")]
        ids.append(await town.send("AcceptQuest", "cursed", {"quest": "q"}))
        await town.drain()
        return town, [town.outcome(command_id) for command_id in ids]

    town, told = asyncio.run(story())

    assert [what for what, _ in told] == ["accepted", "parked", "accepted", "accepted"]
    assert "ZeroDivisionError: made up" in caplog.text
    inboxes = [json.loads(body)["data"] for subject, body in town.store.events if ".inbox." in subject]
    assert [entry[2] for data in inboxes for entry in data["parked"]] == ["ZeroDivisionError: made up"]


def test_later_commands_of_a_parked_aggregate_wait_behind_it_in_order_also_for_a_new_worker(curse):
    async def story():
        town = await town_with("cursed")
        await town.send("MintTokens", "cursed", {"amount": 1}, "first")
        await town.drain()
        await town.restart()
        curse.clear()
        await town.send("MintTokens", "cursed", {"amount": 2}, "second")
        await town.send("MintTokens", "cursed", {"amount": 3}, "third")
        await town.drain()
        return town

    town = asyncio.run(story())

    assert [letter[1] for letter in town.dead.letters] == ["first", "second", "third"]
    assert "tokens-minted/1" not in town.types()


async def redrive(town: Town, *, is_discard: bool = False) -> None:
    """What an operator's command does: send each again, in order, and remove it once it has its final outcome."""
    for dead_seq, letter in enumerate(town.dead.letters, 1):
        if letter is None:
            continue
        _, _, delivery, _ = letter
        aggregate, owner, name = subjects.split_command(delivery.subject)
        word = Redrive(dead_seq, is_discard)
        await town.commands.publish(aggregate, owner, name, delivery.body, None, word)
        await town.drain()
        if said(json.loads(town.outbox.sent[-1][1]))[0] == "parked":
            return
        town.dead.letters[dead_seq - 1] = None


def test_a_redrive_executes_in_order_and_lets_the_aggregate_go_on(curse):
    async def story():
        town = await town_with("cursed")
        for amount, name in ((1, "first"), (2, "second")):
            await town.send("MintTokens", "cursed", {"amount": amount}, name)
        await town.drain()
        await redrive(town)
        still = [said(outcome)[0] for outcome in town.outcomes("first")]
        curse.clear()
        await redrive(town)
        await town.send("SpendTokens", "cursed", {"amount": 3}, "then")
        await town.drain()
        return town, still

    town, still = asyncio.run(story())

    assert still == ["parked", "parked"]
    assert [said(outcome)[0] for outcome in town.outcomes("first")] == ["parked", "parked", "accepted"]
    assert [said(outcome)[0] for outcome in town.outcomes("second")] == ["parked", "accepted"]
    assert town.outcome("then")[0] == "accepted"
    assert [kind for kind in town.types() if kind.startswith("tokens")] == ["tokens-minted/1"] * 2 + ["tokens-spent/1"]


def test_a_discarded_command_gets_its_final_outcome_and_is_never_executed(curse):
    async def story():
        town = await town_with("cursed")
        await town.send("MintTokens", "cursed", {"amount": 1}, "gone")
        await town.drain()
        curse.clear()
        await redrive(town, is_discard=True)
        await town.send("MintTokens", "cursed", {"amount": 1}, "gone")
        await town.send("MintTokens", "cursed", {"amount": 1}, "next")
        await town.drain()
        return town

    town = asyncio.run(story())

    assert [said(outcome) for outcome in town.outcomes("gone")] == [
        ("parked", "parked"),
        ("refused", "discarded"),
        ("refused", "discarded"),
    ]
    assert town.outcome("next")[0] == "accepted"


def test_nobody_jumps_the_queue_with_a_forged_redrive(curse):
    async def story():
        town = await town_with("cursed")
        await town.send("MintTokens", "cursed", {"amount": 1}, "first")
        await town.drain()
        curse.clear()
        aggregate, body = body_of("MintTokens", "cursed", {"amount": 9}, "forged")
        await town.commands.publish(aggregate, "cursed", "MintTokens", body, None, Redrive(1, is_discard=False))
        await town.drain()
        return town

    assert asyncio.run(story()).outcome("forged") == ("parked", "parked")


def test_what_was_taken_stays_as_it_is_when_a_forged_word_is_taken_back():
    async def story():
        town = await town_with("p")
        aggregate, body = body_of("MintTokens", "p", {"amount": 9}, "forged")
        forged = Redrive(7, is_discard=True)
        await town.commands.publish(aggregate, "p", "MintTokens", body, None, forged)
        partition = town.partitions[subjects.partition_of("p", PARTITIONS)]
        source = await town.commands.open(partition.number, partition.decided_seq, partition.decided_ns)
        taken = tuple(await source.take(9))
        return forged, taken, await partition.prepare(taken)

    forged, taken, (deliveries, tasks) = asyncio.run(story())

    assert [delivery.redrive for delivery in taken] == [forged]
    assert deliveries == [msgspec.structs.replace(taken[0], redrive=None)]
    assert [task.request.id for task in tasks] == ["forged"]


def test_a_history_that_cannot_be_read_parks_its_owner_and_nobody_else():
    async def story():
        town = await town_with("a", "torn")
        at = next(at for at, (subject, _) in enumerate(town.store.events) if subject.endswith("player.torn"))
        subject, body = town.store.events[at]
        town.store.events[at] = subject, body.replace(b"player-registered/1", b"player-unheard-of/9")
        await town.restart()
        ids = [await town.send("AcceptQuest", player, {"quest": "q"}) for player in ("torn", "a")]
        await town.drain()
        return [town.outcome(command_id)[0] for command_id in ids]

    assert asyncio.run(story()) == ["parked", "accepted"]
