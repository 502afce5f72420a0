"""What a worker remembers of players who are not there: next to nothing, however many they are."""

import asyncio
import gc
import tracemalloc

from harness import town_with
from hypothesis import given
from hypothesis import strategies as st

from bus.owners import KnownIds, Owner, OwnerCache, Room
from domain.attempt import Attempt
from domain.player import PlayerState


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
        cache = OwnerCache(Room(500))
        for number in range(players):
            cache.put(f"player-{number}", Owner())
            cache.passivate(lambda _: True)
        return cache

    few, small = grown_by(lambda: OwnerCache(Room(500)))
    many, cache = grown_by(work)

    assert (len(small), len(cache)) == (0, 500)
    assert (many - few) / players < 100
    assert all(cache.has_history(f"player-{number}") for number in range(0, players - 500, 97))
    assert not cache.has_history("nobody")


def filled(room, *names):
    """A partition's owners, touched in this order; they may all go."""
    cache = OwnerCache(room)
    for name in names:
        cache.put(name, Owner())
        cache.passivate(lambda _: True)
    return cache


def test_partitions_share_one_limit_and_whoever_needs_room_takes_what_the_others_leave():
    room = Room(100)
    large = filled(room, *(f"a{n}" for n in range(300)))
    assert (len(large), room.live_owners) == (100, 100)

    small = filled(room, *(f"b{n}" for n in range(20)))
    assert (len(small), room.live_owners) == (20, 120)
    assert large.passivate(lambda _: True)
    assert (len(large), room.live_owners) == (80, 100)

    other = filled(room, *(f"c{n}" for n in range(300)))
    for cache in (large, small, other):
        cache.passivate(lambda _: True)
    assert (len(large), len(small), len(other)) == (47, 20, 33)
    assert large.peek("a299")
    assert not large.peek("a252")

    del large, cache
    assert room.live_owners == 53


def test_a_town_with_many_players_keeps_only_as_many_live_as_configured_and_forgets_none():
    players = [f"p{number}" for number in range(1_000)]

    async def story():
        town = await town_with(*players, owners_max=20)
        live = [town.room.live_owners]
        for player in players[::50]:
            await town.send("MintTokens", player, {"amount": 1}, f"m-{player}")
            await town.send("RegisterPlayer", player, {}, f"r-{player}")
            await town.drain()
            live.append(town.room.live_owners)
        await town.snapshot()  # as each does when no command comes
        told = [(town.outcome(f"m-{player}")[0], town.outcome(f"r-{player}")[1]) for player in players[::50]]
        return live, town.room.live_owners, set(told)

    live, at_rest, told = asyncio.run(story())

    assert max(live) <= 2 * 20  # those who have nothing to do let theirs go when they look next
    assert at_rest <= 20
    assert told == {("accepted", "already-registered")}


def test_the_collector_looks_at_nothing_that_a_live_player_consists_of():
    owner = Owner()
    owner.actor("token")
    owner.known["c-1"] = 1
    player = owner.actor("player")
    player.state = PlayerState(
        attempts={"marathon": Attempt(number=1, status="running", accepted_at_ms=1, divisions=())}
    )

    parts = [owner, owner.known, player, player.state, player.state.attempts]

    assert [part for part in parts if gc.is_tracked(part)] == []
