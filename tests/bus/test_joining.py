"""Batches of several partitions that are stored as one: whoever shares, nobody pays for another's fault."""

import asyncio
import random

import pytest

from bus import joining
from bus.errors import Conflict, OutcomeUnknown, StoreUnavailable
from bus.joining import JOINED_MAX, GroupCommit
from bus.memory import MemoryEventStore
from bus.ports import Message

TENANT = "t"


class Watched(MemoryEventStore):
    """Remembers how many messages each append had; holds them back until it is told to go on."""

    def __init__(self):
        super().__init__(TENANT)
        self.sizes = []
        self.ids = []
        self.may_go_on = asyncio.Event()
        self.error = None

    async def append(self, batch_id, messages):
        self.sizes.append(len(messages))
        self.ids.append(batch_id)
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        return await super().append(batch_id, messages)


def batch(owner, count=1, expected=0):
    subject = f"tally.evt.{TENANT}.token.{owner}"
    return [Message(subject, b"{}", expected if number == 0 else None, None) for number in range(count)]


def joined(scenario):
    async def story():
        store = Watched()
        return await scenario(store, GroupCommit(store.append, lambda: "joined"))

    return asyncio.run(story())


async def append_all(group, batches):
    return await asyncio.gather(
        *(group.append(f"b{number}", messages) for number, messages in enumerate(batches)), return_exceptions=True
    )


def test_batches_that_are_ready_together_are_stored_as_one_and_each_knows_where_it_begins():
    async def scenario(store, group):
        store.may_go_on.set()
        first_seqs = await append_all(group, [batch("a", 3), batch("b", 2), batch("c")])
        return first_seqs, store.sizes, [subject[-1] for subject, _ in store.events]

    assert joined(scenario) == ([1, 4, 6], [6], ["a", "a", "a", "b", "b", "c"])


def test_while_two_are_on_their_way_the_others_gather():
    async def scenario(store, group):
        tasks = []
        for owner in "abcdef":
            tasks.append(asyncio.ensure_future(group.append(f"b-{owner}", batch(owner))))
            await asyncio.sleep(0.001)
        before = list(store.sizes)
        store.may_go_on.set()
        return before, await asyncio.gather(*tasks), store.sizes, store.ids

    before, first_seqs, sizes, ids = joined(scenario)

    assert before == [1, 1]
    assert (first_seqs, sizes) == ([1, 2, 3, 4, 5, 6], [1, 1, 4])
    assert ids == ["b-a", "b-b", "joined"]  # a batch that is alone keeps its id


def test_full_batches_wait_for_nobody_and_none_is_larger_than_the_server_takes():
    async def scenario(store, group):
        sizes = [999, 999, 999, 600, 501, 999]
        tasks = [
            asyncio.ensure_future(group.append(f"b{number}", batch(f"o{number}", size)))
            for number, size in enumerate(sizes)
        ]
        await asyncio.sleep(0.001)
        before = sum(store.sizes)
        store.may_go_on.set()
        await asyncio.gather(*tasks)
        return before, store.sizes, sum(sizes)

    before, sizes, total = joined(scenario)

    assert before == sum(sizes) == total
    assert max(sizes) <= JOINED_MAX


def test_a_stale_batch_is_refused_alone():
    async def scenario(store, group):
        store.may_go_on.set()
        await append_all(group, [batch("stale")])
        return await append_all(group, [batch("a", 2), batch("stale", 2), batch("b")]), len(store.events)

    (a, stale, b), count = joined(scenario)

    assert isinstance(stale, Conflict)
    assert sorted([a, b]) in ([2, 4], [2, 3])
    assert count == 4


@pytest.mark.parametrize("error", [OutcomeUnknown("no answer came"), StoreUnavailable("down")])
def test_what_happened_to_all_is_told_to_all_and_not_tried_again(error):
    async def scenario(store, group):
        store.error = error
        store.may_go_on.set()
        return await append_all(group, [batch("a"), batch("b")]), store.sizes

    found, sizes = joined(scenario)

    assert found == [error, error]
    assert sizes == [2]


def test_who_gives_up_before_it_is_sent_is_not_sent():
    async def scenario(store, group):
        tasks = []
        for owner in "abcd":
            tasks.append(asyncio.ensure_future(group.append(owner, batch(owner))))
            await asyncio.sleep(0.001)
        tasks[2].cancel()
        await asyncio.sleep(0)
        store.may_go_on.set()
        await asyncio.wait(tasks)
        return [subject[-1] for subject, _ in store.events]

    assert joined(scenario) == ["a", "b", "d"]


