"""The witness protocol (C2SP tlog-witness v1.0.0): what a log asks, and where the answers are found.

POST <submission prefix>/add-checkpoint

old <size>                         the size that the witness has recorded
<base64 hash>                      0 to 63 lines: consistency proof from that size
                                   an empty line
<signed checkpoint>

200  cosignature lines             403  not signed by the log      409  the recorded size, as text/x.tlog.size
400  malformed, or old > size      404  unknown origin             422  the proof does not verify

GET <monitoring prefix>/<SHA-256 of the origin in hex>/checkpoint   the latest checkpoint that the witness cosigned
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from ledger.encoding import decode_base64, encode_base64, parse_decimal
from ledger.errors import Malformed, ProofFailed, excerpt
from ledger.hashing import HASH_BYTES
from ledger.note import SignatureLine, parse_signature
from ledger.proofs import verify_consistency

ADD_CHECKPOINT: Final = "add-checkpoint"
SIZE_TYPE: Final = "text/x.tlog.size"
PROOF_LINES_MAX: Final = 63


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """One request; `note` is the signed checkpoint, verbatim."""

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes

    def __bytes__(self) -> bytes:
        lines = [f"old {self.old_size}", *map(encode_base64, self.proof), ""]
        return "".join(f"{line}\n" for line in lines).encode() + self.note


def parse_request(data: bytes) -> AddCheckpoint:
    """Read a request; raises `Malformed`. The checkpoint in it is not read."""
    head, separator, note = data.partition(b"\n\n")
    if not separator:
        raise Malformed("request", expected="an old size, a proof, an empty line and a checkpoint", found="none")
    if not head.isascii():
        raise Malformed("request", expected="ASCII before the empty line", found=excerpt(head))
    first, *lines = head.decode("ascii").split("\n")
    if not first.startswith("old "):
        raise Malformed("request, first line", expected="old <size>", found=excerpt(first))
    if len(lines) > PROOF_LINES_MAX:
        raise Malformed("request", expected=f"at most {PROOF_LINES_MAX} lines of proof", found=len(lines))
    old_size = parse_decimal("request, old size", first.removeprefix("old "))
    proof = (decode_base64(f"request, line {at} of the proof", line, HASH_BYTES) for at, line in enumerate(lines, 1))
    return AddCheckpoint(old_size, tuple(proof), note)


def parse_cosignatures(what: str, data: bytes) -> list[SignatureLine]:
    """Read the body of a 200: signature lines; raises `Malformed`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise Malformed(what, expected="UTF-8", found=f"byte 0x{data[err.start]:02x} at {err.start}") from err
    if not text.endswith("\n"):
        raise Malformed(what, expected="cosignature lines that each end in a newline", found=excerpt(text[-40:]))
    return [parse_signature(what, line) for line in text[:-1].split("\n")]


def checkpoint_path(origin: str) -> str:
    """Where the latest cosigned checkpoint of a log is read, below the monitoring prefix."""
    return f"{sha256(origin.encode()).hexdigest()}/checkpoint"


def require_extends(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """The witness's question: does the new tree extend the recorded one, size 0 being the beginning of any."""
    if old_size:
        verify_consistency(old_size, new_size, old_root, new_root, proof)
    elif proof:
        raise ProofFailed("consistency from size 0", expected="an empty proof", found=f"{len(proof)} hashes")
