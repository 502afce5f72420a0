"""Offline evidence that an entry is in a log: the tlog-proof (C2SP) and the receipt that wraps one.

tlog-proof                                       receipt, JSON with an indent of one space
    c2sp.org/tlog-proof@v1                           format        RECEIPT_FORMAT
    [extra <base64>]                                 entry         the entry's bytes, base64
    index <leaf index>                               proof         a tlog-proof
    <base64 hash> ...   (sibling of the leaf first)  certificate   the month's certificate, null while it is open
    <empty line>                                     timestamps    authority to response, base64; or absent
    <signed checkpoint>

A receipt of a closed month proves against the closing checkpoint, whose bytes the certificate holds.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ledger.beside import checkpoint_path, missing_stamps, stamp_path, stamping, verify_stamps
from ledger.checkpoint import claimed_size
from ledger.encoding import decode_base64, encode_base64, parse_decimal
from ledger.errors import LogDamaged, Malformed, MonthFailed, NotYetSigned, TimestampFailed, excerpt
from ledger.events import describe, recorded_month
from ledger.files import Source, read_all, require, require_data
from ledger.hashing import HASH_BYTES, leaf_hash
from ledger.months import (
    ROOTS,
    MonthStatement,
    certificate_path,
    certified_months,
    open_month,
    open_month_and_closing,
    time_text,
)
from ledger.policy import OpenedCheckpoint, Policy
from ledger.proofs import PROOF_HASHES_MAX, verify_inclusion
from ledger.reader import LogReader
from ledger.tiles import CHECKPOINT, ENTRIES, TILE_WIDTH, Tile
from ledger.timestamps import TimeStamp, require_authority_name

PROOF_FORMAT: Final = "c2sp.org/tlog-proof@v1"
RECEIPT_FORMAT: Final = "https://tallyroot.example/receipt/v1"
RECEIPT_BYTES_MAX: Final = 4_000_000
STAMP: Final = "time stamp"
_NO_TIME: Final = "nothing outside the log says when it closed"


class Claim(NamedTuple):
    """One thing that was checked and holds; or, not `is_checked`, one of which nothing is claimed, and why."""

    name: str
    detail: str
    is_checked: bool = True


@dataclass(frozen=True, slots=True)
class TlogProof:
    leaf_index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def __bytes__(self) -> bytes:
        extra = [] if self.extra is None else [f"extra {encode_base64(self.extra)}"]
        lines = [PROOF_FORMAT, *extra, f"index {self.leaf_index}", *map(encode_base64, self.hashes), "", ""]
        return "\n".join(lines).encode() + self.checkpoint


def parse_proof(what: str, data: bytes) -> TlogProof:
    """Read a tlog-proof; raises `Malformed`. Nothing is verified."""
    head, separator, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as err:
        raise Malformed(what, expected="ASCII before the checkpoint") from err
    if lines[0] != PROOF_FORMAT or not separator:
        raise Malformed(what, expected=f"{PROOF_FORMAT}, a proof, an empty line, a checkpoint", found=excerpt(lines[0]))
    lines.pop(0)
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = decode_base64(f"{what}, extra", lines.pop(0).removeprefix("extra "))
    if not lines or not lines[0].startswith("index "):
        raise Malformed(what, expected="an index line", found=excerpt(lines[0]) if lines else "none")
    leaf_index = parse_decimal(f"{what}, index", lines.pop(0).removeprefix("index "))
    if len(lines) > PROOF_HASHES_MAX:
        raise Malformed(what, expected=f"at most {PROOF_HASHES_MAX} hashes", found=len(lines))
    hashes = tuple(decode_base64(f"{what}, hash", line, HASH_BYTES) for line in lines)
    return TlogProof(leaf_index, hashes, checkpoint, extra)


@dataclass(frozen=True, slots=True)
class Receipt:
    entry: bytes
    proof: TlogProof
    certificate: bytes | None
    timestamps: Mapping[str, bytes] = field(default_factory=dict)

    def __bytes__(self) -> bytes:
        value: dict[str, object] = {
            "format": RECEIPT_FORMAT,
            "entry": encode_base64(self.entry),
            "proof": bytes(self.proof).decode(),
            "certificate": None if self.certificate is None else self.certificate.decode(),
        }
        if self.timestamps:
            value["timestamps"] = {name: encode_base64(data) for name, data in sorted(self.timestamps.items())}
        return json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n"


def parse_receipt(what: str, data: bytes) -> Receipt:
    """Read a receipt; raises `Malformed` unless writing it again gives the same bytes. Nothing is verified."""
    if len(data) > RECEIPT_BYTES_MAX:
        raise Malformed(what, expected=f"at most {RECEIPT_BYTES_MAX} bytes", found=len(data))
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise Malformed(what, expected="a receipt in JSON", found=excerpt(str(err))) from err
    match value:
        case {"format": kind, "entry": str(entry), "proof": str(proof), "certificate": str() | None as certificate}:
            if kind != RECEIPT_FORMAT:
                raise Malformed(f"{what}, format", expected=RECEIPT_FORMAT, found=excerpt(kind))
        case _:
            raise Malformed(what, expected="a receipt with format, entry, proof and certificate")
    try:
        receipt = Receipt(
            decode_base64(f"{what}, entry", entry),
            parse_proof(f"{what}, proof", proof.encode()),
            None if certificate is None else certificate.encode(),
            _parse_timestamps(f"{what}, timestamps", value.get("timestamps", {})),
        )
        is_same = bytes(receipt) == data
    except UnicodeError as err:
        raise Malformed(what, expected="UTF-8", found=excerpt(str(err))) from err
    if not is_same:
        raise Malformed(what, expected="the receipt's one canonical form", found="other spaces, keys or escapes")
    return receipt


def _parse_timestamps(what: str, value: Any) -> dict[str, bytes]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise Malformed(what, expected="names of authorities with base64", found=excerpt(str(value)))
    return {require_authority_name(name): decode_base64(f"{what}, {name}", text) for name, text in value.items()}


class _ClosedMonth(NamedTuple):
    """A month's certificate as it is published and as it was opened, its closing checkpoint and its time stamps."""

    certificate: bytes
    statement: MonthStatement
    closing: OpenedCheckpoint
    stamps: Mapping[str, bytes]

    def has(self, leaf_index: int) -> bool:
        return self.statement.opening.tree_size <= leaf_index < self.statement.closing.tree_size


