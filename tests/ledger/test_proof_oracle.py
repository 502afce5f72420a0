"""Proofs, roots and links against a slow, obvious reference, for sizes and contents that nobody chose."""

from functools import cache
from hashlib import sha256
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import memory_nodes, slow_chain, slow_consistency, slow_path, slow_root, slow_split

from ledger.errors import ProofFailed
from ledger.hashing import chain_links, leaf_hash, leaf_hashes, node_hash, tree_root
from ledger.proofs import (
    consistency_ranges,
    inclusion_ranges,
    prove_consistency,
    prove_inclusion,
    range_nodes,
    range_root,
    verify_consistency,
    verify_inclusion,
)

ENTRIES = [f"entry {number}".encode() for number in range(1_100)]
LEAVES = leaf_hashes(ENTRIES)
READ = memory_nodes(LEAVES)
SIZES = st.integers(1, len(ENTRIES))


@cache
def reference_root(start, end):
    """The reference over `[start, end)`, each range computed once: every size is asked for."""
    if end - start == 1:
        return slow_root(ENTRIES[start:end])
    middle = start + slow_split(end - start)
    return sha256(b"\x01" + reference_root(start, middle) + reference_root(middle, end)).digest()


def reference_path(index, start, end, root=reference_root):
    if end - start == 1:
        return []
    middle = start + slow_split(end - start)
    if index < middle:
        return [*reference_path(index, start, middle, root), root(middle, end)]
    return [*reference_path(index, middle, end, root), root(start, middle)]


def reference_consistency(old, start, end, root=reference_root, *, is_known=True):
    """The proof that the tree over `[start, end)` begins with the tree over `[start, old)`."""
    if old == end:
        return [] if is_known else [root(start, end)]
    middle = start + slow_split(end - start)
    if old <= middle:
        return [*reference_consistency(old, start, middle, root, is_known=is_known), root(middle, end)]
    return [*reference_consistency(old, middle, end, root, is_known=False), root(start, middle)]


def test_the_reference_that_remembers_is_the_one_that_does_not():
    for size in (1, 2, 3, 7, 8, 100, 255, 256, 257):
        assert reference_root(0, size) == slow_root(ENTRIES[:size])
        assert reference_path(size // 3, 0, size) == slow_path(size // 3, ENTRIES[:size])
        assert reference_consistency(size - size // 3, 0, size) == slow_consistency(size - size // 3, ENTRIES[:size])


def test_roots_and_proofs_of_every_size_up_to_1100_are_those_of_the_reference():
    dice, node = Random(1_100), cache(lambda each: READ([each])[0])
    read = lambda nodes: [node(each) for each in nodes]  # noqa: E731
    assert tree_root([]) == slow_root([])
    for size in range(1, len(ENTRIES) + 1):
        root = reference_root(0, size)
        assert tree_root(LEAVES[:size]) == range_root(0, size, read) == root
        for index in {0, size // 2, size - 1, dice.randrange(size)}:
            proof = prove_inclusion(index, size, read)
            assert proof == reference_path(index, 0, size)
            verify_inclusion(index, size, LEAVES[index], proof, root)
        for old in {1, size, max(size - 1, 1), 1 << (size.bit_length() - 1), dice.randint(1, size)}:
            proof = prove_consistency(old, size, read)
            assert proof == reference_consistency(old, 0, size)
            verify_consistency(old, size, reference_root(0, old), root, proof)


@pytest.mark.parametrize("size", [1, 2, 3, 64, 100, 255, 256, 257])
def test_an_inclusion_proof_takes_what_a_consistency_proof_holds_and_reads_the_rest(size):
    for old in range(1, size + 1):
        ranges = consistency_ranges(old, size)
        known = dict(zip(ranges, prove_consistency(old, size, READ), strict=True))
        for index in {0, old - 1, old % size, size - 1}:
            rest = [each for each in inclusion_ranges(index, size) if each not in known]
            nodes = [node for each in rest for node in range_nodes(*each)]
            asked = []

            proof = prove_inclusion(index, size, lambda all_, asked=asked: asked.extend(all_) or READ(all_), known)

            assert proof == reference_path(index, 0, size)
            assert asked == nodes


def test_the_way_to_the_root_that_two_proofs_share_is_not_read_again():
    known = consistency_ranges(900, 1000)

    shared = [each for each in inclusion_ranges(950, 1000) if each in known]

    assert shared == [(960, 1000), (768, 896), (512, 768), (0, 512)]


@cache
def uniform_root(size, leaf):
    """Root over so many equal leaves: the reference for trees that no memory holds."""
    if size == 1:
        return leaf
    left = slow_split(size)
    return sha256(b"\x01" + uniform_root(left, leaf) + uniform_root(size - left, leaf)).digest()


def cut_root(cut):
    """Roots over ranges of a tree whose leaves before `cut` are of one kind, and those from it on of another."""
    one, other = LEAVES[:2]

    def root(start, end):
        if end <= cut or start >= cut:
            return uniform_root(end - start, one if end <= cut else other)
        middle = start + slow_split(end - start)
        return sha256(b"\x01" + root(start, middle) + root(middle, end)).digest()

    return root


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 2**62), st.data())
def test_proofs_in_trees_of_any_size_are_those_of_the_reference(size, data):
    cut, index, old = (data.draw(st.integers(low, high)) for low, high in ((0, size), (0, size - 1), (1, size)))
    root = cut_root(cut)
    read = lambda nodes: [root(n.number << n.level, (n.number + 1) << n.level) for n in nodes]  # noqa: E731

    inclusion, consistency = prove_inclusion(index, size, read), prove_consistency(old, size, read)

    assert inclusion == reference_path(index, 0, size, root)
    assert consistency == reference_consistency(old, 0, size, root)
    verify_inclusion(index, size, LEAVES[0 if index < cut else 1], inclusion, root(0, size))
    verify_consistency(old, size, root(0, old), root(0, size), consistency)
    with pytest.raises(ProofFailed):
        verify_inclusion(index, size, LEAVES[1 if index < cut else 0], inclusion, root(0, size))


@settings(max_examples=120, deadline=None)
@given(SIZES, st.data())
def test_an_inclusion_proof_is_that_of_the_reference_and_verifies(size, data):
    index = data.draw(st.integers(0, size - 1))
    proof = prove_inclusion(index, size, READ)

    assert proof == slow_path(index, ENTRIES[:size])
    verify_inclusion(index, size, LEAVES[index], proof, slow_root(ENTRIES[:size]))


@settings(max_examples=120, deadline=None)
@given(SIZES, st.data())
def test_a_consistency_proof_is_that_of_the_reference_and_verifies(new, data):
    old = data.draw(st.integers(1, new))
    proof = prove_consistency(old, new, READ)

    assert proof == slow_consistency(old, ENTRIES[:new])
    verify_consistency(old, new, slow_root(ENTRIES[:old]), slow_root(ENTRIES[:new]), proof)


@settings(max_examples=150, deadline=None)
@given(SIZES, st.data())
def test_an_altered_inclusion_proof_is_refused(size, data):
    index = data.draw(st.integers(0, size - 1))
    proof = prove_inclusion(index, size, READ)
    root = range_root(0, size, READ)
    change = data.draw(st.sampled_from(["bit", "longer", "shorter", "swapped", "index", "leaf", "31 bytes", "root"]))
    altered, at, leaf = list(proof), index, LEAVES[index]
    match change:
        case "bit" if proof:
            where = data.draw(st.integers(0, len(proof) - 1))
            altered[where] = bytes([altered[where][0] ^ 1]) + altered[where][1:]
        case "shorter" if proof:
            altered.pop(data.draw(st.integers(0, len(proof) - 1)))
        case "swapped" if len(proof) > 1:
            altered[0], altered[1] = altered[1], altered[0]
        case "index" if size > 1:
            at = data.draw(st.integers(0, size - 1).filter(lambda other: other != index))
        case "leaf":
            leaf = leaf_hash(b"another")
        case "31 bytes" if proof:
            altered[0] = altered[0][:31]
        case "root":
            root = leaf_hash(root)
        case _:
            altered.append(root)

    with pytest.raises(ProofFailed):
        verify_inclusion(at, size, leaf, altered, root)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 2**40))
