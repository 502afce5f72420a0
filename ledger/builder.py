"""Integrating entries into a log's files: entry bundles, hash tiles and chain, in that order.

An entry bundle is written, synced, read back and compared; what was read is hashed. A bit that flips between storing
and hashing stops the signer here instead of ruining the log for ever (LEDGER.md 0.3). Nothing written here is promised
to anybody before a checkpoint covers it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ledger.errors import HistoryForked, LogDamaged, Malformed
from ledger.files import Folder
from ledger.hashing import EMPTY_ROOT, FIRST_LINK, chain_links, fold_right, leaf_hash, leaf_hashes, perfect_root
from ledger.reader import LogReader
from ledger.tiles import (
    CHAIN,
    ENTRIES,
    ENTRY_BYTES_MAX,
    LEVEL_MAX,
    TILE_BITS,
    TILE_WIDTH,
    Tile,
    decode_bundle,
    encode_bundle,
    join_hashes,
    right_edge,
    split_hashes,
    tile_at,
)

BUNDLES_AT_ONCE: Final = 64

CountTypes = Callable[[Sequence[bytes]], Counter[str]]


@dataclass(frozen=True, slots=True)
class TreeHead:
    """Size, root and chain head at one moment, with the types of the entries counted since the count began."""

    tree_size: int
    root: bytes
    link: bytes
    counts: Counter[str]


@dataclass(slots=True)
class _Edge:
    """The right edge in memory: full bundles so far, entries of the unfinished one, unfinished levels from 1 up."""

    bundles: int = 0
    tail: list[bytes] = field(default_factory=list)
    levels: list[list[bytes]] = field(default_factory=lambda: [[] for _ in range(LEVEL_MAX + 1)])
    link: bytes = FIRST_LINK
    last_leaf: bytes = b""


class TreeBuilder:
    """Appends entries behind a verified right edge; memory is bounded by the batch, not by the log."""

    def __init__(self, folder: Folder, edge: _Edge, count_types: CountTypes) -> None:
        self._folder = folder
        self._edge = edge
        self._count_types = count_types
        self._partials: dict[tuple[int, int], int] = {}
        self._finished: list[Tile] = []
        self.counts: Counter[str] = Counter()

    @property
    def tree_size(self) -> int:
        return self._edge.bundles * TILE_WIDTH + len(self._edge.tail)

    @property
    def last_leaf(self) -> bytes:
        """Leaf hash of the last entry, empty when there is none."""
        return leaf_hash(self._edge.tail[-1]) if self._edge.tail else self._edge.last_leaf

    def append(self, entries: Sequence[bytes]) -> None:
        """Take entries; every full bundle among them is durable afterwards, its hashes are so after `flush`.

        The rest waits in memory for `flush`.
        """
        longest = max(map(len, entries), default=0)
        if longest > ENTRY_BYTES_MAX:
            raise Malformed(f"entry after {self.tree_size}", expected=f"at most {ENTRY_BYTES_MAX} bytes", found=longest)
        pending = [*self._edge.tail, *entries] if self._edge.tail else entries
        step = BUNDLES_AT_ONCE * TILE_WIDTH
        at = 0
        while len(pending) - at >= TILE_WIDTH:
            whole = min(step, (len(pending) - at) // TILE_WIDTH * TILE_WIDTH)
            self._integrate(pending[at : at + whole])
            at += whole
        self._edge.tail = list(pending[at:])

    def _integrate(self, entries: Sequence[bytes]) -> None:
        edge = self._edge
        bundles = []
        for start in range(0, len(entries), TILE_WIDTH):
            tile = Tile(ENTRIES, edge.bundles + start // TILE_WIDTH)
            data = encode_bundle(entries[start : start + TILE_WIDTH])
            if not self._folder.write_new(tile.path, data):
                self._require_same_leftover(tile, data)
                self._folder.write(tile.path, data)
            bundles.append((tile, data))
        self._folder.sync()  # with them the hashes of the bundles before, which no checkpoint covers yet
        for tile, data in bundles:
            stored = self._read_back(tile, data)
            self.counts.update(self._count_types(stored))
            leaves = leaf_hashes(stored)
            links = chain_links(edge.link, leaves)
            edge.link, edge.last_leaf = links[-1], leaves[-1]
            self._write_full(CHAIN, tile.number, links)
            self._write_full(0, tile.number, leaves)
            edge.bundles += 1
            self._push(1, perfect_root(leaves))
            self._finish(tile)

    def _push(self, level: int, value: bytes) -> None:
        hashes = self._edge.levels[level]
        hashes.append(value)
        if len(hashes) == TILE_WIDTH:
            number = (self._edge.bundles >> (TILE_BITS * level)) - 1
            self._write_full(level, number, hashes)
            self._edge.levels[level] = []
            self._push(level + 1, perfect_root(hashes))

    def _write_full(self, level: int, number: int, hashes: Sequence[bytes]) -> None:
        tile = Tile(level, number)
        self._folder.write(tile.path, join_hashes(hashes))
        self._finish(tile)

    def _finish(self, tile: Tile) -> None:
        """A tile is full; if it had partial ones, they are to go."""
        if self._partials.pop((tile.level, tile.number), None) is not None:
            self._finished.append(tile)

    def _read_back(self, tile: Tile, data: bytes) -> list[bytes]:
        stored = self._folder.read(tile.path)
        if stored != data:
            raise LogDamaged(
                f"{tile.path}, read back before signing",
                expected=f"the {len(data)} bytes written",
                found="nothing" if stored is None else f"{len(stored)} bytes that differ",
            )
        return decode_bundle(tile.path, stored, tile.width)

    def _require_same_leftover(self, tile: Tile, data: bytes) -> None:
        """A bundle that a crash left unsigned may be torn; whole and different, it says that history was changed."""
        leftover = self._folder.read(tile.path)
        if leftover is None or leftover == data:
            return
        try:
            decode_bundle(tile.path, leftover, tile.width)
        except LogDamaged:
            return
        raise HistoryForked(
            f"{tile.path}: it was written from the event stream before a crash, and the stream now gives other events "
            "for the same places; find out what the event store lost, then move the file away to go on"
        )

    def head(self) -> TreeHead:
        """The head of the tree as it stands in memory; writes nothing."""
        edge = self._edge
        leaves = leaf_hashes(edge.tail)
        return self._head(edge.tail, leaves, chain_links(edge.link, leaves))

    def flush(self) -> TreeHead:
        """Put the right edge on disk, durably, and return the head of the tree."""
        edge = self._edge
        stored = edge.tail
        if edge.tail:
            tile = Tile(ENTRIES, edge.bundles, len(edge.tail))
            data = encode_bundle(edge.tail)
            self._write_partial(tile, data)
            self._folder.sync()
            stored = self._read_back(tile, data)
        leaves = leaf_hashes(stored)
        links = chain_links(edge.link, leaves)
        for level, hashes in ((CHAIN, links), (0, leaves), *enumerate(edge.levels[1:], 1)):
            if hashes:
                number = edge.bundles >> (TILE_BITS * max(level, 0))
                self._write_partial(Tile(level, number, len(hashes)), join_hashes(hashes))
        self._folder.sync()
        return self._head(stored, leaves, links)

    def _head(self, stored: Sequence[bytes], leaves: list[bytes], links: list[bytes]) -> TreeHead:
        root: bytes | None = None
        for hashes in [leaves, *self._edge.levels[1:]]:
            root = fold_right(hashes, root)
        counts = self.counts + self._count_types(stored)
        return TreeHead(self.tree_size, root or EMPTY_ROOT, links[-1] if links else self._edge.link, counts)

    def _write_partial(self, tile: Tile, data: bytes) -> None:
        key = (tile.level, tile.number)
        if key not in self._partials:
            self._folder.remove_partials(tile.partials_folder)
        # The same width may stand there under a signed checkpoint already: it is never written twice.
        if self._partials.get(key) != tile.width:
            self._folder.write(tile.path, data)
            self._partials[key] = tile.width

    def remove_finished_partials(self, tree_size: int) -> None:
        """Remove partial tiles whose full tile is under the published checkpoint, which may be behind what is built."""
        covered = {
            tile for tile in self._finished if (tile.number + 1) << (TILE_BITS * (max(tile.level, 0) + 1)) <= tree_size
        }
        for tile in covered:
            self._folder.remove_partials(tile.partials_folder)
        self._finished = [tile for tile in self._finished if tile not in covered]

    def clear_leftovers(self) -> None:
        """Remove what a crash left: partials wider than the right edge, of tiles behind it and just before it."""
        for level in (ENTRIES, CHAIN, *range(LEVEL_MAX + 1)):
            number, width = divmod(self.tree_size >> (TILE_BITS * max(level, 0)), TILE_WIDTH)
            for partials in self._partials_after(Tile(level, number)):
                self._folder.remove_partials(partials)
            self._folder.remove_partials(Tile(level, number).partials_folder, wider_than=width)
            self._partials[level, number] = width
            while number and self._folder.names(Tile(level, number - 1).partials_folder):
                number -= 1
                self._folder.remove_partials(Tile(level, number).partials_folder)

    def _partials_after(self, tile: Tile) -> Iterator[str]:
        """Folders of partial tiles further right than this one."""
        folder, _, last = tile.partials_folder.rpartition("/")
        number = tile.number
        while names := self._folder.names(folder):
            yield from (f"{folder}/{name}" for name in names if name.endswith(".p") and name > last)
            number += 1_000 - number % 1_000
            folder, last = Tile(tile.level, number).path.rpartition("/")[0], ""


def load_builder(folder: Folder, tree_size: int, root: bytes, count_types: CountTypes) -> TreeBuilder:
    """Read the right edge of a log and verify it against its checkpoint; raises `LogDamaged`.

    What lies further left is under the same root, through the hashes of the edge; the audit re-reads it.
    """
    reader = LogReader(folder, tree_size)
    edge = _Edge(bundles=tree_size // TILE_WIDTH)
    for tile in right_edge(tree_size):
        if tile.level == ENTRIES:
            edge.tail = reader.bundle(tile.number)
        elif tile.level > 0:
            edge.levels[tile.level] = split_hashes(tile.path, reader.tile_bytes(tile), tile.width)
    leaves = leaf_hashes(edge.tail)
    found: bytes | None = None
    for hashes in [leaves, *edge.levels[1:]]:
        found = fold_right(hashes, found)
    if (found or EMPTY_ROOT) != root:
        raise LogDamaged(
            f"right edge of the tree of size {tree_size}",
            expected=f"root {root.hex()}",
            found=(found or EMPTY_ROOT).hex(),
        )
    if edge.bundles:
        last = tile_at(0, edge.bundles - 1, tree_size)
        edge.last_leaf = split_hashes(last.path, reader.tile_bytes(last), last.width)[-1]
        edge.link = reader.link(edge.bundles * TILE_WIDTH)
    if leaves:
        _require_edge(reader, Tile(0, edge.bundles, len(leaves)), leaves)
        _require_edge(reader, Tile(CHAIN, edge.bundles, len(leaves)), chain_links(edge.link, leaves))
    return TreeBuilder(folder, edge, count_types)


def _require_edge(reader: LogReader, tile: Tile, hashes: Sequence[bytes]) -> None:
    if reader.tile_bytes(tile) != join_hashes(hashes):
        raise LogDamaged(tile.path, expected="the hashes of the last entry bundle", found="others")
