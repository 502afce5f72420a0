"""Computing a log again from its entry bundles, block by block, in one process or in several.

A block begins from the link that is published before it; the block before has compared that very link. So blocks do
not wait for each other, and what they found is put together in order: hashes of higher tiles, versions of subjects,
the states that months and checkpoints are compared with.
"""

from __future__ import annotations

import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ledger.checkpoint import Checkpoint
from ledger.commands import RECORD_BYTES, CommandRuns
from ledger.errors import EventRefused, LedgerError, LogDamaged, excerpt
from ledger.events import EventRules, Window, command_of, describe, require_next_version
from ledger.files import Source
from ledger.hashing import (
    EMPTY_ROOT,
    FIRST_LINK,
    HASH_BYTES,
    chain_links,
    fold_right,
    leaf_hashes,
    perfect_root,
)
from ledger.keyevents import KEY_EVENTS
from ledger.progress import Kind, Replayed, State
from ledger.proofs import verify_inclusion
from ledger.reader import LogReader
from ledger.tiles import CHAIN, ENTRIES, TILE_BITS, TILE_WIDTH, Tile, join_hashes, tile_at

BLOCK_BUNDLES: Final = 64
BLOCK_ENTRIES: Final = BLOCK_BUNDLES * TILE_WIDTH
BLOCKS_AHEAD: Final = 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Block:
    """A task: the bundles `[first, last)` of a log, the tree sizes within at which the state is wanted, the times."""

    checkpoint: Checkpoint
    first: int
    last: int
    cuts: tuple[int, ...]
    windows: tuple[Window, ...]
    is_plain: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """The state at one tree size, as far as the block can tell: root over the last bundle's leaves, link, kinds."""

    tree_size: int
    rest: bytes | None
    link: bytes
    kinds: Counter[Kind]


@dataclass(slots=True)
class BlockResult:
    """What a block found to hold within itself."""

    roots: list[bytes] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    link: bytes = FIRST_LINK
    kinds: Counter[Kind] = field(default_factory=Counter)
    rules: EventRules = field(default_factory=EventRules)
    key_entries: list[tuple[int, bytes]] = field(default_factory=list)


def replay_block(source: Source, block: Block) -> BlockResult:
    """Compare the block's leaves, links and events with the published files; raises a `LedgerError` that says what."""
    reader = LogReader(source, block.checkpoint.tree_size)
    result = BlockResult()
    if not block.is_plain:
        result.link = reader.link(block.first * TILE_WIDTH)
    cuts = deque(block.cuts)
    for number in range(block.first, block.last):
        entries = reader.bundle(number)
        first = number * TILE_WIDTH
        leaves = leaf_hashes(entries)
        _compare_leaves(reader, block.checkpoint, number, leaves)
        links: list[bytes] = []
        kinds: list[Kind] = []
        if not block.is_plain:
            links = chain_links(result.link, leaves)
            compare(reader, tile_at(CHAIN, number, reader.tree_size), links)
            kinds = _check_events(result.rules, block.windows, first, entries)
            result.key_entries += [(first + at, entries[at]) for at, kind in enumerate(kinds) if kind[0] in KEY_EVENTS]
        while cuts and cuts[0] <= first + len(entries):
            size = cuts.popleft()
            width = size - first
            link = links[width - 1] if links else result.link
            rest = fold_right(leaves[:width], None)
            result.cuts.append(Cut(size, rest, link, result.kinds + Counter(kinds[:width])))
        result.kinds.update(kinds)
        if links:
            result.link = links[-1]
        if len(leaves) == TILE_WIDTH:
            result.roots.append(perfect_root(leaves))
    return result


def _check_events(rules: EventRules, windows: Sequence[Window], first: int, entries: Sequence[bytes]) -> list[Kind]:
    """Check a bundle's events; those between two checkpoints were recorded between them."""
    kinds: list[Kind] = []
    end = first + len(entries)
    for window in windows:
        start, stop = max(first, window.start), min(end, window.end)
        kinds += (rules.check(leaf_index, entries[leaf_index - first], window) for leaf_index in range(start, stop))
    return kinds


def _replay_apart(source: Source, block: Block) -> BlockResult:
    """The same in a process of its own, which has its own connection."""
    try:
        return replay_block(source, block)
    finally:
        source.close()


