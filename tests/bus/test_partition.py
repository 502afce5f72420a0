import asyncio
import json
from collections import Counter

import pytest
from harness import PARTITIONS, QUEST, TENANT, Town, body_of, said
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import poison, subjects
from bus.answering import REFUSALS_KEPT_MS
from bus.batch import REFUSALS_MAX
from bus.errors import Conflict
from bus.memory import MemoryEventStore
from bus.partition import Overtaken
from bus.ports import Redrive
from bus.reading import read
from domain import catalogue
from domain.values import to_ms


async def town_with(*players: str, **options) -> Town:
    town = Town(**options)
    await town.take_over()
    await town.send("PublishQuest", "q", QUEST)
    for player in players:
        await town.send("RegisterPlayer", player)
    await town.drain()
    return town


async def completed(town: Town, player: str) -> str:
    await town.send("AcceptQuest", player, {"quest": "q"})
    command_id = await town.send("CompleteQuest", player, {"quest": "q", "elapsed_ms": 5})
    await town.drain()
    return command_id


def test_a_completion_is_one_transaction_over_player_and_account():
    async def story():
        town = await town_with("p")
        return town, await completed(town, "p")

    town, command_id = asyncio.run(story())

    assert town.outcome(command_id) == ("accepted", ["player.p.3", "player.p.4", "player.p.5", "token.p.1"])
    causes = [json.loads(body)["causationid"] for _, body in town.store.events]
    assert [cause for cause in causes if cause == command_id] == [command_id] * 4


def test_the_same_command_id_gives_the_same_outcome_and_one_set_of_events():
    async def story():
        town = await town_with("p")
        await town.send("AcceptQuest", "p", {"quest": "q"})
        for _ in range(3):
            await town.send("CompleteQuest", "p", {"quest": "q", "elapsed_ms": 5}, "once")
        await town.drain()
        await town.restart()
        await town.send("CompleteQuest", "p", {"quest": "q", "elapsed_ms": 5}, "once")
        await town.drain()
        return town

    town = asyncio.run(story())

    outcomes = [said(outcome) for outcome in town.outcomes("once")]
    assert outcomes == [("accepted", ["player.p.3", "player.p.4", "player.p.5", "token.p.1"])] * 4
    assert Counter(town.types())["quest-completed/1"] == 1


def test_a_refusal_is_recorded_in_the_inbox_and_repeated_for_a_day_even_when_the_world_has_changed():
    async def story():
        town = await town_with("p")
        await town.send("MintTokens", "p", {"amount": 1}, "rich")
        await town.send("SpendTokens", "p", {"amount": 5}, "early")
        await town.drain()
        await town.send("MintTokens", "p", {"amount": 9})
        await town.drain()
        await town.restart()
        await town.send("SpendTokens", "p", {"amount": 5}, "early")
        await town.drain()
        town.clock_ms += REFUSALS_KEPT_MS + 1
        await town.send("SpendTokens", "p", {"amount": 1})
        await town.drain()
        await town.send("SpendTokens", "p", {"amount": 5}, "early")
        await town.drain()
        return town

    town = asyncio.run(story())

    assert [said(outcome)[0] for outcome in town.outcomes("early")] == ["refused", "refused", "accepted"]
    inboxes = [json.loads(body)["data"] for subject, body in town.store.events if ".inbox." in subject]
    assert any(entry[1:3] == ["early", "insufficient-tokens"] for data in inboxes for entry in data.get("refused", ()))


def test_a_transfer_between_partitions_is_one_transaction_and_both_sides_go_on():
    async def story():
        players = [f"p{number}" for number in range(8)]
        town = await town_with(*players)
        for player in players:
            await town.send("MintTokens", player, {"amount": 10})
        await town.drain()
        for giver in players:
            for taker in players:
                if giver != taker:
                    await town.send("TransferTokens", giver, {"recipient": taker, "amount": 1})
        await town.drain()
        return town

    town = asyncio.run(story())

    counts = Counter(town.types())
    assert counts["tokens-sent/1"] == counts["tokens-received/1"] == 56
    balances = {}
    for subject, body in town.store.events:
        if ".token." in subject:
            balances[subject] = json.loads(body)["data"]["balance"]
    assert set(balances.values()) == {10}


