import asyncio
import json
from collections import Counter

import pytest
from harness import PARTITIONS, QUEST, Town, said, town_with

from bus import subjects
from bus.batch import REFUSALS_MAX
from bus.envelope import BODY_BYTES_MAX
from bus.errors import StoreUnavailable
from bus.partition import Overtaken
from bus.refusals import KEPT_MS


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
        town.clock_ms += KEPT_MS + 1
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
        source = await town.commands.open(stale.number, stale.decided_seq, stale.decided_ns)
        deliveries = await source.take(10)
        with pytest.raises(Overtaken):
            await stale.process(*await stale.prepare(deliveries))
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


def test_the_longest_refusals_that_can_be_fit_into_inbox_events():
    async def story():
        town = await town_with("p")
        for number in range(REFUSALS_MAX + 3):
            name = f"{number:03d}" + "x" * 61
            await town.send("SpendTokens", "p", {"amount": 1}, name, specversion="\U0001f3c3" * 400)
        await town.drain()
        return town

    town = asyncio.run(story())

    assert max(len(body) for _, body in town.store.events) <= BODY_BYTES_MAX
    assert len(town.outbox.sent) == REFUSALS_MAX + 3 + 2


def test_a_thousand_duplicates_are_answered_with_few_reads():
    async def story():
        players = [f"p{number}" for number in range(40)]
        town = await town_with(*players)
        names = [f"mint-{player}-{turn}" for player in players for turn in range(10)]
        for name in names:
            await town.send("MintTokens", name.split("-")[1], {"amount": 1}, name)
        await town.drain()
        reads = 0
        real = town.store.events_from

        async def counted(stream_seq, count_max):
            nonlocal reads
            reads += 1
            return await real(stream_seq, count_max)

        town.store.events_from = counted
        for name in reversed(names):
            await town.send("MintTokens", name.split("-")[1], {"amount": 1}, name)
        await town.drain()
        return town, names, reads

    town, names, reads = asyncio.run(story())

    for name in names:
        first, second = town.outcomes(name)
        assert first["data"] == second["data"]
    assert reads < 20


def test_a_state_is_never_put_together_from_events_with_one_missing():
    async def story():
        town = await town_with("p")
        await town.snapshot()
        old = dict(town.snapshots.bodies)
        await completed(town, "p")
        await town.snapshot()
        await town.send("PublishQuest", "r", {**QUEST, "title": "R"})
        await town.drain()
        await town.send("AcceptQuest", "p", {"quest": "r"})
        await town.send("MintTokens", "p", {"amount": 1})
        await town.drain()
        town.snapshots.bodies.update(old)  # what a replica that was behind, or a write that was lost, leaves
        await town.restart()
        await town.send("CompleteQuest", "p", {"quest": "r", "elapsed_ms": 5}, "second")
        await town.drain()
        totals = [json.loads(body)["data"]["total"] for _, body in town.store.events if b"xp-awarded/1" in body]
        return totals, town.outcome("second")[0]

    assert asyncio.run(story()) == ([10, 20], "accepted")


def test_a_tail_that_ends_before_the_last_batch_is_no_take_over():
    async def story():
        town = await town_with("p")
        real = town.store.since

        async def behind(after_seq, partition, is_own):
            found = await real(after_seq, partition, is_own)
            return found._replace(end_seq=1, is_last=True)

        town.store.since = behind
        with pytest.raises(StoreUnavailable, match="ends at 1, it was at"):
            await town.restart()

    asyncio.run(story())