def compare(reader: LogReader, tile: Tile, computed: Sequence[bytes]) -> None:
    """Compare a file of hashes with what was computed; raises `LogDamaged` naming the first that differs."""
    stored = reader.tile_bytes(tile)
    if stored != join_hashes(computed):
        at, found = _first_difference(stored, computed)
        kind = "link" if tile.level == CHAIN else "hash"
        raise LogDamaged(
            f"{tile.path}, {kind} {at}", expected=f"{computed[at].hex()} from the entries", found=found.hex()
        )


def _first_difference(stored: bytes, computed: Sequence[bytes]) -> tuple[int, bytes]:
    found = [stored[at : at + HASH_BYTES] for at in range(0, len(stored), HASH_BYTES)]
    return next((at, found[at]) for at, value in enumerate(computed) if found[at] != value)


def _compare_leaves(reader: LogReader, checkpoint: Checkpoint, number: int, leaves: Sequence[bytes]) -> None:
    tile = tile_at(0, number, reader.tree_size)
    stored = reader.tile_bytes(tile)
    if stored == join_hashes(leaves):
        return
    at, found = _first_difference(stored, leaves)
    leaf_index = number * TILE_WIDTH + at
    try:
        # When the hash in the tile is the one that was signed, the entry is what was changed.
        proof = reader.inclusion_proof(leaf_index)
        verify_inclusion(leaf_index, checkpoint.tree_size, found, proof, checkpoint.root)
    except LedgerError:
        compare(reader, tile, leaves)
    bundle = tile_at(ENTRIES, number, reader.tree_size)
    raise LogDamaged(
        f"{bundle.path}, entry {leaf_index}",
        expected=f"leaf hash {found.hex()} as signed",
        found=f"{leaves[at].hex()}: the entry was changed",
    )


