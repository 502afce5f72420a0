"""Inclusion and consistency proofs (RFC 6962 2.1.1-2, RFC 9162 2.1.3-4), without I/O.

Proving is plan, fetch, compute: list the perfect sub-trees that are needed, read them in one call, fold.
A proof does not pin the size of the tree: size and root must come from the same signed checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from ledger.errors import ProofFailed
from ledger.hashing import HASH_BYTES, node_hash

PROOF_HASHES_MAX: Final = 63


class Node(NamedTuple):
    """The perfect sub-tree over leaves `[number << level, (number + 1) << level)`."""

    level: int
    number: int


ReadNodes = Callable[[Sequence[Node]], Sequence[bytes]]
#: Roots over ranges of leaves `[start, end)` of one tree.
RangeRoots = Mapping[tuple[int, int], bytes]
_NONE_KNOWN: Final[RangeRoots] = {}


def split_point(tree_size: int) -> int:
    """The largest power of two smaller than `tree_size`, which is at least 2."""
    return 1 << ((tree_size - 1).bit_length() - 1)


def range_nodes(start: int, end: int) -> list[Node]:
    """The perfect sub-trees that make up `[start, end)`, from left to right."""
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def inclusion_ranges(leaf_index: int, tree_size: int) -> list[tuple[int, int]]:
    """The ranges whose roots prove a leaf, its sibling first."""
    ranges = []
    start, end = 0, tree_size
    while end - start > 1:
        middle = start + split_point(end - start)
        if leaf_index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old_size: int, new_size: int) -> list[tuple[int, int]]:
    """The ranges whose roots prove that the tree of `new_size` begins with the tree of `old_size`."""
    ranges = []
    start, end, is_old_root_known = 0, new_size, True
    while old_size != end:
        middle = start + split_point(end - start)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, is_old_root_known = middle, False
    if not is_old_root_known:
        ranges.append((start, end))
    return ranges[::-1]


def _roots(ranges: Sequence[tuple[int, int]], read: ReadNodes, known: RangeRoots = _NONE_KNOWN) -> list[bytes]:
    plan = [[] if each in known else range_nodes(*each) for each in ranges]
    hashes = iter(read([node for nodes in plan for node in nodes]))
    roots = []
    for each, nodes in zip(ranges, plan, strict=True):
        if each in known:
            roots.append(known[each])
            continue
        parts = [next(hashes) for _ in nodes]
        root = parts.pop()
        while parts:
            root = node_hash(parts.pop(), root)
        roots.append(root)
    return roots


def range_root(start: int, end: int, read: ReadNodes) -> bytes:
    """Root over a range that is a tree, or the right edge of one; `start < end`."""
    return _roots([(start, end)], read)[0]


def prove_inclusion(leaf_index: int, tree_size: int, read: ReadNodes, known: RangeRoots = _NONE_KNOWN) -> list[bytes]:
    """The proof that a leaf is in the tree; raises `ProofFailed` when it cannot be. What is known is not read."""
    if not 0 <= leaf_index < tree_size:
        raise ProofFailed("inclusion proof", expected=f"a leaf index below {tree_size}", found=leaf_index)
    return _roots(inclusion_ranges(leaf_index, tree_size), read, known)


def prove_consistency(old_size: int, new_size: int, read: ReadNodes) -> list[bytes]:
    """The proof that one tree extends another; empty from size 0 and between equal sizes."""
    if not 0 <= old_size <= new_size:
        raise ProofFailed("consistency proof", expected=f"an old size of at most {new_size}", found=old_size)
    return _roots(consistency_ranges(old_size, new_size), read) if old_size else []


def verify_inclusion(leaf_index: int, tree_size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """RFC 9162 2.1.3.2; raises `ProofFailed`. `tree_size` and `root` must stem from one signed checkpoint."""
    what = f"inclusion of leaf {leaf_index} in the tree of size {tree_size}"
    if not 0 <= leaf_index < tree_size:
        raise ProofFailed(what, expected=f"a leaf index from 0 to {tree_size - 1}", found=leaf_index)
    _require_hashes(what, [leaf, root, *proof])
    first, last, computed = leaf_index, tree_size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofFailed(what, expected="a shorter proof", found=f"{len(proof)} hashes")
        if first & 1 or first == last:
            computed = node_hash(sibling, computed)
            while not (first & 1 or first == 0):
                first >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        first >>= 1
        last >>= 1
    if last != 0:
        raise ProofFailed(what, expected="a longer proof", found=f"{len(proof)} hashes")
    _require_root(what, root, computed)


def verify_consistency(  # noqa: C901 (kept in the shape of RFC 9162, to be read beside it)
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """RFC 9162 2.1.4.2; raises `ProofFailed`, also for an old size of 0, which proves nothing."""
    what = f"consistency of the tree of size {old_size} with the tree of size {new_size}"
    if not 0 < old_size <= new_size:
        raise ProofFailed(what, expected=f"an old size from 1 to {new_size}", found=old_size)
    _require_hashes(what, [old_root, new_root, *proof])
    if old_size == new_size:
        if proof:
            raise ProofFailed(what, expected="an empty proof", found=f"{len(proof)} hashes")
        _require_root(what, old_root, new_root)
        return
    if not proof:
        raise ProofFailed(what, expected="a proof", found="none")
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    first, last = old_size - 1, new_size - 1
    while first & 1:
        first >>= 1
        last >>= 1
    old_computed = new_computed = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofFailed(what, expected="a shorter proof", found=f"{len(proof)} hashes")
        if first & 1 or first == last:
            old_computed = node_hash(sibling, old_computed)
            new_computed = node_hash(sibling, new_computed)
            while not (first & 1 or first == 0):
                first >>= 1
                last >>= 1
        else:
            new_computed = node_hash(new_computed, sibling)
        first >>= 1
        last >>= 1
    if last != 0:
        raise ProofFailed(what, expected="a longer proof", found=f"{len(proof)} hashes")
    _require_root(what + ", old root", old_root, old_computed)
    _require_root(what + ", new root", new_root, new_computed)


def verify_subtree_inclusion(
    leaf_index: int, start: int, end: int, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> None:
    """Inclusion in the sub-tree `[start, end)` of a larger tree (tlog-cosignature 1.1)."""
    _require_subtree(start, end)
    verify_inclusion(leaf_index - start, end - start, leaf, proof, root)


def verify_subtree_consistency(  # noqa: C901 (kept in the shape of the draft)
    start: int, end: int, tree_size: int, subtree_root: bytes, root: bytes, proof: Sequence[bytes]
) -> None:
    """That the sub-tree `[start, end)` is a part of the tree; raises `ProofFailed`."""
    what = f"consistency of the sub-tree [{start}, {end}) with the tree of size {tree_size}"
    _require_subtree(start, end)
    if end > tree_size:
        raise ProofFailed(what, expected=f"an end of at most {tree_size}", found=end)
    _require_hashes(what, [subtree_root, root, *proof])
    first, last, tree_last = start, end - 1, tree_size - 1
    while first != last and (last == tree_last or last & 1):
        first, last, tree_last = first >> 1, last >> 1, tree_last >> 1
    path = list(proof)
    if first == last:
        path.insert(0, subtree_root)
    if not path:
        raise ProofFailed(what, expected="a proof", found="none")
    computed = tree_computed = path[0]
    for sibling in path[1:]:
        if tree_last == 0:
            raise ProofFailed(what, expected="a shorter proof", found=f"{len(proof)} hashes")
        if last & 1 or last == tree_last:
            if first < last:
                computed = node_hash(sibling, computed)
            tree_computed = node_hash(sibling, tree_computed)
            while not last & 1 and tree_last:
                first, last, tree_last = first >> 1, last >> 1, tree_last >> 1
        else:
            tree_computed = node_hash(tree_computed, sibling)
        first, last, tree_last = first >> 1, last >> 1, tree_last >> 1
    if tree_last != 0:
        raise ProofFailed(what, expected="a longer proof", found=f"{len(proof)} hashes")
    _require_root(what + ", root of the sub-tree", subtree_root, computed)
    _require_root(what + ", root of the tree", root, tree_computed)


def _require_subtree(start: int, end: int) -> None:
    if not 0 <= start < end or start & ((1 << (end - start - 1).bit_length()) - 1):
        raise ProofFailed(
            f"sub-tree [{start}, {end})", expected="a start that is a multiple of its size rounded up to a power of two"
        )


def _require_hashes(what: str, hashes: Sequence[bytes]) -> None:
    for value in hashes:
        if len(value) != HASH_BYTES:
            raise ProofFailed(what, expected=f"hashes of {HASH_BYTES} bytes", found=f"one of {len(value)}")


def _require_root(what: str, expected: bytes, found: bytes) -> None:
    if expected != found:
        raise ProofFailed(what, expected=f"root {expected.hex()}", found=found.hex())