def test_a_range_is_split_into_aligned_perfect_subtrees_without_a_gap(start, length):
    at = start
    for node in range_nodes(start, start + length):
        assert node.number << node.level == at
        at += 1 << node.level
    assert at == start + length


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0), (2**63, 5)])
def test_a_leaf_outside_the_tree_is_neither_proved_nor_verified(index, size):
    with pytest.raises(ProofFailed):
        prove_inclusion(index, size, READ)
    with pytest.raises(ProofFailed):
        verify_inclusion(index, size, LEAVES[0], [], LEAVES[0])


@pytest.mark.parametrize(("old", "new"), [(0, 5), (6, 5), (-1, 5), (0, 0)])
def test_consistency_from_nothing_or_backwards_is_not_verified(old, new):
    with pytest.raises(ProofFailed):
        verify_consistency(old, new, LEAVES[0], LEAVES[0], [])


def test_equal_sizes_need_equal_roots_and_no_proof():
    root = slow_root(ENTRIES[:5])

    verify_consistency(5, 5, root, root, [])
    with pytest.raises(ProofFailed):
        verify_consistency(5, 5, root, LEAVES[0], [])
    with pytest.raises(ProofFailed, match="empty proof"):
        verify_consistency(5, 5, root, root, [root])


def test_swapped_roots_are_refused():
    proof = prove_consistency(6, 8, READ)

    with pytest.raises(ProofFailed):
        verify_consistency(6, 8, slow_root(ENTRIES[:8]), slow_root(ENTRIES[:6]), proof)


def test_a_consistency_proof_does_not_pin_the_size_either():
    proof = prove_consistency(1, 3, READ)

    verify_consistency(1, 4, slow_root(ENTRIES[:1]), slow_root(ENTRIES[:3]), proof)
    assert len(proof) == 2
    with pytest.raises(ProofFailed, match="tree of size 4, new root"):  # size and root come from one checkpoint
        verify_consistency(1, 4, slow_root(ENTRIES[:1]), slow_root(ENTRIES[:4]), proof)


@pytest.mark.parametrize("prefix", [b"", b"\x01"])
def test_an_inner_node_cannot_be_passed_off_as_an_entry(prefix):
    left, right = LEAVES[0], LEAVES[1]
    forged = prefix + left + right

    assert leaf_hash(forged) != node_hash(left, right)
    with pytest.raises(ProofFailed):
        verify_inclusion(0, 2, leaf_hash(forged), [tree_root(LEAVES[2:4])], tree_root(LEAVES[:4]))


def test_a_leaf_hashed_without_its_prefix_is_refused():
    with pytest.raises(ProofFailed):
        verify_inclusion(0, 2, sha256(ENTRIES[0]).digest(), [LEAVES[1]], tree_root(LEAVES[:2]))


def test_an_odd_node_is_not_doubled():
    assert tree_root(LEAVES[:3]) != tree_root([*LEAVES[:3], LEAVES[2]])


def test_the_chain_is_that_of_the_reference():
    assert chain_links(bytes(32), LEAVES[:300])[-1] == slow_chain(ENTRIES[:300])