class Replay:
    """Puts blocks together; `states` has what was asked for by `keep`, and the end, once `run` is done."""

    def __init__(
        self,
        source: Source,
        checkpoint: Checkpoint,
        *,
        is_plain: bool,
        resumed: Replayed | None = None,
        scratch: Path | None = None,
    ) -> None:
        """`scratch` is the folder in which the commands of an audit that goes on later are kept."""
        self._source = source
        self._checkpoint = checkpoint
        self._is_plain = is_plain
        self._reader = LogReader(source, checkpoint.tree_size)
        self._cuts: set[int] = {checkpoint.tree_size}
        self._windows: tuple[Window, ...] = (Window(0, checkpoint.tree_size),)
        self.known = resumed or Replayed()
        self.is_settled = True
        self._commands = None if is_plain else CommandRuns(scratch, self.known.runs)

    @property
    def subjects(self) -> int:
        return len(self.known.versions)

    @property
    def commands(self) -> int:
        """Number of commands and batches that led to the events."""
        return len(self._commands or ())

    @property
    def link(self) -> bytes:
        return self.known.link

    def close(self) -> None:
        """Let go of what was kept aside."""
        if self._commands is not None:
            self._commands.close()

    def settled(self) -> Replayed:
        """What is known so far, in a form with which a later audit can go on."""
        if self._commands is not None:
            self.known.runs = self._commands.marks()
        return self.known

    def require_once(self) -> None:
        """That no command was executed at two places; raises `EventRefused`."""
        repeated = self._commands.first_repeated() if self._commands is not None else None
        if repeated is None:
            return
        first, again = (self._reader.entry(leaf_index) for leaf_index in repeated)
        raise EventRefused(
            f"entry {repeated[1]}, causationid {excerpt(command_of(again))}: a command was executed twice",
            expected=f"its events at one place, entry {repeated[0]} ({describe(first)})",
            found=describe(again),
        )

    @property
    def states(self) -> dict[int, State]:
        return self.known.states

    def keep(self, sizes: Iterable[int]) -> None:
        """Remember the state at these tree sizes too, as far as the log goes."""
        self._cuts.update(sizes)

    def require_times(self, windows: Iterable[Window]) -> None:
        """Say when the events were recorded; the windows cover the log without a gap."""
        self._windows = tuple(windows)

    @property
    def misses_a_state(self) -> bool:
        """Whether a state is wanted within what an earlier run has read, which that run did not keep."""
        return any(size <= self.known.entries and size not in self.states for size in self._cuts)

    def run(self, progress: Progress, jobs: int = 1) -> None:
        """Replay the blocks, in `jobs` processes; raises the `LedgerError` of the first that does not hold."""
        size = self._checkpoint.tree_size
        progress(self.known.entries, size)
        for block, result in self._results(jobs):
            self._put(block, result)
            progress(min(block.last * TILE_WIDTH, size), size)
        for level, hashes in enumerate(self.known.levels[1:], 1):
            if hashes:
                number = (size >> (TILE_BITS * level)) // TILE_WIDTH
                compare(self._reader, tile_at(level, number, size), hashes)

    def _blocks(self) -> Iterator[Block]:
        bundles = -(-self._checkpoint.tree_size // TILE_WIDTH)
        for first in range(self.known.bundles, bundles, BLOCK_BUNDLES):
            last = min(first + BLOCK_BUNDLES, bundles)
            start, end = first * TILE_WIDTH, min(last * TILE_WIDTH, self._checkpoint.tree_size)
            cuts = tuple(sorted(size for size in self._cuts if start < size <= end))
            windows = tuple(window for window in self._windows if window.start < end and start < window.end)
            yield Block(self._checkpoint, first, last, cuts, windows, self._is_plain)

    def _results(self, jobs: int) -> Iterator[tuple[Block, BlockResult]]:
        if jobs == 1:
            for block in self._blocks():
                yield block, replay_block(self._source, block)
            return
        # Imported here: most runs verify one receipt, and these take longer to load than that takes to check.
        from concurrent.futures import Future, ProcessPoolExecutor  # noqa: PLC0415
        from multiprocessing import get_context  # noqa: PLC0415

        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_leave_interrupts) as pool:
            waiting: deque[tuple[Block, Future[BlockResult]]] = deque()
            try:
                for block in self._blocks():
                    waiting.append((block, pool.submit(_replay_apart, self._source, block)))
                    if len(waiting) >= jobs * BLOCKS_AHEAD:
                        done, future = waiting.popleft()
                        yield done, future.result()
                while waiting:
                    done, future = waiting.popleft()
                    yield done, future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _put(self, block: Block, result: BlockResult) -> None:
        known = self.known
        self.is_settled = False  # an interrupt may come at any instruction
        self._put_rules(block, result.rules)
        cuts = deque(result.cuts)
        for number in range(block.first, block.last):
            while cuts and cuts[0].tree_size <= (number + 1) * TILE_WIDTH:
                cut = cuts.popleft()
                known.states[cut.tree_size] = State(self._root(cut.rest), cut.link, known.kinds + cut.kinds)
            if number - block.first < len(result.roots):
                known.bundles += 1
                self._push(1, result.roots[number - block.first])
        known.kinds.update(result.kinds)
        known.key_entries += result.key_entries
        known.link = result.link
        self.is_settled = known.bundles == block.last  # the entries of an unfinished bundle are read again

    def _put_rules(self, block: Block, rules: EventRules) -> None:
        """The first version of each subject in the block follows the last one before it."""
        known = self.known
        for subject, (leaf_index, version) in rules.first_versions.items():
            require_next_version(f"entry {leaf_index}", subject, version, known.versions.get(subject, 0))
        known.versions.update(rules.last_versions)
        known.tenant = known.tenant or rules.tenant
        if rules.tenant not in {None, known.tenant}:
            first = block.first * TILE_WIDTH
            raise EventRefused(f"entry {first}, tenantid", expected=known.tenant, found=excerpt(str(rules.tenant)))
        if self._commands is not None:
            goes_on = rules.first_command is not None and rules.first_command == known.command
            self._commands.add(bytes(rules.runs[RECORD_BYTES if goes_on else 0 :]))
            known.command = rules.last_command

    def _root(self, rest: bytes | None) -> bytes:
        for hashes in self.known.levels[1:]:
            rest = fold_right(hashes, rest)
        return rest or EMPTY_ROOT

    def _push(self, level: int, value: bytes) -> None:
        known = self.known
        hashes = known.levels[level]
        hashes.append(value)
        if len(hashes) == TILE_WIDTH:
            compare(self._reader, Tile(level, (known.bundles >> (TILE_BITS * level)) - 1), hashes)
            known.levels[level] = []
            self._push(level + 1, perfect_root(hashes))


def _leave_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; the one that waits for the others ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
