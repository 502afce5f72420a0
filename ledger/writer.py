"""The signer's log: append entries, sign checkpoints, close months; resumes after a kill at any instruction.

Order of every signature: tiles durable -> new tree proved to extend the last signed one, from the files -> checkpoint
remembered beside the keys -> published. What was remembered and not published is caught up with before anything else:
a second checkpoint for the same place could be a fork.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from ledger.builder import TreeBuilder, TreeHead, load_builder
from ledger.checkpoint import Checkpoint
from ledger.errors import HistoryForked, LedgerError, LogDamaged, WrongUse
from ledger.events import type_of
from ledger.files import Folder
from ledger.hashing import EMPTY_ROOT
from ledger.keyring import LAST_SIGNED, Keyring
from ledger.lock import Lock
from ledger.monthbook import MonthBook, begin_months, resume_months
from ledger.policy import OpenedCheckpoint
from ledger.proofs import verify_consistency
from ledger.reader import LogReader
from ledger.tiles import CHECKPOINT

LOCK: Final = ".lock"


class LogWriter:
    """One log, one active writer. After any exception it refuses to go on: open the log again."""

    _builder: TreeBuilder
    _book: MonthBook
    _signed: OpenedCheckpoint
    _signed_head: TreeHead

    def __init__(self, folder: Folder, keyring: Keyring, locks: Sequence[Lock]) -> None:
        self._folder = folder
        self._keyring = keyring
        self._memory = Folder(keyring.folder)
        self._locks = locks
        self._is_usable = True
        self._stop = threading.Event()
        self._promised: OpenedCheckpoint | None = None
        self._signed_at_ms = 0

    @classmethod
    def open(cls, log_dir: Path, keyring: Keyring, now_ms: int, *, folder: Folder | None = None) -> Self:
        """Take the log; verifies its right edge, and closes the months that ended meanwhile.

        Raises `SignerLocked` when another writer has it, `LogDamaged` or `HistoryForked` when it is not as signed.
        """
        locks = [Lock(keyring.folder / LOCK)]
        writer = cls(folder or Folder(log_dir), keyring, locks)
        try:
            locks.append(Lock(log_dir / LOCK))
            writer._resume(now_ms)
        except BaseException:
            writer.abandon()
            raise
        return writer

    @property
    def tree_size(self) -> int:
        """Entries integrated, signed or not."""
        return self._builder.tree_size

    @property
    def signed(self) -> Checkpoint:
        """The last checkpoint that was published."""
        return self._signed.checkpoint

    @property
    def last_leaf(self) -> bytes:
        """Leaf hash of the last entry integrated, empty when there is none."""
        return self._builder.last_leaf

    @property
    def has_unsigned(self) -> bool:
        return self.tree_size > self.signed.tree_size

    @property
    def month(self) -> str:
        """The open month."""
        return self._book.month

    def append(self, entries: Sequence[bytes]) -> None:
        """Integrate entries behind the last one; they are promised to nobody before `sign`."""
        self._begin()
        at = 0
        if self._promised is not None:
            missing = self._promised.checkpoint.tree_size - self.tree_size
            at = min(missing, len(entries))
            self._builder.append(entries[:at])
            if at == missing:
                self._keep_promise(self._promised)
        self._builder.append(entries[at:])
        self._is_usable = True

    def sign(self, now_ms: int) -> Checkpoint | None:
        """Close the months that ended, then publish a checkpoint over all that was integrated.

        Returns it, or None when nothing is unsigned. Raises `HistoryForked` instead of signing a second history.
        """
        self._begin()
        is_new = False
        if self._promised is None:
            self._book.close_until(now_ms, self._signed, self._signed_head)
            is_new = self.has_unsigned
            if is_new:
                self._publish(self._builder.flush(), now_ms)
                self._builder.remove_finished_partials()
            self._book.publish_provisional(now_ms, self._signed, self._signed_head)
        self._is_usable = True
        return self.signed if is_new else None

    def close(self, now_ms: int) -> None:
        """Sign what waits and let go of the log."""
        try:
            if self._is_usable:
                self.sign(now_ms)
                if self._promised is None:
                    self._book.publish_provisional(now_ms, self._signed, self._signed_head, is_last=True)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the log without signing, as a crash would."""
        self._is_usable = False
        self._stop.set()
        self._folder.close()
        for lock in self._locks:
            lock.release()

    def _begin(self) -> None:
        if not self._is_usable:
            raise WrongUse("the log writer stopped after a failure, or is closed: open the log again")
        self._is_usable = False

    def _publish(self, head: TreeHead, now_ms: int) -> None:
        self._require_extension(self._signed, head.tree_size, head.root)
        self._require_unchanged()
        note = self._sign_note(head.tree_size, head.root, now_ms)
        opened = self._open_own("new checkpoint", note)
        self._memory.replace(LAST_SIGNED, note, mode=0o600)
        self._folder.replace(CHECKPOINT, note)
        self._signed, self._signed_head = opened, head

    def _sign_note(self, tree_size: int, root: bytes, now_ms: int) -> bytes:
        self._signed_at_ms = max(self._signed_at_ms, now_ms)  # the time in checkpoints never goes backwards
        return self._keyring.sign(Checkpoint(self._keyring.origin, tree_size, root), self._signed_at_ms // 1000)

    def _open_own(self, what: str, note: bytes) -> OpenedCheckpoint:
        return self._keyring.policy.open(what, note, origin=self._keyring.origin)

    def _require_extension(self, old: OpenedCheckpoint, new_size: int, new_root: bytes) -> None:
        """Prove from the files that a tree extends a signed one; raises `HistoryForked`."""
        old_size, old_root = old.checkpoint.tree_size, old.checkpoint.root
        if old_size == 0:
            return
        try:
            proof = LogReader(self._folder, new_size).consistency_proof(old_size)
            verify_consistency(old_size, new_size, old_root, new_root, proof)
        except LedgerError as err:
            raise HistoryForked(
                f"tree of size {new_size} with root {new_root.hex()} does not extend the last one signed "
                f"({old.checkpoint}): nothing was signed; {err}"
            ) from err

    def _require_unchanged(self) -> None:
        """The published checkpoint is the one that we know: a signer that slept must not sign beside another."""
        for name, found in (
            (CHECKPOINT, self._folder.read(CHECKPOINT)),
            (str(self._keyring.folder / LAST_SIGNED), self._memory.read(LAST_SIGNED)),
        ):
            if found != self._signed.note:
                raise HistoryForked(
                    f"{name}: nothing was signed",
                    expected=f"the last checkpoint signed here ({self._signed.checkpoint})",
                    found="none" if found is None else "another one",
                )

    # opening

    def _resume(self, now_ms: int) -> None:
        published, remembered = self._folder.read(CHECKPOINT), self._memory.read(LAST_SIGNED)
        if published is None:
            published = remembered = self._create(now_ms, remembered)
        self._signed = self._open_own(CHECKPOINT, published)
        self._signed_at_ms = (self._signed.at_seconds or 0) * 1000
        checkpoint = self._signed.checkpoint
        self._builder = load_builder(self._folder, checkpoint.tree_size, checkpoint.root, type_of)
        self._compare_memory(remembered)
        self._builder.clear_leftovers()
        self._signed_head = self._builder.head()
        self._book = resume_months(self._folder, self._keyring, self._signed, self._signed_head, self._stop)
        if self._promised is None:
            self._book.close_until(now_ms, self._signed, self._signed_head)
            self._book.publish_provisional(now_ms, self._signed, self._signed_head)

    def _create(self, now_ms: int, remembered: bytes | None) -> bytes:
        note = remembered or self._sign_note(0, EMPTY_ROOT, now_ms)
        opened = self._open_own(LAST_SIGNED, note)
        if opened.checkpoint.tree_size:
            raise LogDamaged(
                f"{self._folder.root}: restore the log from a copy",
                expected=f"a log, as these keys signed one ({opened.checkpoint})",
                found="no checkpoint",
            )
        begin_months(self._folder, self._keyring, now_ms, opened)
        self._memory.replace(LAST_SIGNED, note, mode=0o600)
        self._folder.replace(CHECKPOINT, note)
        return note

    def _compare_memory(self, remembered: bytes | None) -> None:
        """Find out whether the log was rolled back, or a crash came between remembering and publishing."""
        if remembered == self._signed.note:
            return
        if remembered is not None:
            known = self._open_own(LAST_SIGNED, remembered)
            self._signed_at_ms = max(self._signed_at_ms, (known.at_seconds or 0) * 1000)
            if known.checkpoint.tree_size > self.signed.tree_size:
                self._promised = known
                return
            self._require_extension(known, self.signed.tree_size, self.signed.root)
        self._memory.replace(LAST_SIGNED, self._signed.note, mode=0o600)

    def _keep_promise(self, promised: OpenedCheckpoint) -> None:
        """Publish what was signed before a crash, once the same entries have led to the same root."""
        head = self._builder.flush()
        if head.root != promised.checkpoint.root:
            raise HistoryForked(
                f"root at size {head.tree_size}",
                expected=f"{promised.checkpoint.root.hex()} as signed before",
                found=f"{head.root.hex()} from the event stream: it lost or changed events",
            )
        self._folder.replace(CHECKPOINT, promised.note)
        self._signed, self._signed_head, self._promised = promised, head, None
