"""What partitions of one process tell each other of an aggregate that all of them write."""

import asyncio

from harness import QUEST, TENANT, Town

from bus import neighbours
from bus.memory import MemoryEventStore, MemoryTurns
from bus.neighbours import Hold, Neighbours
from bus.owners import Actor
from domain.catalogue import Key

KEY = Key("quest", "q")


class Counted(MemoryTurns):
    def __init__(self):
        self.said = []

    async def take(self, key):
        self.said.append(("take", key.id))

    async def give(self, key):
        self.said.append(("give", key.id))


def test_an_actor_learns_only_what_is_newer():
    known, actor = Neighbours(MemoryTurns()), Actor("ours", 3, 30)

    known.tell(KEY, Actor("old", 2, 20))
    assert not known.advance(KEY, actor)
    known.tell(KEY, Actor("new", 5, 50))
    assert known.advance(KEY, actor)
    assert (actor.state, actor.version, actor.stream_seq) == ("new", 5, 50)
    known.forget()
    assert not known.advance(KEY, Actor("ours", 3, 30))


def test_turns_are_taken_only_where_another_process_has_written():
    async def story():
        turns = Counted()
        known = Neighbours(turns)
        async with Hold(known) as held:
            calm = await held.add({KEY})
        known.note_rival(KEY)
        async with Hold(known) as held:
            contended = await held.add({KEY, Key("quest", "calm")})
        return calm, contended, turns.said

    assert asyncio.run(story()) == (set(), {KEY}, [("take", "q"), ("give", "q")])


async def write(known):
    """Take a turn, and take a moment over it."""
    async with Hold(known) as held:
        await held.add({KEY})
        await asyncio.sleep(0.005)


def test_a_turn_goes_on_while_others_of_the_process_wait_but_not_for_long(monkeypatch):
    async def story():
        turns = Counted()
        known = Neighbours(turns)
        known.note_rival(KEY)

        await asyncio.gather(*(write(known) for _ in range(4)))
        together = list(turns.said)
        monkeypatch.setattr(neighbours, "TURN_S", 0.0)
        await asyncio.gather(*(write(known) for _ in range(3)))
        return together, turns.said[len(together) :]

    together, apart = asyncio.run(story())

    assert together == [("take", "q"), ("give", "q")]
    assert apart == [("take", "q"), ("give", "q")] * 3


def test_a_turn_that_was_kept_for_one_who_is_ended_while_he_waits_is_given_back_at_once():
    async def story():
        turns = Counted()
        known = Neighbours(turns)
        known.note_rival(KEY)

        async with Hold(known) as held:
            await held.add({KEY})
            waiting = asyncio.create_task(write(known))
            await asyncio.sleep(0)
        kept = list(turns.said)
        waiting.cancel()
        await asyncio.wait({waiting})
        return kept, turns.said, waiting.cancelled()

    assert asyncio.run(story()) == ([("take", "q")], [("take", "q"), ("give", "q")], True)


class Refusing(MemoryEventStore):
    """Counts conflicts."""

    def __init__(self):
        super().__init__(TENANT)
        self.conflicts = 0

    async def append(self, batch_id, messages):
        try:
            return await super().append(batch_id, messages)
        except Exception:
            self.conflicts += 1
            raise


def supply_given_out(processes, rounds=6, players=16):
    async def story():
        store = Refusing()
        towns = [Town(store=store) for _ in range(processes)]
        for town in towns[1:]:
            town.commands, town.outbox, town.snapshots = towns[0].commands, towns[0].outbox, towns[0].snapshots
        first = towns[0]
        await first.take_over()
        await first.send("PublishQuest", "q", {**QUEST, "supply": rounds * players // 2}, "publish")
        await first.drain()
        for number in range(rounds * players):
            await first.send("RegisterPlayer", f"p{number}")
            await first.send("AcceptQuest", f"p{number}", {"quest": "q"})
        await first.drain()
        halves = [town.partitions[at::processes] for at, town in enumerate(towns)]
        for partition in [partition for half in halves for partition in half]:
            await partition.take_over()
        before = store.conflicts
        for start in range(rounds):
            for number in range(start * players, (start + 1) * players):
                await first.send("CompleteQuest", f"p{number}", {"quest": "q", "elapsed_ms": 1})
            async with asyncio.TaskGroup() as group:
                for at, half in enumerate(halves):
                    for partition in half:
                        group.create_task(towns[at]._drain(partition))
        return first.types(), store.conflicts - before

    return asyncio.run(story())


def test_partitions_of_a_process_give_a_supply_out_with_hardly_a_conflict():
    types, conflicts = supply_given_out(1)

    assert types.count("supply-taken/1") == types.count("badge-awarded/1") == 48
    assert conflicts <= 4  # one for each partition that did not know yet that others write the quest


def test_two_processes_give_a_supply_out_exactly():
    types, _ = supply_given_out(2)

    assert types.count("supply-taken/1") == types.count("badge-awarded/1") == 48