def test_a_refusal_never_rests_on_an_account_that_others_have_filled_meanwhile():
    async def story():
        town = await town_with("a", "b", "c")
        await town.send("SpendTokens", "b", {"amount": 1}, "poor")
        await town.drain()
        await town.send("MintTokens", "a", {"amount": 5})
        await town.send("MintTokens", "c", {"amount": 5})
        await town.drain()
        await town.send("TransferTokens", "a", {"recipient": "b", "amount": 1})
        await town.send("TransferTokens", "c", {"recipient": "b", "amount": 1})
        await town.drain()
        await town.send("SpendTokens", "b", {"amount": 2}, "rich")
        await town.drain()
        return town

    town = asyncio.run(story())

    assert town.outcome("poor") == ("refused", "insufficient-tokens")
    assert town.outcome("rich")[0] == "accepted"


def test_a_retired_quest_cannot_be_completed_by_a_partition_that_has_not_heard_of_it():
    async def story():
        town = await town_with("a", "b", "c", "d", "e")
        for player in "abcde":
            await town.send("AcceptQuest", player, {"quest": "q"})
        await town.drain()
        await town.send("RetireQuest", "q", {})
        await town.drain()
        ids = [await town.send("CompleteQuest", player, {"quest": "q", "elapsed_ms": 1}) for player in "abcde"]
        await town.drain()
        return town, ids

    town, ids = asyncio.run(story())

    assert {town.outcome(command_id) for command_id in ids} == {("refused", "quest-retired")}


def test_a_quest_that_is_published_later_is_found_by_every_partition():
    async def story():
        town = Town()
        await town.take_over()
        for player in "abcde":
            await town.send("RegisterPlayer", player)
        early = [await town.send("AcceptQuest", player, {"quest": "q"}) for player in "abcde"]
        await town.drain()
        await town.send("PublishQuest", "q", QUEST)
        await town.drain()
        late = [await town.send("AcceptQuest", player, {"quest": "q"}) for player in "abcde"]
        await town.drain()
        return town, early, late

    town, early, late = asyncio.run(story())

    assert {town.outcome(command_id) for command_id in early} == {("refused", "unknown-quest")}
    assert {town.outcome(command_id)[0] for command_id in late} == {"accepted"}


def test_a_limited_supply_is_given_out_exactly():
    async def story():
        players = [f"p{number}" for number in range(40)]
        town = Town()
        await town.take_over()
        await town.send("PublishQuest", "q", {**QUEST, "supply": 7})
        for player in players:
            await town.send("RegisterPlayer", player)
        await town.drain()
        for player in players:
            await town.send("AcceptQuest", player, {"quest": "q"})
            await town.send("CompleteQuest", player, {"quest": "q", "elapsed_ms": 1})
        await town.drain()
        return town

    counts = Counter(asyncio.run(story()).types())

    assert counts["supply-taken/1"] == counts["badge-awarded/1"] == 7
    assert counts["quest-completed/1"] == 40


def test_an_overtaken_worker_has_its_whole_batch_refused_and_says_nothing():
    async def story():
        town = await town_with("p", "q1")
        stale = town.partition(subjects.partition_of("p", PARTITIONS))
        await stale.take_over()
        await town.send("MintTokens", "p", {"amount": 5}, "live")
        await town.drain()
        before = len(town.store.events), len(town.outbox.sent)
        await town.send("SpendTokens", "p", {"amount": 5_000}, "late")
        source = await town.commands.open(stale.number, stale.decided_seq)
        deliveries = await source.take(10)
        with pytest.raises(Overtaken):
            await stale.process(deliveries, [read(TENANT, delivery) for delivery in deliveries])
        return before, (len(town.store.events), len(town.outbox.sent))

    before, after = asyncio.run(story())

    assert before == after


def test_a_lost_acknowledgement_repeats_nothing_and_answers_once():
    async def story():
        town = await town_with("p")
        town.store.lose_answers = 1
        await town.send("MintTokens", "p", {"amount": 5}, "once")
        await town.drain()
        return town

    town = asyncio.run(story())

    assert town.outcome("once") == ("accepted", ["token.p.1"])
    assert Counter(town.types())["tokens-minted/1"] == 1


