"""Monthly roots: what a certificate says, its bytes, and how it fits the one before (LEDGER.md 0.1 and 3).

A month is a range of leaf indexes. It closes at the last checkpoint signed before it ended by the signer's clock, and
opens at the closing checkpoint of the month before, byte for byte. A certificate is an in-toto Statement v1 in a DSSE
envelope; the provisional root of the open month has the same form and another predicate type.

    roots/<YYYY-MM>.dsse.json                  certificate of a closed month
    roots/<YYYY-MM>.provisional.dsse.json      the open month so far

DSSE signs PAE = "DSSEv1" SP len(type) SP type SP len(payload) SP payload, lengths in ASCII decimals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from ledger.encoding import decode_base64, decode_json, encode_base64, encode_json, is_month, parse_json
from ledger.errors import Malformed, MonthFailed, SignatureFailed, WrongUse, excerpt
from ledger.hashing import FIRST_LINK, HASH_BYTES
from ledger.index import IndexHead
from ledger.keys import SigningKey
from ledger.note import VerifierKey
from ledger.policy import FUTURE_SECONDS_MAX, OpenedCheckpoint, Policy
from ledger.primitives import ED25519_SIGNATURE_BYTES, is_ed25519_signature
from ledger.proofs import RangeRoots, consistency_ranges, verify_consistency

ROOTS: Final = "roots"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
CERTIFIED: Final = "https://tallyroot.example/attestation/monthly-root/v1"
PROVISIONAL: Final = "https://tallyroot.example/attestation/provisional-root/v1"


def month_of(at_ms: int) -> str:
    """The month in UTC of a time in milliseconds since 1970."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m")


def time_text(at_seconds: int) -> str:
    """A time in seconds as RFC 3339 in UTC, as the bare number where the calendar ends."""
    try:
        return datetime.fromtimestamp(at_seconds, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"second {at_seconds}"


def parse_month(text: str) -> str:
    """The text itself; raises `WrongUse` unless it is YYYY-MM."""
    if not is_month(text):
        raise WrongUse("month", expected="YYYY-MM", found=excerpt(text))
    return text


def next_month(month: str) -> str:
    year, number = int(month[:4]), int(month[5:])
    return f"{year + number // 12:04d}-{number % 12 + 1:02d}"


def previous_month(month: str) -> str:
    year, number = int(month[:4]), int(month[5:])
    return f"{year - (number == 1):04d}-{(number - 2) % 12 + 1:02d}"


def month_bounds(month: str) -> tuple[str, str]:
    """First instant of a month and of the next one, RFC 3339."""
    return f"{month}-01T00:00:00Z", f"{next_month(month)}-01T00:00:00Z"


def certificate_path(month: str) -> str:
    return f"{ROOTS}/{month}.dsse.json"


def provisional_path(month: str) -> str:
    return f"{ROOTS}/{month}.provisional.dsse.json"


def split_root_name(name: str) -> tuple[str, bool] | None:
    """Month of a file under `roots/`, and whether it is provisional; None for a file that is neither."""
    month, dot, kind = name.partition(".")
    if not dot or not is_month(month) or kind not in {"dsse.json", "provisional.dsse.json"}:
        return None
    return month, kind.startswith("provisional")


def certified_months(names: Iterable[str]) -> list[str]:
    """The months that have a certificate, by the names of the files under `roots/`, in their order."""
    return [name[:7] for name in names if name[7:] == ".dsse.json" and is_month(name[:7])]


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeState:
    """A checkpoint's bytes with what stands beside it: size and head of the chain."""

    tree_size: int
    checkpoint: bytes
    link: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthStatement:
    """All that a certificate states; `previous_digest` is None for the first month, `index` while it is open."""

    origin: str
    month: str
    is_provisional: bool
    previous_digest: str | None
    opening: TreeState
    closing: TreeState
    closing_root: bytes
    consistency_proof: tuple[bytes, ...]
    counts: Mapping[str, int]
    index: IndexHead | None
    keys: tuple[tuple[str, int, int | None], ...]
    policy_digest: str

    @property
    def name(self) -> str:
        return f"{'provisional root' if self.is_provisional else 'certificate'} of {self.month}"

    def payload(self) -> bytes:
        """The statement's bytes: what DSSE signs, what `previousCertificate` digests."""
        start, end = month_bounds(self.month)
        previous = None if self.previous_digest is None else {"sha256": self.previous_digest}
        return encode_json(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": f"{self.origin}/{self.month}", "digest": {"sha256": self.closing_root.hex()}}],
                "predicateType": PROVISIONAL if self.is_provisional else CERTIFIED,
                "predicate": {
                    "period": {"start": start, "end": end},
                    "previousCertificate": previous,
                    "opening": {"size": self.opening.tree_size, "checkpoint": self.opening.checkpoint.decode()},
                    "closing": {"size": self.closing.tree_size, "checkpoint": self.closing.checkpoint.decode()},
                    "consistencyProof": [encode_base64(value) for value in self.consistency_proof],
                    "counts": {"events": sum(self.counts.values()), "perType": dict(sorted(self.counts.items()))},
                    "chain": {"opening": self.opening.link.hex(), "closing": self.closing.link.hex()},
                    "index": None if self.index is None else _index_json(self.index),
                    "keys": [{"vkey": vkey, "firstSize": first, "lastSize": last} for vkey, first, last in self.keys],
                    "policy": self.policy_digest,
                },
            }
        )

    @property
    def range_roots(self) -> RangeRoots:
        """What the consistency proof says of the closing tree: roots of ranges, for who has verified it."""
        if not self.consistency_proof:
            return {}
        ranges = consistency_ranges(self.opening.tree_size, self.closing.tree_size)
        return dict(zip(ranges, self.consistency_proof, strict=True))

    @property
    def digest(self) -> str:
        return sha256(self.payload()).hexdigest()


