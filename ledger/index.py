"""The index of a month: for every subject, the leaf indexes of all its events, under one root in the certificate.

    index leaf    SHA-256(subject) || u64 leaf index || u64 leaf index ...      big endian, ascending, at least one
    index tree    RFC 6962 over the index leaves in ascending order of SHA-256(subject)

One leaf shows all events of a subject; two neighbouring leaves show that there are none. The index follows from the
entries, so it is not stored: whoever has the log computes it, and the audit compares its root (docs/adr).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Final

from ledger.errors import ProofFailed
from ledger.events import subject_of
from ledger.hashing import HASH_BYTES, leaf_hash, tree_root

EVENTS_AT_ONCE_MAX: Final = 4_000_000  # bounds memory: a larger month is read several times, a range of subjects each
_INDEX_BYTES: Final = 8

ReadEntries = Callable[[], Iterable[tuple[int, bytes]]]


@dataclass(frozen=True, slots=True)
class IndexHead:
    """Root of an index and the number of its subjects, as a certificate states them."""

    root: bytes
    subjects: int


def subject_key(subject: str) -> bytes:
    """What an index leaf begins with: neighbours in a proof of absence show no names."""
    return sha256(subject.encode()).digest()


def split_index_leaf(leaf: bytes) -> tuple[bytes, list[int]]:
    """Key and leaf indexes; raises `ProofFailed` unless they are whole, ascending and not empty."""
    tail = leaf[HASH_BYTES:]
    indexes = [int.from_bytes(tail[at : at + _INDEX_BYTES], "big") for at in range(0, len(tail), _INDEX_BYTES)]
    is_ascending = all(left < right for left, right in pairwise(indexes))
    if not tail or len(tail) % _INDEX_BYTES or not is_ascending:
        raise ProofFailed("index leaf", expected="a key and ascending leaf indexes", found=f"{len(leaf)} bytes")
    return leaf[:HASH_BYTES], indexes


def index_leaves(read: ReadEntries, events: int, *, events_at_once_max: int = EVENTS_AT_ONCE_MAX) -> Iterator[bytes]:
    """The index leaves of a month in their order; `read` is called once for each pass over the entries."""
    passes = max(1, -(-events // events_at_once_max))
    for number in range(passes):
        low, high = ((number + at) * 2**32 // passes for at in (0, 1))
        found: dict[str, array[int]] = {}
        for leaf_index, entry in read():
            subject = subject_of(entry)
            if passes == 1 or low <= int.from_bytes(subject_key(subject)[:4], "big") < high:
                indexes = found.get(subject)
                if indexes is None:
                    indexes = found[subject] = array("Q")
                indexes.append(leaf_index)
        for key, subject in sorted((subject_key(subject), subject) for subject in found):
            indexes = found[subject]
            if sys.byteorder == "little":
                indexes.byteswap()
            yield key + indexes.tobytes()


def index_head(read: ReadEntries, events: int) -> IndexHead:
    """Root and size of a month's index."""
    hashes = [leaf_hash(leaf) for leaf in index_leaves(read, events)]
    return IndexHead(tree_root(hashes), len(hashes))