def prove_entry(source: Source, policy: Policy, leaf_index: int) -> Receipt:
    """Make the receipt of an entry from the published files, and verify it before it is handed out.

    All that the receipt holds is checked as whoever gets it will. What only leads there, the sizes that other
    checkpoints claim and the month that the event names, is taken as it stands: were one wrong, no receipt would come
    of it, or one without its month. Files are looked for in turns: what is needed whatever the month; in a closed
    month its certificate; the tiles.

    Raises `NotYetSigned` when no checkpoint covers the entry, `LogDamaged` when the files do not prove it.
    """
    names = source.names(ROOTS)
    months = certified_months(names)
    bundle = Tile(ENTRIES, max(leaf_index, 0) // TILE_WIDTH)
    # The checkpoint comes first: a bundle that it covers was whole before.
    latest, entries, *closing = read_all(source, [CHECKPOINT, bundle.path, *map(checkpoint_path, months[-1:])])
    latest = require_data(CHECKPOINT, latest)
    latest_size = claimed_size(CHECKPOINT, latest)
    if not 0 <= leaf_index < latest_size:
        policy.open(CHECKPOINT, latest)
        raise NotYetSigned(f"entry {leaf_index}: the last checkpoint has size {latest_size}")
    reader = LogReader(source, latest_size, {bundle: entries})
    month = None
    if _is_in_closed_month(months, closing, leaf_index):
        likely = recorded_month(reader.entry(leaf_index))
        month = _closed_month(source, policy, names, months, leaf_index, likely)
    opened = policy.open(CHECKPOINT, latest) if month is None else month.closing
    tree_size = opened.checkpoint.tree_size
    if tree_size > latest_size:
        raise LogDamaged(CHECKPOINT, expected=f"a size of at least {tree_size}, that of a month", found=latest_size)
    # The upper part of the way to the root is in the certificate, whose consistency proof was verified.
    entry, hashes = reader.proved_entry(leaf_index, tree_size, month.statement.range_roots if month else {})
    proof = TlogProof(leaf_index, tuple(hashes), opened.note)
    receipt = Receipt(entry, proof, month.certificate, month.stamps) if month else Receipt(entry, proof, None)
    statement = month.statement if month else None
    for _ in verify_receipt("new receipt", receipt, policy, opened=opened, month=statement):
        pass
    return receipt


def _is_in_closed_month(months: Sequence[str], last: Sequence[bytes | None], leaf_index: int) -> bool:
    """Whether a leaf is below the size that the closing checkpoint of the last certified month claims."""
    if not months:
        return False
    path = checkpoint_path(months[-1])
    return leaf_index < claimed_size(path, require_data(path, last[0]))


def _closed_month(
    source: Source, policy: Policy, names: Sequence[str], months: Sequence[str], leaf_index: int, likely: str
) -> _ClosedMonth:
    """The month that closed with a leaf: the likely one if its certificate says so, else looked for by halves.

    An event that was recorded in the last moments of a month may be in the one after it; other entries name no month.
    """
    if likely in months:
        month = _open_closed(source, policy, names, likely)
        if month.has(leaf_index):
            return month

    def closes_at(month: str) -> int:
        path = checkpoint_path(month)
        return claimed_size(path, require(source, path))

    found = months[bisect_right(months, leaf_index, 0, len(months) - 1, key=closes_at)]
    month = _open_closed(source, policy, names, found)
    if not month.has(leaf_index):
        first, end = month.statement.opening.tree_size, month.statement.closing.tree_size
        expected = f"a month that has leaf {leaf_index}"
        raise LogDamaged(certificate_path(found), expected=expected, found=f"leaves {first} to {end - 1}")
    return month


def _open_closed(source: Source, policy: Policy, names: Sequence[str], month: str) -> _ClosedMonth:
    path, authorities = certificate_path(month), stamping(month, policy, names)
    certificate, *stamps = read_all(source, [path, *(stamp_path(month, authority) for authority in authorities)])
    certificate = require_data(path, certificate)
    statement, closing = open_month_and_closing(path, certificate, policy)
    found = {name: data for name, data in zip(authorities, stamps, strict=True) if data is not None}
    return _ClosedMonth(certificate, statement, closing, found)


def verify_proof(
    what: str, entry: bytes, proof: TlogProof, policy: Policy, *, opened: OpenedCheckpoint | None = None
) -> Iterator[Claim]:
    """Check an entry against a proof and a policy, claim by claim; raises a `LedgerError` at the first no.

    `opened` is a checkpoint that was opened under this policy: its very bytes need not be checked twice.
    """
    leaf = leaf_hash(entry)
    yield Claim("entry", f"{describe(entry)}, {len(entry)} bytes, leaf hash {leaf.hex()}")
    if opened is None or opened.note != proof.checkpoint:
        opened = policy.open(f"{what}, checkpoint", proof.checkpoint)
    yield checkpoint_claim(opened)
    checkpoint = opened.checkpoint
    verify_inclusion(proof.leaf_index, checkpoint.tree_size, leaf, proof.hashes, checkpoint.root)
    yield Claim("inclusion", f"the entry is leaf {proof.leaf_index} of {checkpoint.tree_size}")


def checkpoint_claim(opened: OpenedCheckpoint) -> Claim:
    checkpoint = opened.checkpoint
    signers = ", ".join(label.rpartition("+")[2] for label in opened.signed_by)
    witnesses = f", witnessed by {', '.join(opened.witnessed_by)}" if opened.witnessed_by else ""
    at = "at an unknown time" if opened.at_seconds is None else f"at {time_text(opened.at_seconds)}"
    return Claim("checkpoint", f"{checkpoint.origin}, {checkpoint}, signed {at} by keys {signers}{witnesses}")


def verify_receipt(
    what: str,
    receipt: Receipt,
    policy: Policy,
    *,
    needs_stamp: bool = False,
    opened: OpenedCheckpoint | None = None,
    month: MonthStatement | None = None,
) -> Iterator[Claim]:
    """Check a receipt against a policy, one claim after the other; raises a `LedgerError` at the first no.

    A stamp that is not in it is told, and refused where one is needed: it may have been made before its month's stamp.
    `opened` and `month` are a checkpoint and the receipt's certificate where they were opened under this policy before.
    """
    yield from verify_proof(what, receipt.entry, receipt.proof, policy, opened=opened)
    if receipt.certificate is None:
        if receipt.timestamps:
            raise MonthFailed(
                f"{what}, timestamps", expected="none without a certificate", found=len(receipt.timestamps)
            )
        yield Claim("month", "open when the receipt was made: no certificate yet", is_checked=False)
        if needs_stamp:
            expected = "one of the closed month (--require-stamp)"
            raise TimestampFailed(f"{what}, time stamp", expected=expected, found="none: the month was open")
        return
    month = month or open_month(f"{what}, certificate", receipt.certificate, policy)
    if month.is_provisional:
        raise MonthFailed(f"{what}, certificate", expected="one of a closed month", found=month.name)
    first, end = month.opening.tree_size, month.closing.tree_size
    if not first <= receipt.proof.leaf_index < end:
        raise MonthFailed(
            f"{what}, {month.name}", expected=f"a leaf from {first} to {end - 1}", found=receipt.proof.leaf_index
        )
    if month.closing.checkpoint != receipt.proof.checkpoint:
        raise MonthFailed(
            f"{what}, {month.name}", expected="the checkpoint of the proof as closing one", found="another"
        )
    yield Claim("month", f"{month.name}: leaves {first} to {end - 1}, root {month.closing_root.hex()}")
    stamps = verify_stamps(what, month, receipt.timestamps, policy)
    yield from all_stamp_claims(what, month, stamps, policy, needs_stamp=needs_stamp)


def all_stamp_claims(
    what: str, month: MonthStatement, stamps: Mapping[str, TimeStamp | None], policy: Policy, *, needs_stamp: bool
) -> Iterator[Claim]:
    """As `stamp_claims`; raises `TimestampFailed` when one is needed and missing, or none could be checked."""
    yield from stamp_claims(month, stamps, policy)
    missing = missing_stamps(month, stamps, policy)
    if needs_stamp and (missing or not any(stamps.values())):
        raise TimestampFailed(
            f"{what}, time stamp of {missing[0] if missing else 'an authority that the policy names'}",
            expected="one that can be checked (--require-stamp)",
            found="none",
        )
    if not stamps and not missing:
        yield Claim(STAMP, f"{month.name}: none, and the policy names no authority: {_NO_TIME}", is_checked=False)


def stamp_claims(month: MonthStatement, stamps: Mapping[str, TimeStamp | None], policy: Policy) -> Iterator[Claim]:
    """What the time stamps of a month say, and which the policy names that are not there."""
    for name, stamp in stamps.items():
        yield _stamp_claim(month, name, stamp)
    for name in missing_stamps(month, stamps, policy):
        yield Claim(STAMP, f"{month.name}: none by {name}, which stamps it by the policy: {_NO_TIME}", is_checked=False)


def _stamp_claim(month: MonthStatement, authority: str, stamp: TimeStamp | None) -> Claim:
    """What a time stamp of a month's closing checkpoint says, or that nobody here can tell."""
    if stamp is None:
        said = f"{month.name}: one by {authority}, not checked: the policy names no such authority"
        return Claim(STAMP, said, is_checked=False)
    return Claim(STAMP, f"{month.name}: its closing checkpoint existed {stamp}, authority {authority}")
