"""How a partition's owners come back into memory: snapshot and tail in bulk, history where neither serves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Final

from bus import snapshots
from bus.envelope import Recorded
from bus.errors import AppendRefused, OutcomeUnknown, StoreUnavailable
from bus.owners import Gap, KnownIds, Owner, advance, places
from bus.ports import EventStore, SnapshotStore, Tail
from bus.refusals import KEPT_MS, Refusals
from domain.values import to_ms

log = logging.getLogger(__name__)

#: Snapshots in one transaction; the watermark is one more.
SNAPSHOTS_AT_ONCE: Final = 900
#: Where commands come now, or may come any moment, and must not wait for more.
SNAPSHOTS_A_FEW: Final = 100
#: Portions without an end.
ALL: Final = repeat(SNAPSHOTS_AT_ONCE)
#: While commands keep coming, snapshots wait until the stream has gone on by so many events.
BEHIND_MAX: Final = 500_000
#: Those that are written in parts, between few commands, are begun earlier, so that they are complete by then.
BEHIND_SOON: Final = 400_000
#: At every tenth look without anything to write, the watermark follows a stream that went on by so many events.
KEEP_UP_EVERY: Final = 10
KEEP_UP_EVENTS: Final = 20_000
#: What is kept beside snapshots under names that no owner can have.
NO_OWNER: Final = "$"
REFUSED: Final = "$refused-"
#: Those of a few owners do not wait: whoever takes over in steady traffic finds a tail of so many seconds.
FEW_AFTER_MS: Final = 10_000
FEW_BEHIND: Final = 1_000
#: Whose snapshots were refused for so long takes the partition over anew, if it is still his.
FENCED_OFF_AFTER_MS: Final = 5_000
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
        #: What was refused lately, complete once the partition is taken over.
        self.refusals = Refusals(partition)
        self._fence_seq = 0
        self._complete_to = 0
        self._rests = 0
        self._dirty_since_ms: int | None = None
        self._failing_since_ms: int | None = None
        self._kept = KnownIds()
        self._tail: dict[str, list[Recorded]] = {}
        self._by_history: set[str] = set()
        #: In the order in which they went on first.
        self._dirty: dict[str, Owner | None] = {}
        #: Of a round of snapshots: how many of the first are left, and up to where all is told at its end (0: nothing).
        self._left = self._left_to = 0

    async def take_over(self, is_own: Callable[[str], bool], head_seq: int, now_ms: int) -> Iterable[str]:
        """Fence the worker before, find the snapshots, read the tail; returns everybody who has a history.

        The tail must reach the partition's last batch, `head_seq`: a leader that was just elected may end before.
        """
        found = await self._snapshots.watermark(self._partition)
        self._fence_seq, body = found or (0, b"")
        watermark = snapshots.decode_watermark(self._partition, body)
        self._complete_to = watermark.stream_seq
        self._failing_since_ms = None
        self._dirty.clear()
        self._left = 0
        self._by_history.clear()
        self._tail.clear()
        await self._write([], watermark.refusals)
        await self._restore_refusals(watermark.refusals, now_ms)
        every = await self._snapshots.owners(self._partition)
        every = [owner_id for owner_id in every if not owner_id.startswith(NO_OWNER)]
        self._kept = KnownIds(every)
        came: set[str] = set()
        while True:
            stretch = await self._tail_source.since(self._complete_to, self._partition, is_own)
            self._tail = stretch.by_owner
            for record in stretch.decided:
                self.refusals.remember(record.data, to_ms(record.event.recordedtime))
            if stretch.is_last and stretch.end_seq < head_seq:
                raise StoreUnavailable(f"the event stream ends at {stretch.end_seq}, it was at {head_seq} already")
            if stretch.is_last:
                return chain(every, came, self._tail)
            came.update(self._tail)
            while self._tail:
                await self.load(list(self._tail)[:TAIL_AT_ONCE])
            await self._write_dirty(stretch.end_seq)

    async def _restore_refusals(self, slots: Collection[int] | None, now_ms: int) -> None:
        """Take in the refusals that were kept, or a day of the inbox where they were not; the tail tells the rest."""
        self.refusals = Refusals(self._partition)
        if slots is not None:
            names = {f"{REFUSED}{slot}": slot for slot in slots}
            bodies = await self._snapshots.load(self._partition, names) if names else {}
            if self.refusals.restore(slots, {names[name]: body for name, body in bodies.items()}):
                return
            log.warning("refusals of partition %d are not all there; its inbox tells them", self._partition)
        self.refusals = Refusals(self._partition)
        async for decided in self._store.inbox_since(self._partition, now_ms - KEPT_MS):
            self.refusals.remember(decided, now_ms)
        await self._write_dirty(0)

    async def load(self, owner_ids: Collection[str]) -> dict[str, Owner | Exception]:
        """Restore owners; one whose history cannot be read comes as what went wrong."""
        wanted = [owner_id for owner_id in owner_ids if owner_id in self._kept and owner_id not in self._by_history]
        bodies = await self._snapshots.load(self._partition, wanted) if wanted else {}
        restored = {owner_id: owner for owner_id in owner_ids if (owner := self._restored(owner_id, bodies))}
        missing = [owner_id for owner_id in owner_ids if owner_id not in restored]
        for owner_id, owner in (await self._read(missing, bodies)).items():
            restored[owner_id] = self._noted(owner_id, owner)
        return restored

    async def load_foreign(self, owner_ids: Mapping[int, Collection[str]]) -> dict[str, Owner | Exception]:
        """Restore owners of other partitions, whose own snapshots they have; as `load`."""
        bodies: dict[str, bytes] = {}
        for partition, names in owner_ids.items():
            if wanted := [owner_id for owner_id in names if owner_id not in self._by_history]:
                bodies |= await self._snapshots.load(partition, wanted)
        return await self._read([*chain(*owner_ids.values())], bodies)

    async def _read(self, owner_ids: Collection[str], bodies: Mapping[str, bytes]) -> dict[str, Owner | Exception]:
        """Owners from what a snapshot tells and all that came after; without one, from the whole history."""
        told = {owner_id: owner for owner_id in owner_ids if (owner := snapshots.decode(bodies.get(owner_id, b"")))}
        found = await self.catch_up({owner_id: told.get(owner_id) or Owner() for owner_id in owner_ids})
        torn = {owner_id: Owner() for owner_id in told if not isinstance(found[owner_id], Owner)}
        return found | await self.catch_up(torn)

    async def catch_up(self, owners: Mapping[str, Owner]) -> dict[str, Owner | Exception]:
        """Bring owners to where the stream is: only what came after is read, however long their histories are."""
        newer = await self._store.histories(owners, places(owners)) if owners else {}
        return {owner_id: advanced(owner, newer.get(owner_id, ())) for owner_id, owner in owners.items()}

    def _restored(self, owner_id: str, bodies: dict[str, bytes]) -> Owner | Exception | None:
        """An owner from snapshot and tail; None when only the history tells everything."""
        if owner_id in self._by_history:
            return None
        owner = snapshots.decode(bodies[owner_id]) if owner_id in bodies else None
        tail = self._tail.get(owner_id, [])
        if owner is None and owner_id in self._kept:
            return None
        restored = advanced(owner or Owner(), tail)
        if isinstance(restored, Gap):  # a snapshot from before, or others wrote below the watermark
            return None
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

    def is_due(self, head_seq: int, now_ms: int, behind_max: int) -> bool:
        """Whether snapshots must be written though commands are waiting.

        Either the tail is longer than that, or there are so few to write that it costs nothing (not so in a burst).
        """
        behind = head_seq - self._complete_to
        if self._dirty_since_ms is None:
            self._dirty_since_ms = now_ms
        is_old = now_ms - self._dirty_since_ms > FEW_AFTER_MS and behind > FEW_BEHIND
        return behind > behind_max or (is_old and len(self._dirty) <= SNAPSHOTS_AT_ONCE)

    def is_fenced_off(self, now_ms: int) -> bool:
        """Whether no snapshot could be written for long: somebody has the fence, or an answer of ours was lost."""
        return self._failing_since_ms is not None and now_ms - self._failing_since_ms > FENCED_OFF_AFTER_MS

    async def snapshot(self, head_seq: int, now_ms: int, portions: Iterable[int] = ALL) -> None:
        """Write every owner that has gone on since the last time; the batch that ends at `head_seq` is the last.

        `portions` says how many at once, and when it is at its end the rest waits for the next time.
        """
        try:
            if self._dirty or self._tail or head_seq > self._complete_to:
                await self._write_dirty(head_seq, portions, from_tail=TAIL_AT_ONCE)
            else:
                await self._keep_up(head_seq)
        except (AppendRefused, OutcomeUnknown, StoreUnavailable) as err:
            if self._failing_since_ms is None:  # an overtaken worker would say it every second until it is told to stop
                log.warning("snapshots of partition %d were not written: %s", self._partition, err)
                self._failing_since_ms = now_ms
        else:
            self._failing_since_ms = None

    async def _keep_up(self, head_seq: int) -> None:
        """While others fill the stream and we have nothing to decide, nothing of it is our tail."""
        self._rests += 1
        if self._rests % KEEP_UP_EVERY or self._tail:
            return
        last_seq = await self._tail_source.last_seq()
        if last_seq - self._complete_to < KEEP_UP_EVENTS:
            return
        head = await self._store.inbox_head(self._partition)
        if (head.stream_seq if head else 0) == head_seq:
            self._complete_to = last_seq
            await self._write([], self.refusals.slots)

    async def _write_dirty(self, head_seq: int, portions: Iterable[int] = ALL, *, from_tail: int = 0) -> None:
        """Write what was refused and who has gone on, in rounds: one takes in who had gone on when it began.

        So each is written once, whoever goes on meanwhile, and at its end all is told up to where it began, unless
        there was a tail. Where a portion has room, owners of the tail are restored for it, so many over all portions.
        """
        await self._write_refusals()
        more = iter(portions)
        while self._dirty or (from_tail and self._tail):
            if not self._left:
                self._left, self._left_to = len(self._dirty), 0 if self._tail else head_seq
            count = min(next(more, 0), SNAPSHOTS_AT_ONCE)
            if not count:
                return
            came = await self._bring_in(min(count - self._left, from_tail))
            from_tail -= came
            count = min(count, self._left + came)
            await self._write_some(list(islice(self._dirty, count)))
            self._left = max(0, self._left - count)
            if self._dirty and not self._left:
                await self._told_up_to(self._left_to)
        await self._told_up_to(head_seq)

    async def _write_refusals(self) -> None:
        refused = self.refusals.unkept()
        bodies = [(f"{REFUSED}{unkept.slot}", unkept.body) for unkept in refused]
        for start in range(0, len(bodies), SNAPSHOTS_AT_ONCE):
            await self._write(bodies[start : start + SNAPSHOTS_AT_ONCE], self.refusals.slots)
        for unkept in refused:
            unkept.is_kept()

    async def _told_up_to(self, seq: int) -> None:
        """Move the watermark on, unless there is a tail."""
        if self._tail:
            return
        self._dirty_since_ms = None
        self._complete_to = max(self._complete_to, seq)
        await self._write([], self.refusals.slots)

    async def _bring_in(self, count: int) -> int:
        """Restore so many owners of the tail, who go on thereby; returns how many there were."""
        owner_ids = list(islice(self._tail, max(0, count)))
        if owner_ids:
            await self.load(owner_ids)
        return len(owner_ids)

    async def _write_some(self, owner_ids: Sequence[str]) -> None:
        """Write what these owners have become; who goes on meanwhile is written again."""
        going = {owner_id: self._dirty.pop(owner_id) for owner_id in owner_ids}
        try:
            bodies = [(owner_id, snapshots.encode(owner)) for owner_id, owner in going.items()]
            await self._write(bodies, self.refusals.slots)
        except BaseException:
            self._dirty = {**going, **self._dirty}
            raise
        for owner_id in going:
            self._kept.add(owner_id)
        self._by_history.difference_update(going)

    async def _write(self, bodies: list[tuple[str, bytes]], slots: Collection[int] | None) -> None:
        watermark = snapshots.Watermark(
            partition=self._partition,
            stream_seq=self._complete_to,
            refusals=None if slots is None else tuple(slots),
        )
        body = snapshots.encode_watermark(watermark)
        self._fence_seq = await self._snapshots.write(self._partition, bodies, body, self._fence_seq)


def advanced(owner: Owner, records: Iterable[Recorded]) -> Owner | Exception:
    """An owner as its history goes on, or what went wrong while it was read."""
    try:
        return advance(owner, records)
    except Exception as err:  # noqa: BLE001 - whatever it is, it parks this owner's commands and no others
        return err
