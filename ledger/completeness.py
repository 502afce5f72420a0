"""Completeness: proof that these are all the events of a subject in a month, or that there are none (LEDGER.md 0.8).

A file of JSON, indented by one space:

    format        COMPLETENESS_FORMAT
    certificate   the month's certificate
    subjects      for each: subject,
                  leaves    its index leaf, or the one or two neighbours between which it would stand:
                            position, leaf, proof in the index tree
                  entries   its events in order: entry, proof in the log at the closing size

What the signer left out of its index is found by the audit, which computes the index from the entries. A gap in the
versions of the events is found here already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.encoding import decode_base64, encode_base64
from ledger.errors import LogDamaged, Malformed, MonthFailed, NotYetSigned, ProofFailed, excerpt
from ledger.events import subject_of, version_of
from ledger.files import Source, require
from ledger.hashing import HASH_BYTES, leaf_hash, perfect_root, tree_root
from ledger.index import IndexHead, index_leaves, split_index_leaf, subject_key
from ledger.months import MonthStatement, certificate_path, open_month
from ledger.policy import Policy
from ledger.proofs import Node, prove_inclusion, verify_inclusion
from ledger.reader import LogReader
from ledger.receipt import Claim
from ledger.tiles import CHECKPOINT

COMPLETENESS_FORMAT: Final = "https://tallyroot.example/completeness/v1"


@dataclass(frozen=True, slots=True)
class IndexProof:
    """An index leaf at its position."""

    position: int
    leaf: bytes
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EntryProof:
    """An entry, whose leaf index the index leaf names."""

    entry: bytes
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SubjectProof:
    subject: str
    leaves: tuple[IndexProof, ...]
    entries: tuple[EntryProof, ...]


@dataclass(frozen=True, slots=True)
class Completeness:
    """All events of some subjects in one month."""

    certificate: bytes
    subjects: tuple[SubjectProof, ...]

    def __bytes__(self) -> bytes:
        value = {
            "format": COMPLETENESS_FORMAT,
            "certificate": self.certificate.decode(),
            "subjects": [_subject_json(proof) for proof in self.subjects],
        }
        return json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n"


def _subject_json(proof: SubjectProof) -> dict[str, Any]:
    leaves = [
        {"position": leaf.position, "leaf": encode_base64(leaf.leaf), "proof": [*map(encode_base64, leaf.hashes)]}
        for leaf in proof.leaves
    ]
    entries = [
        {"entry": encode_base64(entry.entry), "proof": [*map(encode_base64, entry.hashes)]} for entry in proof.entries
    ]
    return {"subject": proof.subject, "leaves": leaves, "entries": entries}


def parse_completeness(what: str, data: bytes) -> Completeness:
    """Read the file; raises `Malformed` unless writing it again gives the same bytes. Nothing is verified."""
    try:
        value = json.loads(data)
        if value["format"] != COMPLETENESS_FORMAT:
            raise Malformed(f"{what}, format", expected=COMPLETENESS_FORMAT, found=excerpt(str(value["format"])))
        proof = Completeness(
            value["certificate"].encode(), tuple(_parse_subject(what, subject) for subject in value["subjects"])
        )
        is_same = bytes(proof) == data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise Malformed(
            what, expected="a proof of completeness in JSON", found=excerpt(f"{type(err).__name__} {err}")
        ) from err
    if not is_same:
        raise Malformed(what, expected="the proof's one canonical form", found="other spaces, keys or escapes")
    return proof


def _parse_subject(what: str, value: Any) -> SubjectProof:
    def hashes(texts: Any) -> tuple[bytes, ...]:
        return tuple(decode_base64(f"{what}, hash", text, HASH_BYTES) for text in texts)

    leaves = tuple(
        IndexProof(_position(leaf["position"]), decode_base64(f"{what}, leaf", leaf["leaf"]), hashes(leaf["proof"]))
        for leaf in value["leaves"]
    )
    entries = tuple(
        EntryProof(decode_base64(f"{what}, entry", entry["entry"]), hashes(entry["proof"]))
        for entry in value["entries"]
    )
    return SubjectProof(str(value["subject"]), leaves, entries)


def _position(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{excerpt(str(value))} where a position belongs")
    return value


# verifying


def verify_completeness(what: str, proof: Completeness, policy: Policy) -> Iterator[Claim]:
    """Check a proof against a policy, claim by claim; raises a `LedgerError` at the first no."""
    month = open_month(f"{what}, certificate", proof.certificate, policy)
    if month.index is None:
        raise MonthFailed(f"{what}, certificate", expected="one of a closed month", found=month.name)
    first, end = month.opening.tree_size, month.closing.tree_size
    yield Claim(
        "month", f"{month.name} of {month.origin}: leaves {first} to {end - 1}, {month.index.subjects} subjects"
    )
    if not proof.subjects:
        raise ProofFailed(what, expected="at least one subject", found="none")
    for subject in proof.subjects:
        yield Claim("complete", _verify_subject(f"{what}, {excerpt(subject.subject)}", subject, month, month.index))


def _verify_subject(what: str, proof: SubjectProof, month: MonthStatement, index: IndexHead) -> str:
    key = subject_key(proof.subject)
    keys = []
    for leaf in proof.leaves:
        verify_inclusion(leaf.position, index.subjects, leaf_hash(leaf.leaf), leaf.hashes, index.root)
        keys.append(split_index_leaf(leaf.leaf)[0])
    if keys == [key]:
        return _verify_entries(what, proof, month)
    _require_absent(what, key, [leaf.position for leaf in proof.leaves], keys, index.subjects)
    if proof.entries:
        raise ProofFailed(what, expected="no entries, as the index has none", found=len(proof.entries))
    return f"{proof.subject} has no events in {month.month}"


def _require_absent(what: str, key: bytes, positions: list[int], keys: list[bytes], subjects: int) -> None:
    """The key would stand between two neighbours, before the first leaf, or after the last."""
    match positions:
        case []:
            is_absent = subjects == 0
        case [0] if key < keys[0]:
            is_absent = True
        case [last] if key > keys[0]:
            is_absent = last == subjects - 1
        case [left, right]:
            is_absent = right == left + 1 and keys[0] < key < keys[1]
        case _:
            is_absent = False
    if not is_absent:
        raise ProofFailed(what, expected="its index leaf, or the neighbours between which it would stand")


def _verify_entries(what: str, proof: SubjectProof, month: MonthStatement) -> str:
    _, indexes = split_index_leaf(proof.leaves[0].leaf)
    first, end = month.opening.tree_size, month.closing.tree_size
    if len(indexes) != len(proof.entries):
        raise ProofFailed(what, expected=f"{len(indexes)} entries, as the index has", found=len(proof.entries))
    versions = []
    for leaf_index, entry in zip(indexes, proof.entries, strict=True):
        if not first <= leaf_index < end:
            raise ProofFailed(what, expected=f"leaves from {first} to {end - 1}", found=leaf_index)
        verify_inclusion(leaf_index, end, leaf_hash(entry.entry), entry.hashes, month.closing_root)
        if subject_of(entry.entry) != proof.subject:
            raise ProofFailed(
                f"{what}, entry {leaf_index}", expected="an event of it", found=excerpt(subject_of(entry.entry))
            )
        versions.append(version_of(entry.entry))
    wanted = list(range(versions[0], versions[0] + len(versions)))
    if versions != wanted:
        at = next(at for at, version in enumerate(versions) if version != wanted[at])
        raise ProofFailed(f"{what}, entry {indexes[at]}", expected=f"version {wanted[at]}", found=versions[at])
    return (
        f"{proof.subject} has exactly {len(versions)} events in {month.month}, versions {versions[0]} to {versions[-1]}"
    )


# proving


def prove_completeness(source: Source, policy: Policy, month_name: str, subjects: Sequence[str]) -> Completeness:
    """Prove from the published files what subjects did in a closed month, and verify it before it is handed out."""
    path = certificate_path(month_name)
    certificate = source.read(path)
    if certificate is None:
        raise NotYetSigned(f"{month_name} has no certificate: it is open, or before the log began (tally roots list)")
    month = open_month(path, certificate, policy)
    size = policy.open(CHECKPOINT, require(source, CHECKPOINT)).checkpoint.tree_size
    reader = LogReader(source, size)
    first, end = month.opening.tree_size, month.closing.tree_size
    keys = {subject_key(subject): subject for subject in subjects}
    hashes: list[bytes] = []
    found: dict[bytes, list[tuple[int, bytes]]] = {}
    before: list[tuple[int, bytes]] = []
    for leaf in index_leaves(lambda: reader.entries(first, end), end - first):
        here = (len(hashes), leaf)
        for key in keys:
            if key not in found and leaf[:HASH_BYTES] >= key:
                found[key] = [here] if leaf[:HASH_BYTES] == key else [*before, here]
        before = [here]
        hashes.append(leaf_hash(leaf))
    if month.index != IndexHead(tree_root(hashes), len(hashes)):
        raise LogDamaged(f"{path}, index", expected=f"root {tree_root(hashes).hex()} from the entries")
    proofs = [_subject_proof(subject, found.get(key, before), hashes, reader, end) for key, subject in keys.items()]
    proof = Completeness(certificate, tuple(proofs))
    for _ in verify_completeness("new proof", proof, policy):
        pass
    return proof


def _subject_proof(
    subject: str, leaves: list[tuple[int, bytes]], hashes: list[bytes], reader: LogReader, end: int
) -> SubjectProof:
    def read(nodes: Sequence[Node]) -> list[bytes]:
        return [perfect_root(hashes[n.number << n.level : (n.number + 1) << n.level]) for n in nodes]

    shown = tuple(IndexProof(at, leaf, tuple(prove_inclusion(at, len(hashes), read))) for at, leaf in leaves)
    entries: tuple[EntryProof, ...] = ()
    if len(leaves) == 1:
        key, indexes = split_index_leaf(leaves[0][1])
        if key == subject_key(subject):
            entries = tuple(EntryProof(reader.entry(at), tuple(reader.inclusion_proof(at, end))) for at in indexes)
    return SubjectProof(subject, shown, entries)
