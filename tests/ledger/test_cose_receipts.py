"""COSE receipts (RFC 9942): `scitt-cose` verifies ours, and refuses them with another event, proof or key."""

import json
from argparse import ArgumentParser
from dataclasses import replace

import pytest
from log_samples import NOV_21, Installation, event, slow_root

from adapters.commands import prove
from ledger.cli import main
from ledger.cose import cose_receipt, encode_cbor, public_pem
from ledger.errors import ProofFailed, SignatureFailed
from ledger.files import Folder
from ledger.receipt import prove_entry

DEC_1 = 1_796_083_200_000


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    installed = Installation(tmp_path_factory.mktemp("cose"))
    installed.publish(120, 300, now_ms=NOV_21)
    installed.publish(450, now_ms=DEC_1 + 1)
    return installed


@pytest.fixture(scope="module")
def scitt_cose():
    return pytest.importorskip("scitt_cose", reason="scitt-cose is not installed")


def made(installed, leaf_index):
    receipt = prove_entry(installed.folder, installed.policy(), leaf_index)
    return cose_receipt(receipt, installed.keyring, installed.policy())[0]


def key(installed):
    return public_pem(installed.keyring.certificate_keys[-1].key)


@pytest.mark.parametrize("leaf_index", [0, 7, 255, 256, 299, 300, 449])
def test_scitt_cose_verifies_our_receipts(installed, scitt_cose, leaf_index):
    receipt = made(installed, leaf_index)

    found = scitt_cose.verify_receipt(
        receipt, leaf_entry_hex=event(leaf_index).hex(), log_public_key_pem=key(installed)
    )

    size = 300 if leaf_index < 300 else 450
    assert found.errors == []
    assert (found.ok, found.leaf_index, found.tree_size) == (True, leaf_index, size)
    assert found.root == slow_root([event(number) for number in range(size)]).hex()
    assert found.issuer == "tallyroot.example/ledger/boston"
    assert found.subject == f"player/b{leaf_index % 7}"
    assert found.iat in {NOV_21 // 1000, DEC_1 // 1000}
    assert found.protected_header_ext == {4: installed.keyring.certificate_keys[-1].key.label.encode()}


def test_scitt_cose_refuses_our_receipt_for_another_event_or_under_another_key(installed, scitt_cose, tmp_path):
    receipt = made(installed, 7)
    other = Installation(tmp_path)

    wrong_event = scitt_cose.verify_receipt(receipt, leaf_entry_hex=event(8).hex(), log_public_key_pem=key(installed))
    wrong_key = scitt_cose.verify_receipt(receipt, leaf_entry_hex=event(7).hex(), log_public_key_pem=key(other))

    assert (wrong_event.ok, wrong_key.ok) == (False, False)
    assert wrong_key.failed_at == "signature"


def test_scitt_cose_refuses_our_receipt_with_any_byte_altered(installed, scitt_cose):
    receipt, leaf, pem = made(installed, 7), event(7).hex(), key(installed)

    passed = [
        at
        for at in range(len(receipt))
        if scitt_cose.verify_receipt(
            receipt[:at] + bytes([receipt[at] ^ 1 << at % 8]) + receipt[at + 1 :],
            leaf_entry_hex=leaf,
            log_public_key_pem=pem,
        ).ok
    ]

    # Other sizes lead to the same root by the same hashes (LEDGER.md 1.11): the size is the checkpoint's to say.
    places = {receipt.index(encode_cbor(300)) + at for at in range(3)}
    assert len(receipt) > 400
    assert set(passed) <= places


def test_a_receipt_is_signed_only_when_its_proof_holds_and_the_key_is_the_certificates(installed):
    policy, keyring = installed.policy(), installed.keyring
    receipt = prove_entry(installed.folder, policy, 7)

    with pytest.raises(ProofFailed):
        cose_receipt(replace(receipt, entry=event(8)), keyring, policy)
    with pytest.raises(ProofFailed):
        cose_receipt(replace(receipt, proof=replace(receipt.proof, leaf_index=8)), keyring, policy)
    spoiled = receipt.proof.checkpoint.replace(b"\n300\n", b"\n299\n")
    with pytest.raises(SignatureFailed):
        cose_receipt(replace(receipt, proof=replace(receipt.proof, checkpoint=spoiled)), keyring, policy)


@pytest.mark.parametrize(
    "value",
    [
        *(0, 1, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63),
        *(-1, -8, -24, -25, -256, -257, -65_537, None, b"", b"x" * 24, b"x" * 300, "", "é☃", [], [1, [2, b"3"]]),
        {395: 1, 1: -8, 15: {2: "b", 1: "a"}, 4: b"k"},
    ],
)
def test_our_cbor_is_the_deterministic_one_of_cbor2(value):
    cbor2 = pytest.importorskip("cbor2", reason="cbor2 is not installed (it comes with scitt-cose)")

    assert encode_cbor(value) == cbor2.dumps(value, canonical=True)


def test_what_has_no_place_in_a_receipt_is_not_written():
    for value in (True, 1.5, {1, 2}):
        with pytest.raises(TypeError, match="has no place in a COSE receipt"):
            encode_cbor(value)


def test_prove_writes_the_receipt_the_bare_proof_the_event_and_the_cose_receipt(
    installed, scitt_cose, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "data"
    (folder / "published").mkdir(parents=True)
    (folder / "keys").mkdir()
    (folder / "published" / "boston").symlink_to(installed.log_dir)
    (folder / "keys" / "boston").symlink_to(installed.keyring.folder)
    monkeypatch.chdir(tmp_path)
    parser = ArgumentParser()
    prove.configure(parser)
    outputs = {"-o": "r.receipt", "--tlog-proof": "r.tlog-proof", "--entry": "r.json", "--cose": "r.cose"}
    words = [word for pair in outputs.items() for word in pair]
    args = parser.parse_args(["player.b0.2", *words, "--cose-key", "r.pem"])
    args.data, args.tenant = folder, "boston"

    code = prove.run(args)

    policy = ["--policy", str(installed.policy_path)]
    assert code == 0
    assert main(["verify", "r.receipt", *policy]) == 0
    assert main(["verify", "r.tlog-proof", "--entry", "r.json", *policy]) == 0
    capsys.readouterr()
    files = Folder(tmp_path)
    assert files.read("r.json") == event(7)
    found = scitt_cose.verify_receipt(
        files.read("r.cose"), leaf_entry_hex=files.read("r.json").hex(), log_public_key_pem=files.read("r.pem")
    )
    assert (found.ok, found.leaf_index) == (True, 7)
    assert json.loads(files.read("r.json"))["id"] == "player.b0.2"
