"""Reading a published log: tiles with fallback from partial to full, nodes for proofs, entries."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

from ledger.errors import LogDamaged, NotYetSigned, ObjectMissing
from ledger.files import Source, read_all
from ledger.hashing import EMPTY_ROOT, FIRST_LINK, HASH_BYTES, packed_root
from ledger.proofs import Node, RangeRoots, prove_consistency, prove_inclusion, range_root
from ledger.tiles import (
    CHAIN,
    ENTRIES,
    LEVEL_MAX,
    TILE_BITS,
    TILE_BYTES,
    TILE_WIDTH,
    Tile,
    bundled_entry,
    decode_bundle,
    tile_at,
)

_TILES_KEPT_MAX = 64


class LogReader:
    """The log at one tree size. What it returns is not verified: comparing proofs and roots is the caller's part.

    `bundles` are such as were read before.
    """

    def __init__(self, source: Source, tree_size: int, bundles: Mapping[Tile, bytes | None] | None = None) -> None:
        self.source = source
        self.tree_size = tree_size
        self._tiles: dict[Tile, bytes] = {}
        self._bundles = dict(bundles or {})

    def tile_bytes(self, tile: Tile) -> bytes:
        """The bytes of a hash tile or chain file; a missing partial is cut from the full one (tlog-tiles)."""
        return self._tile_bytes(tile, self.source.read(tile.path))

    def _tile_bytes(self, tile: Tile, data: bytes | None) -> bytes:
        if data is not None:
            expected = tile.width * HASH_BYTES
            if len(data) != expected:
                raise LogDamaged(tile.path, expected=f"{expected} bytes", found=len(data))
            return data
        full = self.source.read(tile.full.path) if tile.width < TILE_WIDTH else None
        if full is None:
            raise ObjectMissing(tile.path, expected=f"the file, as tree size {self.tree_size} needs it", found="none")
        if len(full) != TILE_BYTES:
            raise LogDamaged(tile.full.path, expected=f"{TILE_BYTES} bytes", found=len(full))
        return full[: tile.width * HASH_BYTES]

    def bundle(self, number: int) -> list[bytes]:
        """The entries of one bundle as far as the tree goes."""
        tile, data = self._bundle(number)
        return decode_bundle(tile.path, data, tile.width)[: tile_at(ENTRIES, number, self.tree_size).width]

    def _bundle(self, number: int) -> tuple[Tile, bytes]:
        """A bundle's bytes, those of the full one where the partial one is missing, and which of the two it is."""
        tile = tile_at(ENTRIES, number, self.tree_size)
        data = self._bundles[tile] if tile in self._bundles else self.source.read(tile.path)
        if data is not None:
            return tile, data
        full = self.source.read(tile.full.path) if tile.width < TILE_WIDTH else None
        if full is None:
            raise ObjectMissing(tile.path, expected=f"the file, as tree size {self.tree_size} needs it", found="none")
        return tile.full, full

    def entry(self, leaf_index: int) -> bytes:
        """One entry; raises `NotYetSigned` beyond the tree."""
        if not 0 <= leaf_index < self.tree_size:
            raise NotYetSigned(f"entry {leaf_index}", expected=f"a leaf index below the signed size {self.tree_size}")
        number, at = divmod(leaf_index, TILE_WIDTH)
        tile, data = self._bundle(number)
        return bundled_entry(tile.path, data, at)

    def entries(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Leaf index and bytes of the entries of `[start, end)`."""
        for number in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
            first = number * TILE_WIDTH
            bundle = self.bundle(number)
            yield from (
                (first + at, entry) for at, entry in enumerate(bundle) if start <= first + at < min(end, self.tree_size)
            )

    def nodes(self, nodes: Sequence[Node], *, bundles: Sequence[Tile] = ()) -> list[bytes]:
        """The hashes of perfect sub-trees; bundles that are decoded next are read together with the tiles."""
        places = [self._place(node) for node in nodes]
        self._load(dict.fromkeys(tile for tile, _ in places), bundles)
        return [
            packed_root(self._tiles[tile][at * HASH_BYTES : (at + (1 << node.level % TILE_BITS)) * HASH_BYTES])
            for node, (tile, at) in zip(nodes, places, strict=True)
        ]

    def _place(self, node: Node) -> tuple[Tile, int]:
        """The tile that has a node's leftmost descendant of its level, and where."""
        level, rest = divmod(node.level, TILE_BITS)
        if level > LEVEL_MAX:
            raise LogDamaged(f"node {node.number} of level {node.level}", expected="one within 2^64 leaves")
        number, at = divmod(node.number << rest, TILE_WIDTH)
        return tile_at(level, number, self.tree_size), at

    def _load(self, tiles: Collection[Tile], bundles: Sequence[Tile]) -> None:
        if len(self._tiles) + len(tiles) > _TILES_KEPT_MAX:
            self._tiles.clear()
        missing = [tile for tile in tiles if tile not in self._tiles]
        found = iter(read_all(self.source, [tile.path for tile in (*missing, *bundles)]))
        self._tiles.update((tile, self._tile_bytes(tile, next(found))) for tile in missing)
        if bundles:
            self._bundles = dict(zip(bundles, found, strict=True))

    def root(self, tree_size: int | None = None) -> bytes:
        """Root over the first leaves, from the hash tiles."""
        size = self.tree_size if tree_size is None else tree_size
        return range_root(0, size, self.nodes) if size else EMPTY_ROOT

    def link(self, tree_size: int) -> bytes:
        """The chain's link after `tree_size` entries, as published."""
        if tree_size == 0:
            return FIRST_LINK
        number, at = divmod(tree_size - 1, TILE_WIDTH)
        data = self.tile_bytes(tile_at(CHAIN, number, self.tree_size))
        return data[at * HASH_BYTES : (at + 1) * HASH_BYTES]

    def proved_entry(self, leaf_index: int, tree_size: int, known: RangeRoots) -> tuple[bytes, list[bytes]]:
        """One entry with its inclusion proof in the tree of a size, their files looked for together."""
        bundle = tile_at(ENTRIES, leaf_index // TILE_WIDTH, self.tree_size)
        missing = [] if bundle in self._bundles else [bundle]
        proof = prove_inclusion(leaf_index, tree_size, partial(self.nodes, bundles=missing), known)
        return self.entry(leaf_index), proof

    def inclusion_proof(self, leaf_index: int, tree_size: int | None = None) -> list[bytes]:
        size = self.tree_size if tree_size is None else tree_size
        return prove_inclusion(leaf_index, size, self.nodes)

    def consistency_proof(self, old_size: int, new_size: int | None = None) -> list[bytes]:
        size = self.tree_size if new_size is None else new_size
        return prove_consistency(old_size, size, self.nodes)
