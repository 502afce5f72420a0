"""The signer's log: append entries, sign checkpoints, close months; resumes after a kill at any instruction.

Order of every signature: tiles durable -> new tree proved to extend the last signed one, from the files -> checkpoint
remembered beside the keys -> cosigned by the quorum, when the policy has one -> published. One checkpoint at a time is
signed and not published; entries are integrated meanwhile. What was remembered and not published before a crash is
caught up with before anything else: a second checkpoint for the same place could be a fork.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from ledger.builder import TreeBuilder, TreeHead, load_builder
from ledger.checkpoint import Checkpoint
from ledger.errors import HistoryForked, LedgerError, LogDamaged, NotWitnessed, WrongUse
from ledger.events import count_types
from ledger.files import Folder
from ledger.hashing import EMPTY_ROOT
from ledger.keyevents import KEY_EVENTS
from ledger.keyring import LAST_SIGNED, Keyring
from ledger.lock import Lock
from ledger.monthbook import MonthBook, begin_months, resume_months
from ledger.policy import NONE, OpenedCheckpoint
from ledger.proofs import verify_consistency
from ledger.reader import LogReader
from ledger.rotation import require_current_policy, turn_keys, turns_within
from ledger.tiles import CHECKPOINT
from ledger.witness_client import Cosigning, WitnessStanding

LOCK: Final = ".lock"
CREATE_S: Final = 15.0  # for the quorum of a new log's first checkpoint
CLOSE_S: Final = 3.0  # for the quorum of the last one


class LogWriter:
    """One log, one active writer. After any exception it refuses to go on: open the log again."""

    _builder: TreeBuilder
    _book: MonthBook
    _signed: OpenedCheckpoint
    _signed_head: TreeHead
    _remembered: bytes

    def __init__(self, folder: Folder, keyring: Keyring, locks: Sequence[Lock]) -> None:
        self._folder = folder
        self._keyring = keyring
        self._memory = Folder(keyring.folder)
        self._locks = locks
        self._is_usable = True
        self._stop = threading.Event()
        self._promised: OpenedCheckpoint | None = None
        self._pending: tuple[OpenedCheckpoint, TreeHead] | None = None
        self._cosigning: Cosigning | None = None
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
    def pending(self) -> Checkpoint | None:
        """The checkpoint that is signed and waits for its quorum of witnesses."""
        return self._pending[0].checkpoint if self._pending else None

    def witnesses(self) -> list[WitnessStanding]:
        """How each witness stands; empty without a quorum."""
        return self._cosigning.standings() if self._cosigning else []

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
        """Close the months that ended, then sign all that was integrated and publish it, once its quorum is there.

        Returns what was published, None when nothing was. Never waits for a witness. Raises `HistoryForked` instead of
        signing a second history.
        """
        self._begin()
        is_new = False
        if self._promised is None:
            is_new = self._settle(now_ms)
            self._add_late_cosignatures()
            self._book.close_until(now_ms, self._signed, self._signed_head)
            if self._pending is None and self.has_unsigned:
                self._sign_head(self._builder.flush(), now_ms)
                is_new |= self._settle(now_ms)
            self._book.publish_provisional(now_ms, self._signed, self._signed_head)
        self._is_usable = True
        return self.signed if is_new else None

    def close(self, now_ms: int) -> None:
        """Sign what waits and let go of the log."""
        try:
            if self._is_usable:
                self.sign(now_ms)
                while self._pending is not None and self._settle(now_ms, wait_s=CLOSE_S):
                    self.sign(now_ms)
                if self._promised is None:
                    self._book.publish_provisional(now_ms, self._signed, self._signed_head, is_last=True)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the log without signing, as a crash would."""
        self._is_usable = False
        self._stop.set()
        if self._cosigning is not None:
            self._cosigning.close()
        self._folder.close()
        for lock in self._locks:
            lock.release()

    def _begin(self) -> None:
        if not self._is_usable:
            raise WrongUse("the log writer stopped after a failure, or is closed: open the log again")
        self._is_usable = False

    def _sign_head(self, head: TreeHead, now_ms: int) -> None:
        self._require_extension(self._signed, head.tree_size, head.root)
        self._require_unchanged()
        self._turn_keys(head)
        note = self._sign_note(head.tree_size, head.root, now_ms)
        self._pending = self._open_own("new checkpoint", note), head
        self._remember(note)
        self._ask(now_ms)

    def _ask(self, now_ms: int) -> None:
        if self._pending is not None and self._cosigning is not None and self._needs_witnesses():
            self._cosigning.ask(self._pending[0], now_ms // 1000)

    def _needs_witnesses(self) -> bool:
        return self._pending is not None and self._keyring.policy.needs_witnesses(self._pending[0].checkpoint.tree_size)

    def _settle(self, now_ms: int, *, wait_s: float = 0) -> bool:
        """Publish the pending checkpoint if its quorum is there; returns whether it was published."""
        if self._pending is None:
            return False
        opened, head = self._pending
        if self._cosigning is not None and self._needs_witnesses():
            found = self._cosigning.wait(now_ms // 1000, wait_s)
            if found is None:
                return False
            opened = found
            self._require_unchanged()
        self._folder.replace(CHECKPOINT, opened.note)
        self._signed, self._signed_head, self._pending = opened, head, None
        self._builder.remove_finished_partials(head.tree_size)
        return True

    def _add_late_cosignatures(self) -> None:
        """Publish the checkpoint again with what witnesses said after its quorum was there; nothing is taken away."""
        found = self._cosigning.late(self._signed) if self._cosigning is not None else None
        if found is not None:
            self._require_unchanged()
            self._folder.replace(CHECKPOINT, found.note)
            self._signed = found

    def _remember(self, note: bytes) -> None:
        self._memory.replace(LAST_SIGNED, note, mode=0o600)
        self._remembered = note

    def _turn_keys(self, head: TreeHead) -> None:
        """Keys that the new entries add or retire do so before the first checkpoint that covers them is signed."""
        signed = self.signed.tree_size
        is_told = any(head.counts[kind] != self._signed_head.counts[kind] for kind in KEY_EVENTS)
        if is_told or turns_within(self._keyring.policy, signed, head.tree_size):
            entries = LogReader(self._folder, head.tree_size).entries(signed, head.tree_size)
            self._keyring = self._book.keyring = turn_keys(self._keyring, entries, self._signed)
            if self._cosigning is not None:
                self._cosigning.turn(self._keyring.policy)

    def _sign_note(self, tree_size: int, root: bytes, now_ms: int) -> bytes:
        self._signed_at_ms = max(self._signed_at_ms, now_ms)  # the time in checkpoints never goes backwards
        return self._keyring.sign(Checkpoint(self._keyring.origin, tree_size, root), self._signed_at_ms // 1000)

    def _open_own(self, what: str, note: bytes) -> OpenedCheckpoint:
        """A checkpoint that these keys signed, whether or not it has its cosignatures."""
        return self._keyring.policy.without_quorum().open(what, note, origin=self._keyring.origin)

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
        """The checkpoints on disk are those that we know: a signer that slept must not sign beside another."""
        last = self._pending[0] if self._pending else self._signed
        for name, found, known, checkpoint in (
            (CHECKPOINT, self._folder.read(CHECKPOINT), self._signed.note, self._signed.checkpoint),
            (
                str(self._keyring.folder / LAST_SIGNED),
                self._memory.read(LAST_SIGNED),
                self._remembered,
                last.checkpoint,
            ),
        ):
            if found != known:
                raise HistoryForked(
                    f"{name}: nothing was signed",
                    expected=f"the last checkpoint signed here ({checkpoint})",
                    found="none" if found is None else "another one",
                )

    # opening

    def _resume(self, now_ms: int) -> None:
        self._require_no_evidence()
        published, remembered = self._folder.read(CHECKPOINT), self._memory.read(LAST_SIGNED)
        if published is None:
            published, remembered = self._create(now_ms, remembered)
        self._signed = self._keyring.policy.open(CHECKPOINT, published, origin=self._keyring.origin)
        self._begin_cosigning(self._signed)
        require_current_policy(self._keyring, self._signed)
        self._signed_at_ms = (self._signed.at_seconds or 0) * 1000
        checkpoint = self._signed.checkpoint
        self._builder = load_builder(self._folder, checkpoint.tree_size, checkpoint.root, count_types)
        self._compare_memory(remembered)
        self._builder.clear_leftovers()
        self._signed_head = self._builder.head()
        self._book = resume_months(self._folder, self._keyring, self._signed, self._signed_head, self._stop)
        if self._promised is None:
            self._ask_missing(now_ms)
            self._book.close_until(now_ms, self._signed, self._signed_head)
            self._book.publish_provisional(now_ms, self._signed, self._signed_head)

    def _ask_missing(self, now_ms: int) -> None:
        """Whom the signer before us asked in vain is asked again, for what is published."""
        if self._cosigning is not None and self._keyring.policy.needs_witnesses(self.signed.tree_size):
            self._cosigning.ask_missing(self._open_own(LAST_SIGNED, self._remembered), self._signed, now_ms // 1000)

    def _require_no_evidence(self) -> None:
        kept = [name for name in self._memory.names("") if name.startswith(f"{LAST_SIGNED}.evidence-")]
        if kept:
            raise HistoryForked(
                f"{self._keyring.folder / kept[0]} says that another history was signed under these keys: nothing is "
                "signed; find out who did, then move the file away to go on"
            )

    def _begin_cosigning(self, signed: OpenedCheckpoint | None) -> None:
        if self._cosigning is None and self._keyring.policy.quorum != NONE:
            memory = self._keyring.folder / LAST_SIGNED
            self._cosigning = Cosigning(self._keyring.policy, self._folder.root, memory, signed)

    def _create(self, now_ms: int, remembered: bytes | None) -> tuple[bytes, bytes]:
        note = remembered or self._sign_note(0, EMPTY_ROOT, now_ms)
        opened = self._open_own(LAST_SIGNED, note)
        if opened.checkpoint.tree_size:
            raise LogDamaged(
                f"{self._folder.root}: restore the log from a copy",
                expected=f"a log, as these keys signed one ({opened.checkpoint})",
                found="no checkpoint",
            )
        self._remember(note)
        opened = self._cosign_first(opened, now_ms)
        begin_months(self._folder, self._keyring, now_ms, opened)
        self._folder.replace(CHECKPOINT, opened.note)
        return opened.note, note

    def _cosign_first(self, opened: OpenedCheckpoint, now_ms: int) -> OpenedCheckpoint:
        """A new log begins with a checkpoint of nothing; its quorum must be there, as the first month opens at it."""
        self._begin_cosigning(None)
        if self._cosigning is None or not self._keyring.policy.needs_witnesses(0):
            return opened
        self._cosigning.ask(opened, now_ms // 1000)
        found = self._cosigning.wait(now_ms // 1000, CREATE_S)
        if found is None:
            said = "; ".join(f"{at.name}: {at.problem or 'no answer'}" for at in self.witnesses())
            raise NotWitnessed(
                f"first checkpoint of {self._keyring.origin}: its witnesses must answer before the log begins ({said})"
            )
        return found

    def _compare_memory(self, remembered: bytes | None) -> None:
        """Find out whether the log was rolled back, or a crash came between remembering and publishing."""
        if remembered is not None and self._signed.note.startswith(remembered):  # cosignatures stand behind it
            self._remembered = remembered
            return
        if remembered is not None:
            known = self._open_own(LAST_SIGNED, remembered)
            require_current_policy(self._keyring, known)
            self._signed_at_ms = max(self._signed_at_ms, (known.at_seconds or 0) * 1000)
            if known.checkpoint.tree_size > self.signed.tree_size:
                self._promised, self._remembered = known, remembered
                return
            self._require_extension(known, self.signed.tree_size, self.signed.root)
        self._remember(self._signed.note)

    def _keep_promise(self, promised: OpenedCheckpoint) -> None:
        """Go on with what was signed before a crash, once the same entries have led to the same root."""
        head = self._builder.flush()
        if head.root != promised.checkpoint.root:
            raise HistoryForked(
                f"root at size {head.tree_size}",
                expected=f"{promised.checkpoint.root.hex()} as signed before",
                found=f"{head.root.hex()} from the event stream: it lost or changed events",
            )
        self._promised, self._pending = None, (promised, head)
        if self._needs_witnesses():
            self._ask(self._signed_at_ms)
        else:
            self._settle(self._signed_at_ms)