@pytest.fixture
def curse(monkeypatch):
    """Whoever is in the set cannot be decided by our code."""
    cursed, real = {"cursed"}, catalogue.decide

    def decide(target, command, states, at_ms):
        if target.id in cursed and target.aggregate == "token":
            raise ZeroDivisionError("made up")
        return real(target, command, states, at_ms)

    monkeypatch.setattr(catalogue, "decide", decide)
    monkeypatch.setattr(poison, "TRY_AGAIN_S", 0.001)
    return cursed


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


def test_more_refusals_than_an_inbox_event_can_name_are_spread_over_several():
    async def story():
        town = await town_with("p")
        for _ in range(REFUSALS_MAX * 2 + 5):
            await town.send("SpendTokens", "p", {"amount": 1})
        await town.drain()
        return town

    town = asyncio.run(story())

    inboxes = [json.loads(body)["data"] for subject, body in town.store.events if ".inbox." in subject]
    assert max(len(data["refused"]) for data in inboxes) == REFUSALS_MAX
    assert sum(len(data["refused"]) for data in inboxes) == REFUSALS_MAX * 2 + 5


def test_passivated_owners_come_back_as_they_were():
    async def story():
        players = [f"p{number}" for number in range(60)]
        town = await town_with(*players, owners_max=3)
        for player in players:
            await town.send("MintTokens", player, {"amount": 4}, f"mint-{player}")
            await town.drain()
        live = max(partition.live_owners for partition in town.partitions)
        for player in players:
            await town.send("MintTokens", player, {"amount": 4}, f"mint-{player}")
            await town.send("SpendTokens", player, {"amount": 4})
        await town.drain()
        return town, live

    town, live = asyncio.run(story())

    assert live <= 3
    counts = Counter(town.types())
    assert counts["tokens-minted/1"] == counts["tokens-spent/1"] == 60


ACTIONS = st.sampled_from(
    ["RegisterPlayer", "AcceptQuest", "CompleteQuest", "MintTokens", "SpendTokens", "TransferTokens", "AbandonQuest"]
)
STEPS = st.lists(
    st.tuples(ACTIONS, st.sampled_from("abcd"), st.sampled_from("abcd"), st.booleans(), st.integers(0, 9)), max_size=40
)


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


@settings(max_examples=40, deadline=None)
@given(STEPS, st.sets(st.integers(0, 39)), st.sets(st.integers(0, 39)))
def test_a_worker_that_restarts_or_snapshots_decides_as_one_that_never_did(steps, pauses, restarts):
    async def story(*, is_calm):
        town = Town(owners_max=1000 if is_calm else 2)
        await town.take_over()
        await town.send("PublishQuest", "q", QUEST, "k")
        for number, (action, owner, other, is_repeated, amount) in enumerate(steps):
            for _ in range(1 + is_repeated):
                await town.send(action, owner, data_of(action, other, amount), f"k{number}")
            await town.drain()
            if number in pauses and not is_calm:
                await town.snapshot()
            if number in restarts and not is_calm:
                await town.restart()
        return [said(json.loads(body)) for _, body in town.outbox.sent], town.types()

    assert asyncio.run(story(is_calm=False)) == asyncio.run(story(is_calm=True))


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
)
def test_whatever_happens_each_command_has_one_outcome_and_one_set_of_events(steps, fates, restarts, pauses):
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
        return town, sent

    town, sent = asyncio.run(story())

    for command_id, times in sent.items():
        outcomes = [said(outcome) for outcome in town.outcomes(command_id)]
        assert len(outcomes) == times
        assert all(outcome == outcomes[0] for outcome in outcomes)
    _require_sound(town)


def _require_sound(town: Town) -> None:
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
            assert data["first_seq"] > decided.get(data["partition"], 0)
            decided[data["partition"]] = data["last_seq"]
        assert to_ms(event["recordedtime"]) == town.clock_ms
    assert sum(balances.values()) + treasury == 0
    assert all(balance >= 0 for balance in balances.values())
