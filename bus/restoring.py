"""How a partition's owners come back into memory: snapshot and tail in bulk, history where neither serves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Final

from bus import snapshots
from bus.envelope import Recorded
from bus.errors import AppendRefused, OutcomeUnknown
from bus.owners import Owner, advance
from bus.ports import EventStore, SnapshotStore, Tail

log = logging.getLogger(__name__)

#: Snapshots in one transaction; the watermark is one more.
SNAPSHOTS_AT_ONCE: Final = 900
#: While commands keep coming, snapshots wait until the stream has gone on by so many events.
BEHIND_MAX: Final = 500_000
#: Owners of the tail that one call of `snapshot` brings into snapshots.
TAIL_AT_ONCE: Final = 500


class Restorer:
    """Reads and writes the snapshots of one partition.

    The watermark is their fence as well: whoever takes a partition over writes it anew, and from then on the server
    refuses the snapshots of the worker before. Events that other partitions write to an owner (a transfer, a supply)
    may be missing from a snapshot below the watermark; versions and `Batch.doubtful` see to that.
    """

    def __init__(self, partition: int, store: EventStore, snapshot_store: SnapshotStore, tail: Tail) -> None:
        self._partition = partition
        self._store = store
        self._snapshots = snapshot_store
        self._tail_source = tail
        self._fence_seq = 0
        self._complete_to = 0
        self._is_failing = False
        self._kept: set[str] = set()
        self._tail: dict[str, list[Recorded]] = {}
        self._by_history: set[str] = set()
        self._dirty: dict[str, Owner | None] = {}

    async def take_over(self, is_own: Callable[[str], bool]) -> Iterable[str]:
        """Fence the worker before, find the snapshots, read the tail; returns everybody who has a history."""
        found = await self._snapshots.watermark(self._partition)
        self._fence_seq, self._complete_to = (
            (0, 0) if found is None else (found[0], snapshots.decode_watermark(found[1]))
        )
        self._dirty.clear()
        self._by_history.clear()
        await self._write([])
        self._kept = set(await self._snapshots.owners(self._partition))
        while True:
            self._tail, end_seq, is_last = await self._tail_source.since(self._complete_to, is_own)
            if is_last:
                return self._kept | self._tail.keys()
            while self._tail:
                await self.load(list(self._tail)[:TAIL_AT_ONCE])
            await self._write_dirty(end_seq)

    async def load(self, owner_ids: Collection[str]) -> dict[str, Owner | Exception]:
        """Restore owners; one whose history cannot be read comes as what went wrong."""
        wanted = [owner_id for owner_id in owner_ids if owner_id in self._kept and owner_id not in self._by_history]
        bodies = await self._snapshots.load(self._partition, wanted) if wanted else {}
        restored = {owner_id: owner for owner_id in owner_ids if (owner := self._restored(owner_id, bodies))}
        missing = [owner_id for owner_id in owner_ids if owner_id not in restored]
        if missing:
            histories = await self._store.histories(missing)
            for owner_id in missing:
                restored[owner_id] = self._noted(owner_id, advanced(Owner(), histories.get(owner_id, [])))
        return restored

    def _restored(self, owner_id: str, bodies: dict[str, bytes]) -> Owner | Exception | None:
        """An owner from snapshot and tail; None when only the history tells everything."""
        if owner_id in self._by_history:
            return None
        owner = snapshots.decode(bodies[owner_id]) if owner_id in bodies else None
        tail = self._tail.get(owner_id, [])
        if owner is None and owner_id in self._kept:
            return None
        restored = advanced(owner or Owner(), tail)
        return self._noted(owner_id, restored) if tail else restored

    def _noted(self, owner_id: str, restored: Owner | Exception) -> Owner | Exception:
        """Note that the snapshot does not tell what was restored."""
        self._tail.pop(owner_id, None)
        self._by_history.add(owner_id)
        self._dirty[owner_id] = restored if isinstance(restored, Owner) else None
        return restored

    @property
    def dirty(self) -> int:
        """How many owners have gone on since their snapshot."""
        return len(self._dirty)

    def changed(self, owner_id: str, owner: Owner) -> None:
        """Note that an owner has gone on: the next snapshot takes it in."""
        self._dirty[owner_id] = owner
        self._by_history.add(owner_id)

    def forget(self, owner_id: str) -> None:
        """Note that somebody else wrote to an owner: only the history tells."""
        self._tail.pop(owner_id, None)
        self._by_history.add(owner_id)

    def may_go(self, owner_id: str) -> bool:
        """Whether an owner may leave memory: what it became is in a snapshot."""
        return owner_id not in self._dirty

    def is_due(self, head_seq: int) -> bool:
        """Whether the tail has become so long that snapshots must be written though commands are waiting."""
        return head_seq - self._complete_to > BEHIND_MAX

    async def snapshot(self, head_seq: int) -> None:
        """Write every owner that has gone on since the last time; the batch that ends at `head_seq` is the last."""
        if self._tail:
            await self.load(list(self._tail)[:TAIL_AT_ONCE])
        if not self._dirty:
            return
        dirty = self._dirty
        try:
            await self._write_dirty(head_seq)
        except (AppendRefused, OutcomeUnknown) as err:
            self._dirty = {**dirty, **self._dirty}
            if not self._is_failing:  # an overtaken worker would say it every second until it is told to stop
                log.warning("snapshots of partition %d were not written: %s", self._partition, err)
            self._is_failing = True
        else:
            self._is_failing = False

    async def _write_dirty(self, head_seq: int) -> None:
        """Write who has gone on; with no tail left, snapshots are complete up to `head_seq`."""
        dirty, self._dirty = self._dirty, {}
        every = [(owner_id, snapshots.encode(owner)) for owner_id, owner in dirty.items()]
        for start in range(0, len(every), SNAPSHOTS_AT_ONCE):
            await self._write(every[start : start + SNAPSHOTS_AT_ONCE])
        self._kept |= dirty.keys()
        self._by_history -= dirty.keys()
        if not self._tail:
            self._complete_to = max(self._complete_to, head_seq)
            await self._write([])

    async def _write(self, bodies: list[tuple[str, bytes]]) -> None:
        watermark = snapshots.encode_watermark(self._partition, self._complete_to)
        self._fence_seq = await self._snapshots.write(self._partition, bodies, watermark, self._fence_seq)


def advanced(owner: Owner, records: Iterable[Recorded]) -> Owner | Exception:
    """An owner as its history goes on, or what went wrong while it was read."""
    try:
        return advance(owner, records)
    except Exception as err:  # noqa: BLE001 - whatever it is, it parks this owner's commands and no others
        return err