def test_who_leads_and_is_told_to_end_leaves_the_others_neither_waiting_nor_misled():
    async def scenario(store, group):
        tasks = []
        for owner in "abcdef":
            tasks.append(asyncio.ensure_future(group.append(owner, batch(owner))))
            await asyncio.sleep(0.001)
        tasks[0].cancel()  # it stores its own alone; the next one leads with c to f
        await asyncio.sleep(0.001)
        tasks[2].cancel()
        found = await asyncio.gather(*tasks[2:], return_exceptions=True)
        store.may_go_on.set()
        return found, await tasks[1], await group.append("g", batch("g"))

    (c, *others), b, g = joined(scenario)

    assert isinstance(c, asyncio.CancelledError)
    assert [type(other) for other in others] == [OutcomeUnknown] * 3
    assert (b, g) == (1, 2)


def test_under_any_mixture_each_batch_is_stored_once_or_its_partition_knows_why():
    async def scenario(store, group):
        store.may_go_on.set()
        dice = random.Random(5)
        stored = {}

        async def partition(name):
            for number in range(40):
                await asyncio.sleep(dice.random() * 0.001)
                count = dice.choice([1, 3, 120, 700])
                messages = batch(f"{name}-{number}", count)
                stored[f"{name}-{number}"] = await group.append(f"{name}-{number}", messages), count

        await asyncio.wait_for(asyncio.gather(*(partition(name) for name in "abcdefgh")), 60)
        names = [subject.rpartition(".")[2] for subject, _ in store.events]
        return all(set(names[seq - 1 : seq - 1 + count]) == {name} for name, (seq, count) in stored.items()), (
            len(names) == sum(count for _, count in stored.values())
        )

    assert joined(scenario) == (True, True)


class OneByOne(MemoryEventStore):
    """Holds each append back until its batch is let go."""

    def __init__(self):
        super().__init__(TENANT)
        self.on_their_way = {}

    async def append(self, batch_id, messages):
        let_go = self.on_their_way[batch_id] = asyncio.Event()
        await let_go.wait()
        return await super().append(batch_id, messages)


def test_who_waits_for_what_is_on_its_way_leaves_with_all_who_did():
    async def scenario(store, group):
        first = asyncio.ensure_future(group.append("b-a", batch("a")))
        await asyncio.sleep(0.001)
        decided = []

        async def decide(owner):
            await group.landed()
            decided.append(owner)
            return await group.append(f"b-{owner}", batch(owner))

        others = [asyncio.ensure_future(decide(owner)) for owner in "bcd"]
        await asyncio.sleep(0.001)
        before = list(decided)
        store.may_go_on.set()
        return before, await asyncio.gather(first, *others), store.sizes

    assert joined(scenario) == ([], [1, 2, 3, 4], [1, 3])


def test_what_leaves_later_keeps_nobody_waiting_and_who_gives_up_waiting_neither():
    async def story():
        store = OneByOne()
        group = GroupCommit(store.append, lambda: "joined")
        first = asyncio.ensure_future(group.append("b-a", batch("a")))
        await asyncio.sleep(0.001)
        waiting, given_up = (asyncio.ensure_future(group.landed()) for _ in range(2))
        await asyncio.sleep(0.001)
        second = asyncio.ensure_future(group.append("b-b", batch("b")))
        await asyncio.sleep(0.001)
        later = asyncio.ensure_future(group.landed())
        given_up.cancel()
        store.on_their_way["b-a"].set()
        await asyncio.wait_for(waiting, 10)
        await first
        found = later.done(), second.done()
        store.on_their_way["b-b"].set()
        await asyncio.wait_for(later, 10)
        return found, await second, given_up.cancelled()

    assert asyncio.run(story()) == ((False, False), 2, True)


def test_a_batch_that_may_be_lost_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(joining, "LANDED_WITHIN_S", 0.05)

    async def scenario(store, group):
        lost = asyncio.ensure_future(group.append("b-a", batch("a")))
        await asyncio.sleep(0.001)
        await asyncio.wait_for(group.landed(), 10)
        found = lost.done()
        store.may_go_on.set()
        return found, await lost

    assert joined(scenario) == (False, 1)
