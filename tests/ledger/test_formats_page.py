"""The worked example of docs/formats.md is what the code computes."""

from pathlib import Path

import pytest
from log_samples import memory_nodes

from ledger.checkpoint import Checkpoint
from ledger.commands import run_record
from ledger.cose import cose_receipt
from ledger.export import EXPORT_FORMAT
from ledger.hashing import FIRST_LINK, chain_links, leaf_hashes, node_hash, tree_root
from ledger.keyring import FILES_ONLY, Keyring
from ledger.keys import SigningKey, format_private_key, public_key
from ledger.months import CERTIFIED, PAYLOAD_TYPE, STATEMENT_TYPE
from ledger.note import COSIGNATURE_ED25519, ED25519, Note
from ledger.policy import parse_policy
from ledger.progress import FORMAT as PROGRESS_FORMAT
from ledger.proofs import prove_inclusion
from ledger.receipt import PROOF_FORMAT, RECEIPT_FORMAT, Receipt, TlogProof
from ledger.tiles import encode_bundle
from ledger.timestamps import timestamp_request
from ledger.witness import AddCheckpoint, checkpoint_path

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
ENTRIES = [b'{"n":1}', b'{"n":2}', b'{"n":3}']
LEAVES = leaf_hashes(ENTRIES)


def example_note():
    seed = b"\x01" * 32
    signer = SigningKey.parse(format_private_key(public_key("tallyroot.example/ledger/example", ED25519, seed), seed))
    checkpoint = Checkpoint(signer.key.name, 3, tree_root(LEAVES))
    return bytes(Note(checkpoint.text, (signer.sign_checkpoint(checkpoint, 0),))).decode()


def witness_example():
    """Request, answer, and where the witness keeps it."""
    origin = "tallyroot.example/ledger/example"
    seed = b"\x02" * 32
    witness = SigningKey.parse(format_private_key(public_key("witness.example/w1", COSIGNATURE_ED25519, seed), seed))
    request = AddCheckpoint(2, (LEAVES[2],), example_note().encode())
    line = witness.sign_checkpoint(Checkpoint(origin, 3, tree_root(LEAVES)), 1_795_255_200)
    return bytes(request).decode(), f"{line}", checkpoint_path(origin)


def stamp_example():
    return timestamp_request(example_note().encode(), 1).hex()


def cose_example():
    """A receipt of entry 0 as COSE, in lines of 64 bytes."""
    origin, seed = "tallyroot.example/ledger/example", b"\x03" * 32
    log = public_key(origin, ED25519, b"\x01" * 32)
    signer = SigningKey.parse(format_private_key(public_key(f"{origin}/certificates", ED25519, seed), seed))
    text = f"log {log}\n# tally-certificate {signer.key}\nquorum none\n"
    keyring = Keyring(Path(), (), (signer,), parse_policy("policy", text.encode()), FILES_ONLY)
    hashes = tuple(prove_inclusion(0, 3, memory_nodes(LEAVES)))
    receipt = Receipt(ENTRIES[0], TlogProof(0, hashes, example_note().encode()), None)
    data = cose_receipt(receipt, keyring, keyring.policy)[0].hex()
    return "\n".join(data[at : at + 128] for at in range(0, len(data), 128))


@pytest.mark.parametrize(
    "text",
    [
        *(leaf.hex() for leaf in LEAVES),
        *(link.hex() for link in chain_links(FIRST_LINK, LEAVES)),
        encode_bundle(ENTRIES).hex(" "),
        node_hash(LEAVES[0], LEAVES[1]).hex(),
        tree_root(LEAVES).hex(),
        example_note(),
        *witness_example(),
        stamp_example(),
        cose_example(),
        run_record("0199aa10-7c1e-7d52-b0f3-5b1c7a3f9e07", "player/b19", 6).hex(),
        *(EXPORT_FORMAT, PROGRESS_FORMAT),
        *(CERTIFIED, PAYLOAD_TYPE, STATEMENT_TYPE, PROOF_FORMAT, RECEIPT_FORMAT),
    ],
)
def test_the_page_shows_what_the_code_computes(text):
    assert text in PAGE
