"""What an auditor knows from before: a checkpoint that was good once must be a part of every later log.

A chain or a tree alone cannot show that its tail was cut off, or that others were shown another one; a remembered
checkpoint can. On a conflict both signed notes go into an evidence file: together they convict the log's operator.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from ledger.checkpoint import Checkpoint
from ledger.errors import HistoryForked, LedgerError
from ledger.files import Folder
from ledger.policy import FUTURE_SECONDS_MAX, OpenedCheckpoint
from ledger.proofs import verify_consistency
from ledger.reader import LogReader

EVIDENCE_FORMAT: Final = "https://tallyroot.example/evidence/v1"


def require_later(known: OpenedCheckpoint, found: OpenedCheckpoint) -> None:
    """Compare two signed checkpoints by what they say themselves; raises `HistoryForked`."""
    old, new = known.checkpoint, found.checkpoint
    if old.origin != new.origin:
        raise HistoryForked("remembered checkpoint: another log", expected=old.origin, found=new.origin)
    if new.tree_size < old.tree_size:
        raise HistoryForked("rollback: the log is smaller than it was", expected=f"at least {old}", found=new)
    if new.tree_size == old.tree_size and new.root != old.root:
        raise HistoryForked("split view: two checkpoints of one size are signed", expected=old, found=new)
    if new.tree_size > old.tree_size and _is_before(found.at_seconds, known.at_seconds):
        raise HistoryForked(
            "time of the checkpoint goes backwards",
            expected=f"{known.at_seconds} or later for {new}",
            found=found.at_seconds,
        )


def _is_before(found: int | None, known: int | None) -> bool:
    return found is not None and known is not None and found < known


def require_same_beginning(known: Checkpoint, root_then: bytes) -> None:
    """The root that the log's entries give at the remembered size; raises `HistoryForked`."""
    if root_then != known.root:
        raise HistoryForked(
            f"fork: the first {known.tree_size} entries are not those that were signed",
            expected=f"root {known.root.hex()}",
            found=root_then.hex(),
        )


def prove_extension(known: OpenedCheckpoint, found: OpenedCheckpoint, reader: LogReader) -> list[bytes]:
    """The consistency proof between two checkpoints, from the tiles, verified; raises `HistoryForked`."""
    require_later(known, found)
    old, new = known.checkpoint, found.checkpoint
    if old.tree_size == 0:
        return []
    try:
        proof = reader.consistency_proof(old.tree_size, new.tree_size)
        verify_consistency(old.tree_size, new.tree_size, old.root, new.root, proof)
    except LedgerError as err:
        raise HistoryForked(f"fork: {new} is not shown to extend {old}: {err}") from err
    return proof


def require_fresh(found: OpenedCheckpoint, now_seconds: int, max_age_seconds: int) -> None:
    """Refuse a checkpoint from the future, and one older than allowed or of unknown age; raises `HistoryForked`."""
    at_seconds = found.at_seconds
    if at_seconds is not None and at_seconds > now_seconds + FUTURE_SECONDS_MAX:
        raise HistoryForked("checkpoint from the future", expected=f"at most {now_seconds}", found=at_seconds)
    age = "unknown: no timed signature" if at_seconds is None else now_seconds - at_seconds
    if isinstance(age, str) or age > max_age_seconds:
        raise HistoryForked("frozen log: age of the checkpoint", expected=f"at most {max_age_seconds} s", found=age)


def write_evidence(beside: Path, problem: HistoryForked, known: OpenedCheckpoint, found: OpenedCheckpoint) -> Path:
    """Keep both signed notes in a new file beside the remembered checkpoint; returns where."""
    return keep_evidence(beside, problem, known.note, found.note)


def keep_evidence(beside: Path, problem: LedgerError, known: bytes, found: bytes) -> Path:
    """Keep a known note and what was found instead in a new file beside another; returns where."""
    number = 1
    while (path := beside.with_name(f"{beside.name}.evidence-{number}.json")).exists():
        number += 1
    value = {
        "format": EVIDENCE_FORMAT,
        "problem": str(problem),
        "remembered": known.decode(),
        "found": found.decode("utf-8", "replace"),
    }
    Folder(path.parent).replace(path.name, json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n")
    return path
