"""Receipts from a large log: how long one takes to make from cold tiles, and to verify."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from benchmarks.big_log import MONTH_ENTRIES, MONTHS, BigLog, big_log
from benchmarks.measurement import Measurement
from ledger.files import Folder, require
from ledger.policy import Policy
from ledger.primitives import is_ed25519_signature, is_ml_dsa_44_signature
from ledger.reader import LogReader
from ledger.receipt import Receipt, TlogProof, parse_receipt, prove_entry, verify_proof, verify_receipt
from ledger.tiles import CHECKPOINT

ENTRIES_PER_PLAYER: Final = 100
PROOFS: Final = 300
SEED: Final = 5
LIMIT_MS: Final = 5.0
COLD: Final = (
    "posix_fadvise(DONTNEED) on each file that the proof reads, once all of the log was on the disk: what they hold "
    "comes from there. The system still knows where the files are (directories, "
    "inodes), and Python has its code loaded; no signature that was verified before is remembered"
)


Provable = Receipt | TlogProof


class Taken(NamedTuple):
    """What one proof took, in seconds."""

    wall: float
    cpu: float


class _Recording(Folder):
    """Remembers which files were read, and which of them together."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.turns: list[list[str]] = []

    def read(self, path: str) -> bytes | None:
        self.turns.append([path])
        return super().read(path)

    def read_all(self, paths: Sequence[str]) -> list[bytes | None]:
        self.turns.append(list(paths))
        return super().read_all(paths)

    def forget(self) -> None:
        """Drop what was read from memory."""
        for turn in self.turns:
            for path in turn:
                _forget(self.root / path)


def proof_p99_ms(*, rounds: int, size: int) -> Measurement:
    """Milliseconds for a receipt (entry, inclusion proof, checkpoint) of a random entry, its files not in memory."""
    with big_log(size * ENTRIES_PER_PLAYER) as log:
        return proof_p99_ms_on(log, proofs=rounds * PROOFS)


def proof_p99_ms_on(log: BigLog, *, proofs: int) -> Measurement:
    """Each receipt is made twice: to learn which files it reads and drop them from memory, then with the clock."""
    dice = random.Random(SEED)
    cold, bare, files, warm, verified = [], [], [], [], []
    for _ in range(proofs):
        leaf_index = dice.randrange(log.tree_size)
        receipt, taken, read = _cold(prove_entry, log, leaf_index)
        cold.append((leaf_index < MONTHS * MONTH_ENTRIES, taken))
        bare.append(_cold(_prove_bare, log, leaf_index)[1])
        files.append(_read_again(read))
        _forget_signatures()
        began = time.perf_counter()
        list(verify_receipt("receipt", parse_receipt("receipt", receipt), log.policy))
        verified.append(time.perf_counter() - began)
        began = time.perf_counter()
        prove_entry(Folder(log.folder.root), log.policy, leaf_index)
        warm.append(time.perf_counter() - began)
    closed, still_open = ([taken for is_closed, taken in cold if is_closed is kind] for kind in (True, False))
    seconds, cpu = zip(*(taken for _, taken in cold), strict=True)
    return Measurement(
        value=_p99_ms(seconds),
        unit="ms",
        of=f"making a receipt, {log.tree_size:,} entries, tiles not in memory; baseline: the limit",
        baseline=LIMIT_MS,
        details={
            "entries": log.tree_size,
            "proofs": proofs,
            "p50_ms": _ms(median(seconds)),
            "processor_p50_ms": _ms(median(cpu)),
            "processor_p99_ms": _p99_ms(cpu),
            "in_first_24_months": _spread(closed),
            "in_the_open_month": _spread(still_open),
            "tlog_proof_alone": _spread(bare),
            "its_files_read_and_nothing_else": _spread(files),
            "warm_p99_ms": _p99_ms(warm),
            "verify_p99_ms": _p99_ms(verified),
            "verify_limit_ms": 20.0,
            "cold": COLD,
        },
    )


def _cold(
    prove: Callable[[Folder, Policy, int], Provable], log: BigLog, leaf_index: int
) -> tuple[bytes, Taken, _Recording]:
    """What is proved, made once more when none of the files that it takes is in memory; what that took; the files."""
    source = _Recording(log.folder.root)
    prove(source, log.policy, leaf_index)
    source.forget()
    _forget_signatures()
    began, cpu_began = time.perf_counter(), time.process_time()
    made = bytes(prove(Folder(log.folder.root), log.policy, leaf_index))
    return made, Taken(time.perf_counter() - began, time.process_time() - cpu_began), source


def _read_again(read: _Recording) -> Taken:
    """What it takes to read the same files in the same turns, none in memory: no proof can be faster on this disk."""
    read.forget()
    folder = Folder(read.root)
    began, cpu_began = time.perf_counter(), time.process_time()
    for turn in read.turns:
        folder.read_all(turn)
    return Taken(time.perf_counter() - began, time.process_time() - cpu_began)


def _prove_bare(source: Folder, policy: Policy, leaf_index: int) -> TlogProof:
    """A tlog-proof under the last checkpoint, verified with its entry: a receipt without a month."""
    opened = policy.open(CHECKPOINT, require(source, CHECKPOINT))
    tree_size = opened.checkpoint.tree_size
    entry, hashes = LogReader(source, tree_size).proved_entry(leaf_index, tree_size, {})
    proof = TlogProof(leaf_index, tuple(hashes), opened.note)
    for _ in verify_proof("new proof", entry, proof, policy, opened=opened):
        pass
    return proof


def _spread(taken: Sequence[Taken]) -> dict[str, float]:
    if not taken:
        return {"proofs": 0}
    seconds, cpu = zip(*taken, strict=True)
    return {
        "proofs": len(taken),
        "p50_ms": _ms(median(seconds)),
        "p99_ms": _p99_ms(seconds),
        "processor_p50_ms": _ms(median(cpu)),
        "processor_p99_ms": _p99_ms(cpu),
    }


def _forget(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _forget_signatures() -> None:
    """What this process has verified before is not for the figures of another."""
    is_ed25519_signature.cache_clear()
    is_ml_dsa_44_signature.cache_clear()


def _p99_ms(seconds: Sequence[float]) -> float:
    return _ms(sorted(seconds)[min(len(seconds) * 99 // 100, len(seconds) - 1)])


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
