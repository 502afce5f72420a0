"""Time stamps of monthly roots (RFC 3161): an authority states that a closing checkpoint existed at a time.

    roots/<YYYY-MM>.checkpoint            the closing checkpoint, as signed: what is stamped
    roots/<YYYY-MM>.<authority>.tsr       the authority's response (TimeStampResp, DER), as it came

TimeStampResp  SEQUENCE { status SEQUENCE { INTEGER 0 or 1 .. }, token ContentInfo }      token: see cms
TSTInfo        SEQUENCE { 1, policy, imprint { digest, value }, serial, genTime, accuracy?, ordering?, nonce?, ... }
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from cryptography import x509

from ledger.cms import SignedContent, digest, digest_of, load_certificate, read_signed, require_signed
from ledger.der import (
    BOOLEAN,
    CONTEXT,
    GENERALIZED_TIME,
    INTEGER,
    OBJECT_ID,
    OCTET_STRING,
    SEQUENCE,
    Fields,
    encode_der,
    encode_integer,
    general_time,
    integer,
    object_id,
    read_der,
)
from ledger.errors import Malformed, TimestampFailed, excerpt

RESPONSE_BYTES_MAX: Final = 65_535
_TST_INFO: Final = "1.2.840.113549.1.9.16.1.4"
_SHA256: Final = bytes.fromhex("300d06096086480165030402010500")  # AlgorithmIdentifier with NULL parameters
_GRANTED: Final = {0: "granted", 1: "granted with modifications"}
_STATUS: Final = {2: "rejection", 3: "waiting", 4: "revocation warning", 5: "revocation notification"}
AUTHORITY_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class TimeStamp:
    """What an authority states of a message; `accuracy` is zero where it says nothing."""

    at: datetime
    accuracy: timedelta
    policy: str
    serial: int
    nonce: int | None
    signer: str

    def __str__(self) -> str:
        at = self.at.strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"at {at} by {self.signer} (policy {self.policy}, serial {self.serial:x})"


def require_authority_name(name: str) -> str:
    """The name itself; raises `Malformed` unless it can stand in a file name."""
    if not AUTHORITY_NAME.fullmatch(name):
        raise Malformed("time stamp authority", expected="1 to 64 letters, digits, - and _", found=excerpt(name))
    return name


def timestamp_request(message: bytes, nonce: int) -> bytes:
    """A TimeStampReq for a message: SHA-256, with a nonce, asking for the certificates."""
    imprint = encode_der(SEQUENCE, _SHA256, encode_der(OCTET_STRING, sha256(message).digest()))
    return encode_der(SEQUENCE, encode_integer(1), imprint, encode_integer(nonce), encode_der(BOOLEAN, b"\xff"))


def read_timestamp(what: str, response: bytes, message: bytes) -> tuple[TimeStamp, SignedContent]:
    """What a response states of a message, and the signature under it, which is not checked yet.

    Raises `Malformed`, or `TimestampFailed` when it was not granted or is about another message.
    """
    if len(response) > RESPONSE_BYTES_MAX:
        raise Malformed(what, expected=f"at most {RESPONSE_BYTES_MAX} bytes", found=len(response))
    outer = Fields(what, read_der(what, response, SEQUENCE))
    status = integer(what, Fields(what, outer.take(SEQUENCE)).take(INTEGER))
    if status not in _GRANTED:
        found = _STATUS.get(status, f"status {status}")
        raise TimestampFailed(f"{what}, status", expected="granted", found=found)
    token = outer.take(SEQUENCE)
    outer.finish()
    signed = read_signed(what, token, _TST_INFO)
    return _read_info(what, signed.content, message, signed.signer.subject.rfc4514_string()), signed


def verify_timestamp(
    what: str, response: bytes, message: bytes, roots: Sequence[x509.Certificate], *, nonce: int | None = None
) -> TimeStamp:
    """Check a response against the message and the authority's roots; raises `Malformed` or `TimestampFailed`.

    `nonce` is that of the request: whoever asked refuses the answer to another question.
    """
    stamp, signed = read_timestamp(what, response, message)
    if nonce is not None and stamp.nonce != nonce:
        found = "none" if stamp.nonce is None else f"{stamp.nonce:x}"
        raise TimestampFailed(f"{what}, nonce", expected=f"{nonce:x}, that of the request", found=found)
    require_signed(what, signed, roots, stamp.at)
    return stamp


def _read_info(what: str, content: bytes, message: bytes, signer: str) -> TimeStamp:
    fields = Fields(what, read_der(what, content, SEQUENCE))
    version = integer(what, fields.take(INTEGER))
    if version != 1:
        raise TimestampFailed(f"{what}, version", expected=1, found=version)
    policy = object_id(what, fields.take(OBJECT_ID))
    imprint = Fields(what, fields.take(SEQUENCE))
    algorithm = digest_of(f"{what}, imprint", imprint.take(SEQUENCE))
    stated, expected = imprint.take(OCTET_STRING).content, digest(algorithm, message)
    imprint.finish()
    if stated != expected:
        raise TimestampFailed(
            f"{what}, imprint", expected=f"{expected.hex()}, that of the checkpoint", found=stated.hex()
        )
    serial = integer(what, fields.take(INTEGER))
    at = general_time(f"{what}, genTime", fields.take(GENERALIZED_TIME))
    accuracy = fields.take_if(SEQUENCE)
    ordering = fields.take_if(BOOLEAN)
    if ordering is not None and ordering.content != b"\xff":
        raise Malformed(f"{what}, ordering", expected="TRUE, or nothing", found=ordering.content.hex())
    nonce = fields.take_if(INTEGER)
    fields.take_if(CONTEXT)
    extensions = fields.take_if(CONTEXT + 1)
    fields.finish()
    if extensions is not None:
        raise TimestampFailed(f"{what}, extensions", expected="none", found="some, which nobody here understands")
    return TimeStamp(
        at=at,
        accuracy=timedelta() if accuracy is None else _accuracy(what, Fields(what, accuracy)),
        policy=policy,
        serial=serial,
        nonce=None if nonce is None else integer(what, nonce),
        signer=excerpt(signer),
    )


def _accuracy(what: str, fields: Fields) -> timedelta:
    seconds = fields.take_if(INTEGER)
    milliseconds, microseconds = fields.take_if(0x80), fields.take_if(0x81)
    fields.finish()
    values = [0 if value is None else integer(what, value) for value in (seconds, milliseconds, microseconds)]
    if not (0 <= values[0] <= 86_400 and 0 <= values[1] < 1000 and 0 <= values[2] < 1000):
        raise Malformed(f"{what}, accuracy", expected="up to a day", found=values)
    return timedelta(seconds=values[0], milliseconds=values[1], microseconds=values[2])


def require_not_before(what: str, stamp: TimeStamp, signed_at_seconds: int | None) -> None:
    """Raises `TimestampFailed` when the stamp is older than the checkpoint that it stamps."""
    latest = int((stamp.at + stamp.accuracy).timestamp())
    if signed_at_seconds is not None and latest < signed_at_seconds:
        raise TimestampFailed(
            f"{what}, genTime",
            expected=f"second {signed_at_seconds}, when the checkpoint was signed, or later",
            found=latest,
        )


def load_roots(what: str, ders: Sequence[bytes]) -> list[x509.Certificate]:
    return [load_certificate(what, der) for der in ders]


def verify_timestamps(
    what: str,
    responses: Mapping[str, bytes],
    checkpoint: bytes,
    signed_at_seconds: int | None,
    authorities: Mapping[str, Sequence[bytes]],
) -> dict[str, TimeStamp | None]:
    """Each response by the name of its authority, None where the policy names none of that name."""
    found: dict[str, TimeStamp | None] = {}
    for name, response in responses.items():
        ders = authorities.get(name)
        if ders is None:
            found[name] = None
            continue
        label = f"{what}, time stamp of {name}"
        stamp = verify_timestamp(label, response, checkpoint, load_roots(label, ders))
        require_not_before(label, stamp, signed_at_seconds)
        found[name] = stamp
    return found
