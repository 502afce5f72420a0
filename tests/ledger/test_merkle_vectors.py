"""Published vectors of RFC 6962 trees: what they accept is accepted, every attack among them is refused."""

import base64

import pytest
from log_samples import memory_nodes, vectors

from ledger.errors import ProofFailed
from ledger.hashing import EMPTY_ROOT, leaf_hash, leaf_hashes, node_hash, tree_root
from ledger.proofs import (
    prove_consistency,
    prove_inclusion,
    verify_consistency,
    verify_inclusion,
    verify_subtree_consistency,
    verify_subtree_inclusion,
)

EIGHT = vectors("rfc6962_8leaf")
LEAVES = [bytes.fromhex(leaf) for leaf in EIGHT["leaves"]]
ROOTS = [bytes.fromhex(root) for root in EIGHT["roots"]]
PROBES = vectors("merkle_probes")

# transparency-dev/merkle takes these; we do not. Roots that are no hashes, and sub-trees over nothing.
WE_REFUSE_MORE = {
    ("consistency", "additional/sizes-are-equal-one-and-proof-is-empty.json"),
    ("subtreeconsistency", "additional/sizes-are-equal-one-and-proof-is-empty.json"),
    *(
        ("subtreeconsistency", f"additional/subtree-is-empty-{case}-proof-is-empty.json")
        for case in (
            "sizes-are-equal-one-subtree-root-valid",
            "sizes-are-equal-one-subtree-root-valid-tree-root-random",
            "sizes-are-equal-zero-subtree-root-valid",
            "sizes-are-equal-zero-subtree-root-valid-tree-root-random",
            "subtree-root-valid",
            "subtree-root-valid-tree-root-random",
        )
    ),
}


def data(text):
    return base64.b64decode(text or "")


def check(kind, case):
    proof = [data(text) for text in case["proof"] or []]
    match kind:
        case "inclusion":
            verify_inclusion(case["leafIdx"], case["treeSize"], data(case["leafHash"]), proof, data(case["root"]))
        case "consistency":
            verify_consistency(case["size1"], case["size2"], data(case["root1"]), data(case["root2"]), proof)
        case "subtreeinclusion":
            verify_subtree_inclusion(
                case["leafIdx"], case["start"], case["end"], data(case["leafHash"]), proof, data(case["root"])
            )
        case "subtreeconsistency":
            verify_subtree_consistency(
                case["start"], case["end"], case["size"], data(case["root1"]), data(case["root2"]), proof
            )


def probes(*, want_error):
    return [
        pytest.param(kind, case, id=f"{kind}/{name}")
        for kind in ("inclusion", "consistency", "subtreeinclusion", "subtreeconsistency")
        for name, case in PROBES[kind].items()
        if (case["wantErr"] or (kind, name) in WE_REFUSE_MORE) == want_error
    ]


def test_the_probes_are_all_there():
    assert {kind: len(PROBES[kind]) for kind in PROBES if kind != "source"} == {
        "inclusion": 98,
        "consistency": 98,
        "subtreeinclusion": 204,
        "subtreeconsistency": 118,
    }
    assert len(probes(want_error=False)) == 6 + 6 + 12 + 12 - len(WE_REFUSE_MORE)


@pytest.mark.parametrize(("kind", "case"), probes(want_error=False))
def test_a_good_probe_is_accepted(kind, case):
    assert check(kind, case) is None


@pytest.mark.parametrize(("kind", "case"), probes(want_error=True))
def test_an_attack_is_refused(kind, case):
    with pytest.raises(ProofFailed):
        check(kind, case)


def test_leaf_hashes_and_roots_of_the_eight_leaves_are_the_published_ones():
    assert [leaf.hex() for leaf in leaf_hashes(LEAVES)] == EIGHT["leaf_hashes"]
    assert [tree_root(leaf_hashes(LEAVES[:size])) for size in range(9)] == ROOTS
    assert ROOTS[0] == EMPTY_ROOT


def test_the_hasher_gives_the_published_digests():
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert node_hash(b"N123", b"N456").hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"


@pytest.mark.parametrize("case", EIGHT["inclusion"])
def test_an_inclusion_proof_of_the_eight_leaves_is_the_published_one(case):
    index, size = map(int, case.split(","))
    leaves = leaf_hashes(LEAVES[:size])

    proof = prove_inclusion(index, size, memory_nodes(leaves))

    assert [value.hex() for value in proof] == EIGHT["inclusion"][case]
    verify_inclusion(index, size, leaves[index], proof, ROOTS[size])


@pytest.mark.parametrize("case", EIGHT["consistency"])
def test_a_consistency_proof_of_the_eight_leaves_is_the_published_one(case):
    old, new = map(int, case.split(","))

    proof = prove_consistency(old, new, memory_nodes(leaf_hashes(LEAVES[:new])))

    assert [value.hex() for value in proof] == EIGHT["consistency"][case]
    verify_consistency(old, new, ROOTS[old], ROOTS[new], proof)
