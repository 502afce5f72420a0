"""Owners: all aggregates of one id, each an actor with its state in memory, and the commands that they know."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from heapq import merge
from typing import Any, Final
from weakref import WeakSet

import msgspec

from bus.envelope import Recorded
from domain import catalogue, quest, token
from domain.catalogue import Key
from domain.values import to_ms

#: Events of commands that were addressed to another owner: what such a command led to is asked there.
OF_OTHERS: Final = frozenset({token.TOKENS_RECEIVED, quest.SUPPLY_TAKEN})
#: Ids that are kept as they come before they are sorted in.
RECENT_MAX: Final = 4_096


class Actor(msgspec.Struct, gc=False):
    """One aggregate: its state, its version and the sequence of its last event (0 for none)."""

    state: Any
    version: int = 0
    stream_seq: int = 0


class Owner(msgspec.Struct, gc=False):
    """The actors of one id, and where the events of each command begin that was addressed to it."""

    known: dict[str, int] = {}
    #: Fields and no dict, which would be the largest part of a player and is looked up for every event.
    player: Actor | None = None
    token: Actor | None = None
    quest: Actor | None = None
    ledger: Actor | None = None

    def actor(self, aggregate: str) -> Actor:
        """The actor of an aggregate, without history when it has none."""
        found: Actor | None = getattr(self, aggregate)
        if found is None:
            found = Actor(catalogue.initial(aggregate))
            setattr(self, aggregate, found)
        return found

    @property
    def actors(self) -> dict[str, Actor]:
        """The actors that there are, by aggregate."""
        return {name: actor for name in catalogue.AGGREGATES if (actor := getattr(self, name)) is not None}


def places(owners: Mapping[str, Owner]) -> dict[Key, int]:
    """Of each aggregate of these owners that has a history, the sequence of its last event that is known."""
    return {
        Key(aggregate, owner_id): actor.stream_seq
        for owner_id, owner in owners.items()
        for aggregate, actor in owner.actors.items()
        if actor.stream_seq
    }


class Gap(Exception):
    """An event is missing between what is known of an aggregate and what came after."""


def advance(owner: Owner, history: Iterable[Recorded]) -> Owner:
    """An owner as its history goes on, events that it knows passed over; `known` keeps its commands' first events.

    Raises `Gap` when an event does not follow the one before.
    """
    for record in history:
        event = record.event
        aggregate = event.subject.partition("/")[0]
        actor = owner.actor(aggregate)
        if record.stream_seq <= actor.stream_seq:
            continue
        if event.aggregateversion != actor.version + 1:
            raise Gap(f"{event.id} is event {record.stream_seq}, what is known ends at version {actor.version}")
        actor.state = catalogue.evolve(aggregate, actor.state, record.data, to_ms(event.time))
        actor.version = event.aggregateversion
        actor.stream_seq = record.stream_seq
        if event.type not in OF_OTHERS:
            owner.known.setdefault(event.causationid, record.stream_seq)
    return owner


class KnownIds:
    """Ids that were added, eight bytes each; it may rarely know one that was not."""

    __slots__ = ("_recent", "_sorted")

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._sorted = array("Q", sorted({_digest(each) for each in ids}))
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, each: str) -> bool:
        digest = _digest(each)
        return digest in self._recent or self._is_sorted_in(digest)

    def add(self, each: str) -> None:
        """Know an id from now on."""
        digest = _digest(each)
        if self._is_sorted_in(digest):
            return
        self._recent.add(digest)
        if len(self._recent) > max(RECENT_MAX, len(self._sorted) // 8):
            self._sorted = array("Q", merge(self._sorted, sorted(self._recent)))
            self._recent.clear()

    def _is_sorted_in(self, digest: int) -> bool:
        at = bisect_left(self._sorted, digest)
        return at < len(self._sorted) and self._sorted[at] == digest


class Room:
    """How many owners may be live in one process, over all of its partitions and tenants.

    While there is room, whoever needs it has it; then each partition keeps what the others leave, or an equal part.
    """

    def __init__(self, owners_max: int) -> None:
        self.owners_max = owners_max
        self._caches: WeakSet[OwnerCache] = WeakSet()

    @property
    def live_owners(self) -> int:
        """How many owners are in memory."""
        return sum(map(len, self._caches))

    def enter(self, cache: OwnerCache) -> None:
        """Count a partition's owners, as long as they are in memory."""
        self._caches.add(cache)

    @property
    def share(self) -> int:
        """How many owners each partition may keep, however many the others have."""
        return self.owners_max // len(self._caches)

    def allowed(self, cache: OwnerCache) -> int:
        """How many owners a partition may keep."""
        left = self.owners_max - self.live_owners + len(cache)
        return max(left, self.share)


class OwnerCache:
    """Live owners, the longest untouched ones passivated beyond what there is room for.

    Passivation drops memory only: the state stands in the stream. The index of everybody with a history makes sure
    that a passivated owner is read again, and a new one never has to be looked for.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        room.enter(self)
        self._live: dict[str, Owner] = {}
        self._cold = KnownIds()

    def __len__(self) -> int:
        return len(self._live)

    def peek(self, owner_id: str) -> Owner | None:
        """The live owner, left where it is in the order."""
        return self._live.get(owner_id)

    def get(self, owner_id: str) -> Owner | None:
        """The live owner, touched."""
        owner = self._live.pop(owner_id, None)
        if owner is not None:
            self._live[owner_id] = owner
        return owner

    def put(self, owner_id: str, owner: Owner) -> None:
        """Make an owner live."""
        self._live[owner_id] = owner

    def drop(self, owner_id: str) -> None:
        """Forget an owner whose history has gone on without us; it is read again."""
        if self._live.pop(owner_id, None) is not None:
            self._cold.add(owner_id)

    def has_history(self, owner_id: str) -> bool:
        """Whether the stream may hold events of an owner who is not live (rarely yes for one who has none)."""
        return owner_id in self._cold

    def restart(self, owner_ids: Iterable[str]) -> None:
        """Forget everybody; these have a history."""
        self._live.clear()
        self._cold = KnownIds(owner_ids)

    def passivate(self, may_go: Callable[[str], bool]) -> bool:
        """Let the longest untouched owners go until there is room; False when too many of them may not go."""
        if len(self._live) <= self._room.share:
            return True
        live_max = self._room.allowed(self)
        for _ in range(2 * max(0, len(self._live) - live_max)):
            if len(self._live) <= live_max:
                break
            oldest = next(iter(self._live))
            owner = self._live.pop(oldest)
            if may_go(oldest):
                self._cold.add(oldest)
            else:
                self._live[oldest] = owner
        return len(self._live) <= live_max


def _digest(owner_id: str) -> int:
    return int.from_bytes(blake2b(owner_id.encode(), digest_size=8).digest(), "little")
