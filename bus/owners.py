"""Owners: all aggregates of one id, each an actor with its state in memory, and the commands that they know."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

from bus.envelope import Recorded
from domain import catalogue
from domain.values import to_ms


class Actor:
    """One aggregate: its state, its version and the sequence of its last event (0 for none)."""

    __slots__ = ("state", "stream_seq", "version")

    def __init__(self, state: Any, version: int = 0, stream_seq: int = 0) -> None:
        self.state = state
        self.version = version
        self.stream_seq = stream_seq


class Owner:
    """The actors of one id, and where the events of each command begin that was addressed to it."""

    __slots__ = ("actors", "known")

    def __init__(self) -> None:
        self.actors: dict[str, Actor] = {}
        self.known: dict[str, int] = {}

    def actor(self, aggregate: str) -> Actor:
        """The actor of an aggregate, without history when it has none."""
        found = self.actors.get(aggregate)
        if found is None:
            found = self.actors[aggregate] = Actor(catalogue.initial(aggregate))
        return found


def advance(owner: Owner, history: Iterable[Recorded]) -> Owner:
    """An owner as its history goes on, events that it knows passed over; `known` keeps each command's first event."""
    for record in history:
        event = record.event
        aggregate = event.subject.partition("/")[0]
        actor = owner.actor(aggregate)
        if record.stream_seq <= actor.stream_seq:
            continue
        actor.state = catalogue.evolve(aggregate, actor.state, record.data, to_ms(event.time))
        actor.version = event.aggregateversion
        actor.stream_seq = record.stream_seq
        owner.known.setdefault(event.causationid, record.stream_seq)
    return owner


class OwnerCache:
    """Live owners, the longest untouched ones passivated beyond a limit.

    Passivation drops memory only: the state stands in the stream. The index of everybody with a history makes sure
    that a passivated owner is read again, and a new one never has to be looked for; eight bytes an owner.
    """

    def __init__(self, owners_max: int) -> None:
        self._owners_max = owners_max
        self._live: dict[str, Owner] = {}
        self._cold = array("Q")
        self._passivated: set[int] = set()

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
            self._passivated.add(_digest(owner_id))

    def has_history(self, owner_id: str) -> bool:
        """Whether the stream may hold events of an owner who is not live (rarely yes for one who has none)."""
        digest = _digest(owner_id)
        at = bisect_left(self._cold, digest)
        return digest in self._passivated or (at < len(self._cold) and self._cold[at] == digest)

    def restart(self, owner_ids: Iterable[str]) -> None:
        """Forget everybody; these have a history."""
        self._live.clear()
        self._passivated.clear()
        self._cold = array("Q", sorted({_digest(owner_id) for owner_id in owner_ids}))

    def passivate(self, may_go: Callable[[str], bool]) -> bool:
        """Let the longest untouched owners go until the limit is kept; False when too many of them may not go."""
        for _ in range(2 * max(0, len(self._live) - self._owners_max)):
            if len(self._live) <= self._owners_max:
                break
            oldest = next(iter(self._live))
            owner = self._live.pop(oldest)
            if may_go(oldest):
                self._passivated.add(_digest(oldest))
            else:
                self._live[oldest] = owner
        return len(self._live) <= self._owners_max


def _digest(owner_id: str) -> int:
    return int.from_bytes(blake2b(owner_id.encode(), digest_size=8).digest(), "little")
