"""Where a log's hashes and entries stand (C2SP tlog-tiles v0.1.0), and the entry bundles.

    tile/<L>/<N>[.p/<W>]         up to 256 hashes: hash i of tile N at level L is the root of 256^L leaves
    tile/entries/<N>[.p/<W>]     up to 256 entries, each u16 big-endian length || bytes
    chain/<N>[.p/<W>]            ours: link(256 N + 1), link(256 N + 2), ... of the chain, 32 bytes each

Level -1 stands for the entry bundles and -2 for the chain, so that one type names every file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from ledger.encoding import parse_decimal
from ledger.errors import LogDamaged, Malformed, excerpt
from ledger.hashing import HASH_BYTES

TILE_WIDTH: Final = 256
TILE_BITS: Final = 8
TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
ENTRY_BYTES_MAX: Final = 65_535
LEVEL_MAX: Final = 7
ENTRIES: Final = -1
CHAIN: Final = -2
CHECKPOINT: Final = "checkpoint"


class Tile(NamedTuple):
    """One file of the log: level, number and width (256 when full)."""

    level: int
    number: int
    width: int = TILE_WIDTH

    @property
    def folder(self) -> str:
        if self.level == CHAIN:
            return "chain"
        return "tile/entries" if self.level == ENTRIES else f"tile/{self.level}"

    @property
    def path(self) -> str:
        full = f"{self.folder}/{number_path(self.number)}"
        return full if self.width == TILE_WIDTH else f"{full}.p/{self.width}"

    @property
    def full(self) -> Tile:
        return self._replace(width=TILE_WIDTH)

    @property
    def partials_folder(self) -> str:
        return f"{self.folder}/{number_path(self.number)}.p"


def number_path(number: int) -> str:
    """Groups of three digits, all but the last marked by an x: `1234067` -> `x001/x234/067`."""
    path = f"{number % 1000:03d}"
    while number >= 1000:
        number //= 1000
        path = f"x{number % 1000:03d}/{path}"
    return path


def parse_tile(path: str) -> Tile:
    """The tile of a path; raises `Malformed` when another tile or none would have that path."""
    parts = path.split("/")
    width = TILE_WIDTH
    if len(parts) > 2 and parts[-2].endswith(".p"):
        width = parse_decimal(f"path {excerpt(path)}", parts.pop())
        parts[-1] = parts[-1].removesuffix(".p")
    folder, groups = (1, parts[1:]) if parts[0] == "chain" else (2, parts[2:])
    digits = "".join(group.removeprefix("x") for group in groups).lstrip("0") or "0"
    number = parse_decimal(f"path {excerpt(path)}", digits)
    if folder == 1:
        level = CHAIN
    elif len(parts) > 1 and parts[1] == "entries":
        level = ENTRIES
    else:
        level = parse_decimal(f"path {excerpt(path)}", parts[1] if len(parts) > 1 else "")
    tile = Tile(level, number, width)
    if not 0 < width <= TILE_WIDTH or level > 63 or tile.path != path:
        raise Malformed(f"path {excerpt(path)}", expected="the path of a tile, an entry bundle or a chain file")
    return tile


def tile_at(level: int, number: int, tree_size: int) -> Tile:
    """The tile of a number as it stands in a tree: full, or the partial one at the right edge."""
    hashes = tree_size >> (TILE_BITS * max(level, 0))
    width = min(hashes - number * TILE_WIDTH, TILE_WIDTH)
    if width <= 0:
        raise Malformed(f"tile {number} of level {level}", expected=f"one within tree size {tree_size}")
    return Tile(level, number, width)


def right_edge(tree_size: int) -> list[Tile]:
    """The partial tiles of a tree: entries, chain and hash levels, none that would be empty."""
    edge = []
    for level in (ENTRIES, CHAIN, *range(LEVEL_MAX + 1)):
        number, width = divmod(tree_size >> (TILE_BITS * max(level, 0)), TILE_WIDTH)
        if width:
            edge.append(Tile(level, number, width))
    return edge


def all_tiles(level: int, tree_size: int) -> Iterator[Tile]:
    """Every tile of one level of a tree, from left to right."""
    hashes = tree_size >> (TILE_BITS * max(level, 0))
    for number in range(-(-hashes // TILE_WIDTH)):
        yield Tile(level, number, min(hashes - number * TILE_WIDTH, TILE_WIDTH))


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """The bytes of an entry bundle; raises `Malformed` for an entry of more than 65,535 bytes."""
    parts: list[bytes] = []
    for entry in entries:
        length = len(entry)
        if length > ENTRY_BYTES_MAX:
            raise Malformed("entry", expected=f"at most {ENTRY_BYTES_MAX} bytes", found=length)
        parts += (length.to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode_bundle(what: str, data: bytes, width: int) -> list[bytes]:
    """The `width` entries of a bundle; raises `LogDamaged` when it holds fewer, more or a broken one."""
    entries: list[bytes] = []
    append = entries.append
    at, end = 0, len(data)
    try:
        for _ in range(width):
            start = at + 2
            at = start + (data[at] << 8 | data[at + 1])
            append(data[start:at])
    except IndexError:
        pass
    if at != end or len(entries) != width:
        problem = f"{at - end} bytes too few" if at > end else f"{end - at} bytes after {len(entries)} entries"
        raise LogDamaged(what, expected=f"{width} entries to the last byte", found=problem)
    return entries


def bundled_entry(what: str, data: bytes, at: int) -> bytes:
    """One entry of a bundle, which is read no further than that; raises `LogDamaged` when it ends before."""
    begin = 0
    try:
        for _ in range(at):
            begin += 2 + (data[begin] << 8 | data[begin + 1])
        end = begin + 2 + (data[begin] << 8 | data[begin + 1])
    except IndexError:
        end = len(data) + 1
    if end > len(data):
        raise LogDamaged(what, expected=f"{at + 1} entries", found=f"fewer in {len(data)} bytes")
    return data[begin + 2 : end]


def split_hashes(what: str, data: bytes, width: int) -> list[bytes]:
    """The hashes of a tile or chain file; raises `LogDamaged` unless there are `width` of them."""
    if len(data) != width * HASH_BYTES:
        raise LogDamaged(what, expected=f"{width * HASH_BYTES} bytes", found=len(data))
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def join_hashes(hashes: Sequence[bytes]) -> bytes:
    return b"".join(hashes)
