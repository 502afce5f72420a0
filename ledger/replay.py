"""Computing a log again from its entry bundles, block by block, in one process or in several.

A block begins from the link that is published before it; the block before has compared that very link. So blocks do
not wait for each other, and what they found is put together in order: hashes of higher tiles, versions of subjects,
the states that months and checkpoints are compared with.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ledger.checkpoint import Checkpoint
from ledger.errors import EventRefused, LedgerError, LogDamaged, excerpt
from ledger.events import EventRules
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
from ledger.proofs import verify_inclusion
from ledger.reader import LogReader
from ledger.tiles import CHAIN, ENTRIES, LEVEL_MAX, TILE_BITS, TILE_WIDTH, Tile, join_hashes, tile_at

BLOCK_BUNDLES: Final = 64
BLOCKS_AHEAD: Final = 3

Progress = Callable[[int, int], None]
Kind = tuple[str, str]  # type of an event, month in which it says it was recorded


@dataclass(frozen=True, slots=True)
class State:
    """The log after some number of entries, as computed."""

    root: bytes = EMPTY_ROOT
    link: bytes = FIRST_LINK
    kinds: Counter[Kind] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Block:
    """A task: the bundles `[first, last)` of a log, and the tree sizes within at which the state is wanted."""

    checkpoint: Checkpoint
    first: int
    last: int
    cuts: tuple[int, ...]
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
            check = result.rules.check
            kinds = [check(first + at, entry) for at, entry in enumerate(entries)]
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

    def __init__(self, source: Source, checkpoint: Checkpoint, *, is_plain: bool) -> None:
        self._source = source
        self._checkpoint = checkpoint
        self._is_plain = is_plain
        self._reader = LogReader(source, checkpoint.tree_size)
        self._levels: list[list[bytes]] = [[] for _ in range(LEVEL_MAX + 1)]
        self._bundles = 0
        self._kinds: Counter[Kind] = Counter()
        self._cuts: set[int] = {checkpoint.tree_size}
        self._versions: dict[str, int] = {}
        self._tenant: str | None = None
        self.link = FIRST_LINK
        self.states: dict[int, State] = {0: State()}

    @property
    def subjects(self) -> int:
        return len(self._versions)

    def keep(self, sizes: Iterable[int]) -> None:
        """Remember the state at these tree sizes too, as far as the log goes."""
        self._cuts.update(sizes)

    def run(self, progress: Progress, jobs: int = 1) -> None:
        """Replay all blocks, in `jobs` processes; raises the `LedgerError` of the first that does not hold."""
        size = self._checkpoint.tree_size
        progress(0, size)
        for block, result in self._results(jobs):
            self._put(block, result)
            progress(min(block.last * TILE_WIDTH, size), size)
        for level, hashes in enumerate(self._levels[1:], 1):
            if hashes:
                number = (size >> (TILE_BITS * level)) // TILE_WIDTH
                compare(self._reader, tile_at(level, number, size), hashes)

    def _blocks(self) -> Iterator[Block]:
        bundles = -(-self._checkpoint.tree_size // TILE_WIDTH)
        for first in range(0, bundles, BLOCK_BUNDLES):
            last = min(first + BLOCK_BUNDLES, bundles)
            end = min(last * TILE_WIDTH, self._checkpoint.tree_size)
            cuts = tuple(sorted(size for size in self._cuts if first * TILE_WIDTH < size <= end))
            yield Block(self._checkpoint, first, last, cuts, self._is_plain)

    def _results(self, jobs: int) -> Iterator[tuple[Block, BlockResult]]:
        if jobs == 1:
            for block in self._blocks():
                yield block, replay_block(self._source, block)
            return
        # Imported here: most runs verify one receipt, and these take longer to load than that takes to check.
        from concurrent.futures import Future, ProcessPoolExecutor  # noqa: PLC0415
        from multiprocessing import get_context  # noqa: PLC0415

        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
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
        self._put_rules(block, result.rules)
        cuts = deque(result.cuts)
        for number in range(block.first, block.last):
            while cuts and cuts[0].tree_size <= (number + 1) * TILE_WIDTH:
                cut = cuts.popleft()
                self.states[cut.tree_size] = State(self._root(cut.rest), cut.link, self._kinds + cut.kinds)
            if number - block.first < len(result.roots):
                self._bundles += 1
                self._push(1, result.roots[number - block.first])
        self._kinds.update(result.kinds)
        self.link = result.link

    def _put_rules(self, block: Block, rules: EventRules) -> None:
        """The first version of each subject in the block follows the last one before it."""
        for subject, (leaf_index, version) in rules.first_versions.items():
            expected = self._versions.get(subject, 0) + 1
            if version != expected:
                raise EventRefused(
                    f"entry {leaf_index}, aggregateversion of {excerpt(subject)}",
                    expected=expected,
                    found=excerpt(str(version)),
                )
        self._versions.update(rules.last_versions)
        self._tenant = self._tenant or rules.tenant
        if rules.tenant not in {None, self._tenant}:
            first = block.first * TILE_WIDTH
            raise EventRefused(f"entry {first}, tenantid", expected=self._tenant, found=excerpt(str(rules.tenant)))

    def _root(self, rest: bytes | None) -> bytes:
        for hashes in self._levels[1:]:
            rest = fold_right(hashes, rest)
        return rest or EMPTY_ROOT

    def _push(self, level: int, value: bytes) -> None:
        hashes = self._levels[level]
        hashes.append(value)
        if len(hashes) == TILE_WIDTH:
            compare(self._reader, Tile(level, (self._bundles >> (TILE_BITS * level)) - 1), hashes)
            self._levels[level] = []
            self._push(level + 1, perfect_root(hashes))
