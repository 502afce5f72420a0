"""Who is in memory for one partition: its own owners, and those of others whom its commands look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from typing import Final

from bus import subjects
from bus.batch import Batch, RefusedAnswer
from bus.neighbours import Neighbours
from bus.owners import Owner, OwnerCache, Room
from bus.ports import EventStore
from bus.reading import Task
from bus.restoring import Restorer
from domain.catalogue import Key

FOREIGN_MAX: Final = 10_000


class Passivated(Exception):
    """Somebody whom a command needs has left memory since the commands were read."""


class LiveOwners:
    """Makes owners live before a decision, and brings them to where the stream is after a conflict."""

    def __init__(
        self,
        partition: int,
        partitions: int,
        *,
        room: Room,
        store: EventStore,
        restorer: Restorer,
        neighbours: Neighbours,
        note_unreadable: Callable[[str, Exception], None],
    ) -> None:
        self._number = partition
        self._partitions = partitions
        self._store = store
        self._restorer = restorer
        self._neighbours = neighbours
        self._note_unreadable = note_unreadable
        self._own = OwnerCache(room)
        self._foreign: dict[str, Owner] = {}
        self._is_incomplete = False

    def __len__(self) -> int:
        return len(self._own)

    def restart(self, owner_ids: Iterable[str]) -> None:
        """Forget everybody; these of our own have a history."""
        self._foreign.clear()
        self._own.restart(owner_ids)

    def passivate(self, may_go: Callable[[str], bool]) -> bool:
        """Let owners go for whom there is no room; False when too many of them may not go."""
        return self._own.passivate(may_go)

    def owner(self, owner_id: str) -> Owner:
        """The live owner; raises `Passivated` when he left memory since the load: `complete` loads him again."""
        owner = self._peek(owner_id)
        if owner is None:
            self._is_incomplete = True
            raise Passivated
        return owner

    def is_own(self, owner_id: str) -> bool:
        """Whether an owner belongs to this partition."""
        return _partition_of(owner_id, self._partitions) == self._number

    def is_foreign(self, owner_id: str) -> bool:
        """Whether an owner belongs to another partition."""
        return _partition_of(owner_id, self._partitions) != self._number

    async def complete(self, tasks: Sequence[Task | RefusedAnswer]) -> None:
        """Load again who has left since `load`."""
        if self._is_incomplete:
            await self.load(tasks)

    async def load(self, tasks: Sequence[Task | RefusedAnswer]) -> None:
        """Make every owner live that the tasks need; those with a history are read in bulk."""
        self._is_incomplete = False
        needed = {key.id for task in tasks if isinstance(task, Task) for key in task.plan.keys}
        missing = [owner_id for owner_id in needed if self._is_missing(owner_id)]
        if not missing:
            return
        if len(self._foreign) > FOREIGN_MAX:
            self._foreign = {owner_id: owner for owner_id, owner in self._foreign.items() if owner_id in needed}
        own: list[str] = []
        foreign: defaultdict[int, list[str]] = defaultdict(list)
        for owner_id in missing:
            number = _partition_of(owner_id, self._partitions)
            (own if number == self._number else foreign[number]).append(owner_id)
        for owner_id, owner in (await self._restorer.load_foreign(foreign)).items():
            self._foreign[owner_id] = self._readable(owner_id, owner)
        for owner_id, owner in (await self._restorer.load(own)).items():
            self._own.put(owner_id, self._readable(owner_id, owner))

    def _readable(self, owner_id: str, restored: Owner | Exception) -> Owner:
        if isinstance(restored, Owner):
            return restored
        self._note_unreadable(owner_id, restored)
        return Owner()

    def _is_missing(self, owner_id: str) -> bool:
        """Whether an owner must be read; one of our own without history is simply new."""
        if self._own.get(owner_id) is not None:
            return False
        if self.is_foreign(owner_id):
            return owner_id not in self._foreign
        if self._own.has_history(owner_id):
            return True
        self._own.put(owner_id, Owner())
        return False

    def learn(self, keys: Collection[Key]) -> None:
        """Take over what the other partitions of this process know of aggregates that we hold."""
        for key in keys:
            owner = self._peek(key.id)
            if owner is not None and self._neighbours.advance(key, owner.actor(key.aggregate)) and self.is_own(key.id):
                self._restorer.changed(key.id, owner)

    async def refresh(self, batch: Batch, keys: Collection[Key], held: Collection[Key] = ()) -> bool:
        """Catch up with every owner of these aggregates whom somebody else has written since; True if there is one.

        Who has written what we hold (`held`) is of another process.
        """
        looked_at = batch.subjects_of(keys)
        seqs = await self._store.last_seqs(looked_at)
        more = {key: seqs.get(subject, 0) - seq for subject, (key, seq) in looked_at.items()}
        for key, events in more.items():
            if events and key in held:
                self._neighbours.note_rival(key)
            if events < 0:  # nobody takes an event away: then we err
                self.drop(key.id)
        await self.catch_up({key.id for key, events in more.items() if events})
        return any(more.values())

    async def catch_up(self, owner_ids: Collection[str]) -> None:
        """Bring owners to where the stream is."""
        current = await self._restorer.catch_up({name: owner for name in owner_ids if (owner := self._peek(name))})
        for owner_id in owner_ids:
            found = current.get(owner_id)
            if not isinstance(found, Owner):
                self.drop(owner_id)
            elif self.is_own(owner_id):
                self._restorer.changed(owner_id, found)

    def drop(self, owner_id: str) -> None:
        """Forget what we know of an owner; the history tells."""
        self._is_incomplete = True
        self._foreign.pop(owner_id, None)
        self._own.drop(owner_id)
        self._restorer.forget(owner_id)

    def _peek(self, owner_id: str) -> Owner | None:
        return self._own.peek(owner_id) or self._foreign.get(owner_id)


_partition_of = lru_cache(maxsize=1 << 17)(subjects.partition_of)