def _index_json(index: IndexHead) -> dict[str, object]:
    return {"root": index.root.hex(), "subjects": index.subjects}


def _index_head(value: Any) -> IndexHead:
    return IndexHead(_hash(value["root"]), _natural(value["subjects"]))


def parse_statement(what: str, payload: bytes) -> MonthStatement:
    """Read a statement; raises `Malformed` unless writing it again gives the same bytes."""
    value = parse_json(what, payload)
    try:
        statement = _statement(what, value)
        is_same = statement.payload() == payload
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as err:
        raise Malformed(what, expected="a monthly root's statement", found=f"{type(err).__name__}: {err}") from err
    if not is_same:
        decode_json(what, payload)  # tells where it is no compact JSON, if that is why
        raise Malformed(what, expected="a monthly root's statement", found="other keys, values or order")
    return statement


def _statement(what: str, value: Any) -> MonthStatement:
    predicate = value["predicate"]
    if value["_type"] != STATEMENT_TYPE:
        raise Malformed(f"{what}, _type", expected=STATEMENT_TYPE, found=excerpt(value["_type"]))
    if value["predicateType"] not in {CERTIFIED, PROVISIONAL}:
        raise Malformed(f"{what}, predicateType", expected=CERTIFIED, found=excerpt(value["predicateType"]))
    origin, _, month = value["subject"][0]["name"].rpartition("/")
    if not is_month(month):
        raise Malformed(f"{what}, subject", expected="<origin>/<YYYY-MM>", found=excerpt(value["subject"][0]["name"]))
    counts = {str(name): _natural(number) for name, number in predicate["counts"]["perType"].items()}
    previous = predicate["previousCertificate"]
    chain = predicate["chain"]
    return MonthStatement(
        origin=origin,
        month=month,
        is_provisional=value["predicateType"] == PROVISIONAL,
        previous_digest=None if previous is None else _hash(previous["sha256"]).hex(),
        opening=_tree_state(predicate["opening"], chain["opening"]),
        closing=_tree_state(predicate["closing"], chain["closing"]),
        closing_root=_hash(value["subject"][0]["digest"]["sha256"]),
        consistency_proof=tuple(decode_base64(what, text, HASH_BYTES) for text in predicate["consistencyProof"]),
        counts=counts,
        index=None if predicate["index"] is None else _index_head(predicate["index"]),
        keys=tuple((str(key["vkey"]), _natural(key["firstSize"]), key["lastSize"]) for key in predicate["keys"]),
        policy_digest=_hash(predicate["policy"]).hex(),
    )


