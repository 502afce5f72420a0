"""COSE receipts (RFC 9942): an inclusion proof in the form that SCITT tools (RFC 9943) read; written, not read.

COSE_Sign1 = 18([protected, {396: {-1: [proof]}}, null, signature])       all CBOR in its deterministic form (RFC 8949)

    protected   { 1: -8 (EdDSA), 4: key label, 15: { 1: origin, 2: the event's subject, 6: time of the checkpoint },
                  395: 1 (RFC9162_SHA256) }
    proof       [ tree size, leaf index, [ hash, ... ] ]                  in a byte string; the leaf's sibling first
    signature   Ed25519 over ["Signature1", protected, h'', root]

The root is not in it: whoever checks computes it from the entry and the proof. The certificate key signs, and only the
root of a checkpoint that satisfies the policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledger.events import subject_of
from ledger.hashing import leaf_hash
from ledger.keyring import Keyring
from ledger.note import VerifierKey
from ledger.policy import Policy
from ledger.proofs import verify_inclusion
from ledger.receipt import Receipt

_ALGORITHM, _KEY_ID, _CLAIMS, _STRUCTURE, _PROOFS = 1, 4, 15, 395, 396
_ISSUER, _SUBJECT, _ISSUED_AT = 1, 2, 6
_EDDSA: Final = -8
_RFC9162_SHA256: Final = 1
_INCLUSION: Final = -1
_SIGN1: Final = b"\xd2"  # tag 18


def cose_receipt(receipt: Receipt, keyring: Keyring, policy: Policy) -> tuple[bytes, VerifierKey]:
    """A receipt's proof as COSE, and the certificate key that signed it; a `LedgerError` unless the proof holds."""
    proof = receipt.proof
    opened = policy.open("receipt, checkpoint", proof.checkpoint)
    checkpoint = opened.checkpoint
    verify_inclusion(proof.leaf_index, checkpoint.tree_size, leaf_hash(receipt.entry), proof.hashes, checkpoint.root)
    signer = keyring.certificate_key_at(checkpoint.tree_size)
    policy.require_certificate_key("COSE receipt", signer.key.label, checkpoint.tree_size)
    claims: dict[int, object] = {_ISSUER: checkpoint.origin, _SUBJECT: subject_of(receipt.entry)}
    if opened.at_seconds is not None:
        claims[_ISSUED_AT] = opened.at_seconds
    protected = encode_cbor(
        {_ALGORITHM: _EDDSA, _KEY_ID: signer.key.label.encode(), _CLAIMS: claims, _STRUCTURE: _RFC9162_SHA256}
    )
    inclusion = encode_cbor([checkpoint.tree_size, proof.leaf_index, list(proof.hashes)])
    signature = signer.secret.sign(encode_cbor(["Signature1", protected, b"", checkpoint.root]))
    return _SIGN1 + encode_cbor([protected, {_PROOFS: {_INCLUSION: [inclusion]}}, None, signature]), signer.key


def public_pem(key: VerifierKey) -> bytes:
    """An Ed25519 key as tools that read no vkeys want it."""
    return Ed25519PublicKey.from_public_bytes(key.public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def encode_cbor(value: Any) -> bytes:
    """Deterministic CBOR (RFC 8949 4.2.1) of what a receipt holds: integers, bytes, text, arrays, maps and null."""
    match value:
        case None:
            return b"\xf6"
        case int() if not isinstance(value, bool):
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            text = value.encode()
            return _head(3, len(text)) + text
        case Sequence():
            return _head(4, len(value)) + b"".join(map(encode_cbor, value))
        case Mapping():
            pairs = sorted((encode_cbor(key), encode_cbor(item)) for key, item in value.items())
            return _head(5, len(value)) + b"".join(key + item for key, item in pairs)
        case _:
            raise TypeError(f"{type(value).__name__} has no place in a COSE receipt")


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes([kind << 5 | number])
    size = next(size for size in (1, 2, 4, 8) if number < 1 << (8 * size))
    return bytes([kind << 5 | 23 + size.bit_length()]) + number.to_bytes(size, "big")
