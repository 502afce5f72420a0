r"""The signed tree head (C2SP tlog-checkpoint v1.0.0), and what exactly each kind of signature covers.

<origin>
<tree size>
<base64 root hash>
[<extension line> ...]

0x01  Ed25519              the text
0x04  Ed25519, timed       "cosignature/v1\n" "time <seconds>\n" || the text
0x06  ML-DSA-44, timed     "subtree/v1\n\0" || u8 length || cosigner name || u64 seconds
                           || u8 length || origin || u64 start = 0 || u64 end = tree size || root
                           (extension lines are not covered)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.encoding import SIZE_MAX, decode_base64, encode_base64, parse_decimal
from ledger.errors import EmptyRootWrong, Malformed, SignatureFailed, excerpt
from ledger.hashing import EMPTY_ROOT, HASH_BYTES
from ledger.note import COSIGNATURE_ED25519, ED25519, Note, SignatureLine, VerifierKey, parse_note
from ledger.primitives import is_ed25519_signature, is_ml_dsa_44_signature

_TIME_BYTES: Final = 8
_SUBTREE_LABEL: Final = b"subtree/v1\n\0"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says; whether it is signed is another question (`verify_signature`, `Policy.open`)."""

    origin: str
    tree_size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        lines = (self.origin, str(self.tree_size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    def __str__(self) -> str:
        return f"size {self.tree_size}, root {self.root.hex()}"


def parse_checkpoint(what: str, data: bytes) -> tuple[Checkpoint, Note]:
    """Read a checkpoint; raises `Malformed`. No signature is checked."""
    note = parse_note(what, data)
    lines = note.text[:-1].split("\n")
    if len(lines) < 3:
        raise Malformed(what, expected="origin, size and root on three lines", found=f"{len(lines)} lines")
    origin, size_text, root_text, *extensions = lines
    if not origin or not origin.isprintable():  # of spaces only the ASCII one is
        raise Malformed(what, expected="an origin of printable characters", found=excerpt(origin))
    if not all(extensions):
        raise Malformed(what, expected="extension lines that are not empty", found="an empty one")
    size = parse_decimal(f"{what}, tree size", size_text)
    root = decode_base64(f"{what}, root", root_text, HASH_BYTES)
    if size == 0 and root != EMPTY_ROOT:
        raise EmptyRootWrong(f"{what}, root of size 0", expected=EMPTY_ROOT.hex(), found=root.hex())
    return Checkpoint(origin, size, root, tuple(extensions)), note


def claimed_size(what: str, data: bytes) -> int:
    """The tree size that a checkpoint claims; raises `Malformed`. Nothing else of it is looked at."""
    lines = data.split(b"\n", 2)
    if len(lines) < 3:
        raise Malformed(what, expected="origin, size and root on three lines", found=f"{len(lines)} lines")
    return parse_decimal(f"{what}, tree size", lines[1].decode("ascii", "replace"))


def signed_message(checkpoint: Checkpoint, name: str, algorithm: int, at_seconds: int) -> bytes:
    """The bytes that a signature of this kind covers."""
    if algorithm == ED25519:
        return checkpoint.text.encode()
    if algorithm == COSIGNATURE_ED25519:
        return f"cosignature/v1\ntime {at_seconds}\n{checkpoint.text}".encode()
    return b"".join(
        (
            _SUBTREE_LABEL,
            _short_text("cosigner name", name),
            at_seconds.to_bytes(8, "big"),
            _short_text("origin", checkpoint.origin),
            bytes(8),
            checkpoint.tree_size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )


def _short_text(what: str, text: str) -> bytes:
    data = text.encode()
    if not 0 < len(data) < 256:
        raise Malformed(what, expected="1 to 255 bytes", found=len(data))
    return bytes([len(data)]) + data


def verify_signature(what: str, checkpoint: Checkpoint, key: VerifierKey, line: SignatureLine) -> int | None:
    """Check one line by its key; returns its time in seconds, None for 0x01; raises `SignatureFailed`."""
    at_seconds, signature = 0, line.signature
    is_timed = key.algorithm != ED25519
    if is_timed:
        at_seconds = int.from_bytes(signature[:_TIME_BYTES], "big")
        signature = signature[_TIME_BYTES:]
        if not 0 < at_seconds <= SIZE_MAX:
            raise SignatureFailed(f"{what}, signature by {key.label}", expected="a time after 1970", found=at_seconds)
    message = signed_message(checkpoint, key.name, key.algorithm, at_seconds)
    is_good = is_ed25519_signature if key.algorithm in {ED25519, COSIGNATURE_ED25519} else is_ml_dsa_44_signature
    if not is_good(key.public, signature, message):
        raise SignatureFailed(what, expected=f"a good signature by {key.label}", found="a bad one")
    return at_seconds if is_timed else None
