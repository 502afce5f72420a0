"""Verifiers that are not ours accept what we publish, and refuse it when it is altered."""

import json

import pytest
from log_samples import NOV_21, Installation, event

from ledger.months import certificate_path
from ledger.reader import LogReader

DEC_1 = 1_796_083_200_000


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    installed = Installation(tmp_path_factory.mktemp("others"))
    installed.publish(120, 300, now_ms=NOV_21)
    installed.publish(450, now_ms=DEC_1 + 1)
    return installed


def test_securesystemslib_accepts_our_certificate_and_no_altered_one(installed):
    dsse = pytest.importorskip("securesystemslib.dsse", reason="securesystemslib is not installed")
    signers = pytest.importorskip("securesystemslib.signer")
    exceptions = pytest.importorskip("securesystemslib.exceptions")
    key = installed.keyring.certificate_keys[-1].key
    theirs = signers.SSlibKey(key.label, "ed25519", "ed25519", {"public": key.public.hex()})
    certificate = installed.folder.read(certificate_path("2026-11"))

    assert list(dsse.Envelope.from_dict(json.loads(certificate)).verify([theirs], 1)) == [key.label]
    altered = json.loads(certificate)
    altered["payload"] = altered["payload"][:-8] + "AAAAAAA="
    with pytest.raises(exceptions.VerificationError):
        dsse.Envelope.from_dict(altered).verify([theirs], 1)


def test_scitt_cose_accepts_our_inclusion_proofs_and_no_altered_ones(installed):
    scitt_cose = pytest.importorskip("scitt_cose", reason="scitt-cose is not installed")
    reader = LogReader(installed.folder, 450)
    root = reader.root().hex()

    for leaf_index in (0, 255, 256, 300, 449):
        proof = [value.hex() for value in reader.inclusion_proof(leaf_index)]
        assert scitt_cose.verify_inclusion(event(leaf_index).hex(), leaf_index, 450, proof, root)
        assert not scitt_cose.verify_inclusion(event(leaf_index + 1).hex(), leaf_index, 450, proof, root)
        assert not scitt_cose.verify_inclusion(event(leaf_index).hex(), leaf_index, 450, proof[::-1], root)


def test_scitt_cose_accepts_our_consistency_proofs_and_no_altered_ones(installed):
    scitt_cose = pytest.importorskip("scitt_cose", reason="scitt-cose is not installed")
    reader = LogReader(installed.folder, 450)

    for old in (1, 120, 256, 300, 449):
        proof = [value.hex() for value in reader.consistency_proof(old)]
        roots = reader.root(old).hex(), reader.root().hex()
        assert scitt_cose.verify_consistency(*roots, old, 450, proof)
        assert not scitt_cose.verify_consistency(*roots[::-1], old, 450, proof)
        assert not scitt_cose.verify_consistency(*roots, old, 450, proof[1:])
