"""What a witness knows, and what it answers: one log, one recorded checkpoint, which only ever grows.

state/<SHA-256 of the origin in hex>/checkpoint       the latest checkpoint cosigned, as a note: text, log, cosignatures

The file carries the witness's own cosignature, so that a damaged one is not believed. A cosignature leaves only after
the file that it stands in is durable; compare, sign, persist happen under one lock per log. Nothing is tried again
after a failed write: that log is refused until the witness is started anew, from what the disk then holds.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Self

from ledger.checkpoint import Checkpoint, parse_checkpoint, verify_signature
from ledger.errors import (
    EmptyRootWrong,
    HistoryForked,
    LedgerError,
    LogDamaged,
    Malformed,
    ProofFailed,
    SignatureFailed,
    excerpt,
)
from ledger.files import Folder
from ledger.history import keep_evidence
from ledger.keys import SigningKey
from ledger.lock import Lock
from ledger.note import Note, VerifierKey
from ledger.policy import Policy
from ledger.tiles import CHECKPOINT
from ledger.witness import SIZE_TYPE, AddCheckpoint, checkpoint_path, parse_request, require_extends

STATE: Final = "state"
LOCK: Final = ".lock"
EVIDENCE_MAX: Final = 16  # for each log: a note that only its operator can sign is kept, but not without end


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


@dataclass(slots=True)
class _Log:
    """One log: its keys, and the latest checkpoint cosigned with the note that says so."""

    policy: Policy
    folder: Folder
    checkpoint: Checkpoint | None = None
    note: bytes = b""
    is_stopped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def tree_size(self) -> int:
        return self.checkpoint.tree_size if self.checkpoint else 0


class Witness:
    """All logs of one witness; its methods may be called from many threads."""

    def __init__(self, base: Path, keys: Sequence[SigningKey], policies: Sequence[Policy]) -> None:
        """Take the state folder below `base` and read it; raises `SignerLocked` or `LogDamaged`."""
        self._keys = tuple(keys)
        self._lock = Lock(base / LOCK)
        try:
            self._logs = {
                origin: self._load(base / STATE, origin, policy.of_log(origin))
                for policy in policies
                for origin in sorted({log.key.name for log in policy.logs})
            }
            self._by_path = {checkpoint_path(origin): log for origin, log in self._logs.items()}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._lock.release()

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        return tuple(key.key for key in self._keys)

    @property
    def logs(self) -> dict[str, tuple[Policy, Checkpoint | None]]:
        """By origin: the policy with the log's keys, and what is recorded."""
        return {origin: (log.policy, log.checkpoint) for origin, log in self._logs.items()}

    def checkpoint_at(self, path: str) -> bytes | None:
        """The latest checkpoint that was cosigned, by `checkpoint_path`."""
        log = self._by_path.get(path)
        return log.note or None if log else None

    def add_checkpoint(self, body: bytes, now_seconds: int) -> Answer:
        """Answer one request; a 200 has been persisted."""
        try:
            request = parse_request(body)
            checkpoint, note = parse_checkpoint("checkpoint", request.note)
        except EmptyRootWrong as err:
            return _refusal(422, err)
        except Malformed as err:
            return _refusal(400, err)
        log = self._logs.get(checkpoint.origin)
        if log is None:
            return _refusal(404, f"origin {excerpt(checkpoint.origin)}: this witness does not know the log")
        try:
            log.policy.open(CHECKPOINT, request.note, origin=checkpoint.origin)
        except SignatureFailed as err:
            return _refusal(403, err)
        if request.old_size > checkpoint.tree_size:
            return _refusal(400, f"old size {request.old_size}: larger than the checkpoint's {checkpoint.tree_size}")
        with log.lock:
            return self._decide(log, request, checkpoint, note, now_seconds)

    def _decide(
        self, log: _Log, request: AddCheckpoint, checkpoint: Checkpoint, note: Note, now_seconds: int
    ) -> Answer:
        if log.is_stopped:
            return _refusal(500, f"{checkpoint.origin}: stopped after a failed write; start the witness again")
        known, size = log.checkpoint, log.tree_size
        self._keep_split_view(log, checkpoint, request.note)
        if request.old_size != size:
            return Answer(409, f"{size}\n".encode(), SIZE_TYPE)
        try:
            require_extends(size, known.root if known else b"", checkpoint.tree_size, checkpoint.root, request.proof)
        except ProofFailed as err:
            return _refusal(422, err)
        cosignatures = tuple(key.sign_checkpoint(checkpoint, now_seconds) for key in self._keys)
        if known != checkpoint:
            by_log = tuple(line for key in log.policy.logs for line in note.by(key.key))
            self._record(log, checkpoint, bytes(Note(note.text, by_log + cosignatures)))
        return Answer(200, "".join(map(str, cosignatures)).encode())

    def adopt(self, origin: str, note: bytes) -> None:
        """Record a checkpoint that this witness cosigned, as its own signature shows, and no longer knows of."""
        log = self._logs[origin]
        checkpoint, _ = self._open_own(origin, note)
        with log.lock:
            self._record(log, checkpoint, note)

    def has_cosigned(self, note: Note, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint bears a cosignature of this witness; raises `SignatureFailed` when it is a bad one."""
        lines = [(key, line) for key in self.keys for line in note.by(key)]
        return any(verify_signature(CHECKPOINT, checkpoint, key, line) for key, line in lines)

    def _record(self, log: _Log, checkpoint: Checkpoint, note: bytes) -> None:
        log.is_stopped = True  # until all of it is durable
        if log.folder.read(CHECKPOINT) != (log.note or None):
            raise HistoryForked(f"{log.folder.root / CHECKPOINT}: changed by somebody else while this witness runs")
        log.folder.replace(CHECKPOINT, note)
        log.folder.sync()  # the names of new folders too
        log.checkpoint, log.note, log.is_stopped = checkpoint, note, False

    def _keep_split_view(self, log: _Log, found: Checkpoint, note: bytes) -> None:
        """Two roots of one size under the log's signature convict its operator, whatever the request is worth."""
        known = log.checkpoint
        if known is None or known.tree_size != found.tree_size or known.root == found.root:
            return
        names = [name for name in log.folder.names("") if ".evidence-" in name]
        if len(names) < EVIDENCE_MAX:
            problem = HistoryForked(f"split view of {found.origin}: two roots of one size", expected=known, found=found)
            keep_evidence(log.folder.root / CHECKPOINT, problem, log.note, note)

    def _load(self, state: Path, origin: str, policy: Policy) -> _Log:
        log = _Log(policy, Folder((state / checkpoint_path(origin)).parent))
        data = log.folder.read(CHECKPOINT)
        if data is not None:
            log.checkpoint, log.note = self._open_own(origin, data)
        return log

    def _open_own(self, origin: str, data: bytes) -> tuple[Checkpoint, bytes]:
        what = f"recorded checkpoint of {origin}"
        labels = " or ".join(key.label for key in self.keys)
        try:
            checkpoint, note = parse_checkpoint(what, data)
            is_own = checkpoint.origin == origin and self.has_cosigned(note, checkpoint)
        except LedgerError as err:
            raise LogDamaged(f"{what}: restore the state, never remove it; {err}") from err
        if not is_own:
            raise LogDamaged(f"{what}: restore the state", expected=f"a cosignature by {labels}", found="none")
        return checkpoint, data


def _refusal(status: int, problem: object) -> Answer:
    return Answer(status, f"{problem}\n".encode())
