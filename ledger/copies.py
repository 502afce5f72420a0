"""Comparing a copy of the entries with a log: an event store, an analyst's table, whatever says that it has them all.

The copy is compared with the log's leaf hashes, and its own root with the signed one: what is relied on is the
checkpoint, not the tiles.
"""

from __future__ import annotations

from typing import Final

from ledger.errors import CopyDiffers, LedgerError
from ledger.events import describe
from ledger.hashing import EMPTY_ROOT, leaf_hash, node_hash
from ledger.policy import OpenedCheckpoint
from ledger.reader import LogReader
from ledger.receipt import Claim
from ledger.tiles import TILE_WIDTH, split_hashes, tile_at

NAMED_MAX: Final = 5


class CopyComparison:
    """Takes the entries of a copy in ascending order of leaf index; gaps, repeats and changes are collected."""

    def __init__(self, name: str, reader: LogReader, opened: OpenedCheckpoint) -> None:
        self._name = name
        self._reader = reader
        self._checkpoint = opened.checkpoint
        self._next = 0
        self._beyond = 0
        self._differences = 0
        self._named: list[str] = []
        self._tile: list[bytes] = []
        self._tile_number = -1
        self._peaks: list[bytes] = []  # roots of the perfect trees so far, as the binary digits of their number

    def take(self, leaf_index: int, entry: bytes) -> None:
        """One entry of the copy."""
        if leaf_index >= self._checkpoint.tree_size:
            self._beyond += 1
            return
        if leaf_index < self._next:
            self._note(f"entry {leaf_index} is there twice")
            return
        self._missing(leaf_index)
        found, expected = leaf_hash(entry), self._expected(leaf_index)
        if found != expected:
            logged = self._describe(leaf_index)
            self._note(
                f"entry {leaf_index} ({logged}): expected leaf hash {expected.hex()} as signed, "
                f"found {found.hex()} ({describe(entry)})"
            )
        self._push(leaf_index, found)
        self._next = leaf_index + 1

    def finish(self, end: int | None = None) -> Claim:
        """What holds; raises `CopyDiffers` when anything is missing, extra or changed.

        `end`: how many entries the copy claims to have, when it may be behind; all by default.
        """
        size = self._checkpoint.tree_size
        claimed = size if end is None else min(end, size)
        self._missing(claimed)
        if self._differences:
            more = self._differences - len(self._named)
            others = f"; and {more} more" if more else ""
            noun = "difference" if self._differences == 1 else "differences"
            raise CopyDiffers(f"{self._name}: {self._differences} {noun}: {'; '.join(self._named)}{others}")
        if claimed == size and self._root() != self._checkpoint.root:
            raise CopyDiffers(
                f"{self._name}, root of size {size}: the log's tiles changed meanwhile",
                expected=self._checkpoint.root.hex(),
                found=self._root().hex(),
            )
        behind = f", {size - claimed} not there yet" if claimed < size else ""
        beyond = f", {self._beyond} more are not yet under the checkpoint" if self._beyond else ""
        return Claim("copy", f"{self._name}: {claimed} entries equal the log's, byte for byte{behind}{beyond}")

    def _missing(self, end: int) -> None:
        """What lies between the last entry taken and `end` is not in the copy."""
        for leaf_index in range(self._next, end):
            self._note(f"entry {leaf_index} ({self._describe(leaf_index)}) is missing")
        self._next = max(self._next, end)

    def _note(self, difference: str) -> None:
        self._differences += 1
        if len(self._named) < NAMED_MAX:
            self._named.append(difference)

    def _describe(self, leaf_index: int) -> str:
        if len(self._named) >= NAMED_MAX:
            return ""
        try:
            return describe(self._reader.entry(leaf_index))
        except LedgerError as err:
            return str(err)

    def _expected(self, leaf_index: int) -> bytes:
        number, at = divmod(leaf_index, TILE_WIDTH)
        if number != self._tile_number:
            tile = tile_at(0, number, self._checkpoint.tree_size)
            self._tile = split_hashes(tile.path, self._reader.tile_bytes(tile), tile.width)
            self._tile_number = number
        return self._tile[at]

    def _push(self, leaf_index: int, value: bytes) -> None:
        while leaf_index & 1:
            value = node_hash(self._peaks.pop(), value)
            leaf_index >>= 1
        self._peaks.append(value)

    def _root(self) -> bytes:
        peaks = list(self._peaks)
        root = peaks.pop() if peaks else EMPTY_ROOT
        while peaks:
            root = node_hash(peaks.pop(), root)
        return root