def _tree_state(value: Any, link: str) -> TreeState:
    return TreeState(tree_size=_natural(value["size"]), checkpoint=value["checkpoint"].encode(), link=_hash(link))


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{excerpt(repr(value))} where a count belongs")
    return value


def _hash(text: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != HASH_BYTES or value.hex() != text:
        raise ValueError(f"{excerpt(text)} where a SHA-256 in hex belongs")
    return value


def pre_authentication(payload: bytes) -> bytes:
    """DSSE's PAE of a payload of our one type."""
    return f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def seal(payload: bytes, signer: SigningKey) -> bytes:
    """The payload in a DSSE envelope, as a line of JSON."""
    signature = signer.secret.sign(pre_authentication(payload))
    return _envelope(encode_base64(payload), signer.key.label, encode_base64(signature))


def _envelope(payload: str, label: str, signature: str) -> bytes:
    rest = encode_json({"payloadType": PAYLOAD_TYPE, "signatures": [{"keyid": label, "sig": signature}]})
    return b'{"payload":"' + payload.encode() + b'",' + rest[1:] + b"\n"  # in base64 nothing is escaped


def unseal(what: str, data: bytes, keys: Iterable[VerifierKey]) -> tuple[bytes, str]:
    """The payload of an envelope that one of the keys signed, and its label; raises `Malformed`, `SignatureFailed`."""
    if not data.endswith(b"\n"):
        raise Malformed(what, expected="a line of JSON that ends in a newline")
    match parse_json(what, data[:-1]):
        case {"payload": str(text), "payloadType": str(kind), "signatures": [{"keyid": str(label), "sig": str(sig)}]}:
            payload = decode_base64(f"{what}, payload", text)
            signature = decode_base64(f"{what}, signature", sig, ED25519_SIGNATURE_BYTES)
        case _:
            raise Malformed(what, expected="a DSSE envelope with one signature")
    if kind != PAYLOAD_TYPE:
        raise Malformed(f"{what}, payloadType", expected=PAYLOAD_TYPE, found=excerpt(kind))
    known = {key.label: key for key in keys}
    if label not in known:
        expected = f"a signature by {' or '.join(known) or 'a certificate key, of which the policy names none'}"
        raise SignatureFailed(what, expected=expected, found=excerpt(label))
    if _envelope(text, label, sig) != data:
        decode_json(what, data[:-1])  # tells where it is no compact JSON, if that is why
        raise Malformed(what, expected="a DSSE envelope with one signature", found="other keys or order")
    if not is_ed25519_signature(known[label].public, signature, pre_authentication(payload)):
        raise SignatureFailed(what, expected=f"a good signature by {label}", found="a bad one")
    return payload, label


def open_month(what: str, data: bytes, policy: Policy) -> MonthStatement:
    """Read and check one certificate or provisional root by itself: signature, form, checkpoints, proof, counts.

    How it fits its neighbours is for `require_successor`, how it fits the log for the audit.
    """
    return open_month_and_closing(what, data, policy)[0]


def open_month_and_closing(what: str, data: bytes, policy: Policy) -> tuple[MonthStatement, OpenedCheckpoint]:
    """As `open_month`, and the closing checkpoint that was opened on the way."""
    payload, signed_by = unseal(what, data, policy.certificate_keys)
    statement = parse_statement(what, payload)
    policy.require_certificate_key(what, signed_by, statement.closing.tree_size)
    opening = _open(f"{what}, opening checkpoint", statement.opening, policy, statement.origin)
    closing = _open(f"{what}, closing checkpoint", statement.closing, policy, statement.origin)
    if closing.checkpoint.root != statement.closing_root:
        raise MonthFailed(
            f"{what}, subject",
            expected=f"the closing root {closing.checkpoint.root.hex()}",
            found=statement.closing_root.hex(),
        )
    if closing.checkpoint.tree_size < opening.checkpoint.tree_size:
        raise MonthFailed(
            what, expected=f"a closing size of at least {statement.opening.tree_size}", found=closing.checkpoint
        )
    end = month_bounds(statement.month)[1]
    signed_at = closing.log_at_seconds
    if signed_at is None and closing.at_seconds is not None:  # only by a witness's clock, which may be ahead
        signed_at = closing.at_seconds - FUTURE_SECONDS_MAX
    if signed_at is not None and time_text(signed_at) >= end:
        found = time_text(signed_at)
        raise MonthFailed(f"{what}, closing checkpoint", expected=f"one signed before {end}", found=found)
    _require_extension(what, opening, closing, statement.consistency_proof)
    if (statement.index is None) != statement.is_provisional:
        raise MonthFailed(f"{what}, index", expected="one in a certificate, none in a provisional root")
    events = statement.closing.tree_size - statement.opening.tree_size
    if sum(statement.counts.values()) != events:
        raise MonthFailed(f"{what}, counts", expected=f"{events} events", found=sum(statement.counts.values()))
    return statement, closing


def _open(what: str, state: TreeState, policy: Policy, origin: str) -> OpenedCheckpoint:
    opened = policy.open(what, state.checkpoint, origin=origin)
    if opened.checkpoint.tree_size != state.tree_size:
        raise MonthFailed(f"{what}, size", expected=opened.checkpoint.tree_size, found=state.tree_size)
    return opened


def _require_extension(
    what: str, opening: OpenedCheckpoint, closing: OpenedCheckpoint, proof: tuple[bytes, ...]
) -> None:
    if opening.checkpoint.tree_size == 0:
        if proof:
            raise MonthFailed(f"{what}, consistency proof", expected="none from size 0", found=f"{len(proof)} hashes")
        return
    verify_consistency(
        opening.checkpoint.tree_size,
        closing.checkpoint.tree_size,
        opening.checkpoint.root,
        closing.checkpoint.root,
        proof,
    )


def require_successor(what: str, statement: MonthStatement, previous: MonthStatement | None) -> None:
    """That a month follows the one before without gap, overlap or change; raises `MonthFailed`."""
    if previous is None:
        first = (statement.opening.tree_size, statement.opening.link, statement.previous_digest)
        if first != (0, FIRST_LINK, None):
            raise MonthFailed(
                what,
                expected="the first month to open at size 0, without a previous certificate",
                found=f"opening size {statement.opening.tree_size}, previous {statement.previous_digest}",
            )
        return
    checks = (
        ("month", next_month(previous.month), statement.month),
        ("origin", previous.origin, statement.origin),
        ("opening size", previous.closing.tree_size, statement.opening.tree_size),
        ("opening checkpoint", excerpt(previous.closing.checkpoint), excerpt(statement.opening.checkpoint)),
        ("opening link", previous.closing.link.hex(), statement.opening.link.hex()),
        ("previousCertificate", previous.digest, statement.previous_digest),
    )
    for name, expected, found in checks:
        if expected != found:
            raise MonthFailed(f"{what}, {name}", expected=f"{expected} as {previous.name} has it", found=found)
    if previous.closing.checkpoint != statement.opening.checkpoint:
        raise MonthFailed(f"{what}, opening checkpoint", expected=f"the closing one of {previous.month}, byte for byte")
