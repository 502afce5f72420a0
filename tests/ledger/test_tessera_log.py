"""A complete log that we did not make, reproduced byte for byte, audited, and refused when altered."""

import base64
from collections import Counter

import pytest
from log_samples import vectors

from ledger.audit import audit_log
from ledger.builder import load_builder
from ledger.checkpoint import Checkpoint
from ledger.cli import main
from ledger.encoding import encode_base64
from ledger.errors import LedgerError
from ledger.files import Folder
from ledger.hashing import EMPTY_ROOT
from ledger.keys import SigningKey
from ledger.note import Note
from ledger.policy import parse_policy
from ledger.proofs import verify_consistency, verify_inclusion
from ledger.reader import LogReader

TESSERA = vectors("tessera_log")
LEAVES = [leaf.encode() for leaf in TESSERA["leaves"]]
SIGNER = SigningKey.parse(TESSERA["skey"])
POLICY = parse_policy("policy", f"log {TESSERA['vkey']}\nquorum none\n".encode())


@pytest.fixture
def built(tmp_path):
    """The log as our builder and signer make it: (folder, checkpoint of every size)."""
    folder = Folder(tmp_path)
    builder = load_builder(folder, 0, EMPTY_ROOT, lambda leaves: Counter(leaf=len(leaves)))
    checkpoints = []
    for size in range(len(LEAVES) + 1):
        if size:
            builder.append([LEAVES[size - 1]])
        head = builder.flush()
        checkpoint = Checkpoint("example.com/log/testdata", size, head.root)
        checkpoints.append(bytes(Note(checkpoint.text, (SIGNER.sign_checkpoint(checkpoint, 0),))))
    folder.replace("checkpoint", checkpoints[-1])
    return folder, checkpoints


def test_every_checkpoint_is_the_published_one(built):
    _, checkpoints = built

    assert [note.decode() for note in checkpoints] == TESSERA["checkpoints"]


def test_every_partial_tile_and_bundle_is_the_published_one(built):
    folder, _ = built

    for width in range(1, 16):
        assert folder.read(f"tile/0/000.p/{width}").hex() == TESSERA["tile_0_000_p"][str(width)]
        assert folder.read(f"tile/entries/000.p/{width}").hex() == TESSERA["entries_000_p"][str(width)]


def test_proofs_are_the_published_ones(built):
    folder, _ = built
    reader = LogReader(folder, 15)

    consistency = reader.consistency_proof(7)
    inclusion = reader.inclusion_proof(9)

    assert base64.b64encode(consistency[0]) == b"2Q0P5jSR+TdkwdXWyx+GbBWX0KZbNZkWzCjyTPSozsw="
    assert base64.b64encode(inclusion[-1]) == b"bC+VwvrJbalNVjfkdI8kUgs7mJoXrqiXCE7bgnD28pY="
    assert (len(consistency), len(inclusion)) == (5, 4)


def test_the_signed_checkpoints_are_consistent_with_each_other(built):
    folder, checkpoints = built
    opened = [POLICY.open("checkpoint", note).checkpoint for note in checkpoints]

    for old in opened[1:]:
        for new in opened[old.tree_size :]:
            proof = LogReader(folder, new.tree_size).consistency_proof(old.tree_size)
            verify_consistency(old.tree_size, new.tree_size, old.root, new.root, proof)
    assert len(opened) == 16


def test_a_proof_does_not_pin_the_size_so_size_and_root_come_from_one_checkpoint(built):
    folder, _ = built
    leaf = bytes.fromhex(TESSERA["tile_0_000_p"]["1"])
    proof = LogReader(folder, 15).inclusion_proof(0)
    root = POLICY.open("checkpoint", folder.read("checkpoint")).checkpoint.root

    accepted = []
    for size in range(1, 40):
        try:
            verify_inclusion(0, size, leaf, proof, root)
            accepted.append(size)
        except LedgerError:
            continue

    assert accepted == list(range(9, 17))


def test_the_log_of_another_implementation_passes_the_plain_audit(built):
    folder, _ = built

    report = audit_log(folder, POLICY, is_plain=True)

    assert report.checkpoint.checkpoint.tree_size == 15
    assert [claim.name for claim in report.claims] == ["checkpoint", "entries", "tiles", "files"]


@pytest.mark.parametrize("path", ["checkpoint", "tile/0/000.p/15", "tile/0/000.p/3", "tile/entries/000.p/15"])
def test_each_flipped_bit_of_the_log_is_found(built, path):
    folder, _ = built
    good = folder.read(path)

    for bit in range(0, len(good) * 8, 19):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        folder.replace(path, bytes(bad))
        with pytest.raises(LedgerError):
            audit_log(folder, POLICY, is_plain=True)
    folder.replace(path, good)
    assert audit_log(folder, POLICY, is_plain=True).checkpoint.checkpoint.tree_size == 15


def test_tally_verify_takes_a_proof_of_a_log_that_is_not_ours_and_refuses_it_altered(built, tmp_path, capsys):
    """A .tlog-proof with its entry, and a policy with that log's key: nothing of ours is in them."""
    folder, _ = built
    hashes = "\n".join(encode_base64(value) for value in LogReader(folder, 15).inclusion_proof(9))
    proof = f"c2sp.org/tlog-proof@v1\nindex 9\n{hashes}\n\n{TESSERA['checkpoints'][15]}"
    files = {"p.tlog-proof": proof, "entry": TESSERA["leaves"][9], "policy": f"log {TESSERA['vkey']}\nquorum none\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    arguments = ["verify", str(tmp_path / "p.tlog-proof"), "--entry", str(tmp_path / "entry")]
    arguments += ["--policy", str(tmp_path / "policy")]

    assert main(arguments) == 0
    for name, old, new in (
        ("entry", "ten", "tin"),
        ("p.tlog-proof", "index 9", "index 8"),
        ("p.tlog-proof", hashes.split("\n")[0][:6], "AAAAAA"),
        ("p.tlog-proof", "\n15\n", "\n16\n"),
    ):
        good = (tmp_path / name).read_text()
        assert old in good
        (tmp_path / name).write_text(good.replace(old, new, 1))
        assert main(arguments) == 1
        (tmp_path / name).write_text(good)
    assert main(arguments) == 0
    assert "FAILED  inclusion of leaf 9" in capsys.readouterr().out
