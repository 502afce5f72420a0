"""What a worker remembers of players who are not there: next to nothing, however many they are."""

import asyncio
import tracemalloc

from harness import town_with
from hypothesis import given
from hypothesis import strategies as st

from bus.owners import KnownIds, Owner, OwnerCache


def grown_by(work):
    tracemalloc.start()
    try:
        kept = work()
        return tracemalloc.get_traced_memory()[0], kept
    finally:
        tracemalloc.stop()


@given(st.sets(st.text(max_size=5)), st.sets(st.text(max_size=5)))
def test_who_was_added_is_known_and_nobody_else(before, then):
    ids = KnownIds(before)
    for each in then:
        ids.add(each)

    assert all(each in ids for each in before | then)
    assert len(ids) == len(before | then)
    assert "somebody else" not in ids


def test_passivated_owners_cost_a_few_bytes_each_and_live_ones_are_as_many_as_configured():
    players = 12_000

    def work():
        cache = OwnerCache(500)
        for number in range(players):
            cache.put(f"player-{number}", Owner())
            cache.passivate(lambda _: True)
        return cache

    few, small = grown_by(lambda: OwnerCache(500))
    many, cache = grown_by(work)

    assert (len(small), len(cache)) == (0, 500)
    assert (many - few) / players < 100
    assert all(cache.has_history(f"player-{number}") for number in range(0, players - 500, 97))
    assert not cache.has_history("nobody")


def test_a_town_with_many_players_keeps_only_as_many_live_as_configured_and_forgets_none():
    players = [f"p{number}" for number in range(1_000)]

    async def story():
        town = await town_with(*players, owners_max=20)
        live = [partition.live_owners for partition in town.partitions]
        for player in players[::50]:
            await town.send("MintTokens", player, {"amount": 1}, f"m-{player}")
            await town.send("RegisterPlayer", player, {}, f"r-{player}")
        await town.drain()
        told = [(town.outcome(f"m-{player}")[0], town.outcome(f"r-{player}")[1]) for player in players[::50]]
        return live, [partition.live_owners for partition in town.partitions], set(told)

    before, after, told = asyncio.run(story())

    assert max(before) <= 20
    assert max(after) <= 20
    assert told == {("accepted", "already-registered")}
