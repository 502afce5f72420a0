"""The signer's month: which one is open, where it opened, and closing it into a certificate."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ledger.builder import TreeHead
from ledger.errors import HistoryForked, LedgerError, MonthFailed
from ledger.events import type_of
from ledger.files import Folder, require
from ledger.hashing import EMPTY_ROOT, FIRST_LINK
from ledger.index import IndexHead, index_head
from ledger.keyring import Keyring
from ledger.months import (
    ROOTS,
    MonthStatement,
    TreeState,
    certificate_path,
    month_of,
    next_month,
    open_month,
    provisional_path,
    require_successor,
    seal,
    split_root_name,
)
from ledger.policy import OpenedCheckpoint
from ledger.proofs import verify_consistency
from ledger.reader import LogReader

PROVISIONAL_EVERY_MS: Final = 1_000
MONTHS_AT_ONCE_MAX: Final = 120  # certificates are for ever: a clock that is years ahead must not write them


class MonthBook:
    """State of the open month; every method takes the last checkpoint signed and its tree head."""

    def __init__(
        self,
        folder: Folder,
        keyring: Keyring,
        month: str,
        opening: TreeState,
        previous: MonthStatement | None = None,
    ) -> None:
        self._folder = folder
        self._keyring = keyring
        self.month = month
        self.opening = opening
        self._opening_counts: Counter[str] = Counter()
        self._previous = previous
        self._provisional_at_ms: int | None = None
        self._provisional_of = b""

    def close_until(self, now_ms: int, signed: OpenedCheckpoint, head: TreeHead) -> None:
        """Certify every month that has ended by the clock, empty ones too."""
        ends = _month_number(month_of(now_ms)) - _month_number(self.month)
        if ends > MONTHS_AT_ONCE_MAX:
            raise MonthFailed(
                f"open month {self.month}: the clock says {month_of(now_ms)}, {ends} months later; "
                "nothing was certified: set the clock right"
            )
        while self.month < month_of(now_ms):
            statement = self._statement(signed, head, is_provisional=False)
            path = certificate_path(self.month)
            if self._folder.read(path) is not None:
                raise MonthFailed(f"{path}: there is a certificate already; no second one is signed")
            require_successor(path, statement, self._previous)
            self._folder.replace(path, seal(statement.payload(), self._keyring.certificate_key))
            self._folder.remove(provisional_path(self.month))
            self.month = next_month(self.month)
            self.opening, self._previous = statement.closing, statement
            self._opening_counts = Counter(head.counts)
            self._provisional_at_ms = None

    def publish_provisional(
        self, now_ms: int, signed: OpenedCheckpoint, head: TreeHead, *, is_last: bool = False
    ) -> None:
        """Publish the root of the open month so far, at most once a second."""
        since = None if self._provisional_at_ms is None else abs(now_ms - self._provisional_at_ms)
        is_due = is_last or since is None or since >= PROVISIONAL_EVERY_MS
        if is_due and (since is None or self._provisional_of != signed.note):
            payload = self._statement(signed, head, is_provisional=True).payload()
            self._folder.replace(provisional_path(self.month), seal(payload, self._keyring.certificate_key))
            self._provisional_at_ms, self._provisional_of = now_ms, signed.note

    def _statement(self, signed: OpenedCheckpoint, head: TreeHead, *, is_provisional: bool) -> MonthStatement:
        policy = self._keyring.policy
        reader = LogReader(self._folder, head.tree_size)
        counts = {name: count - self._opening_counts[name] for name, count in head.counts.items()}
        counts |= {name: -count for name, count in self._opening_counts.items() if name not in counts}
        return MonthStatement(
            origin=self._keyring.origin,
            month=self.month,
            is_provisional=is_provisional,
            previous_digest=None if self._previous is None else self._previous.digest,
            opening=self.opening,
            closing=TreeState(tree_size=head.tree_size, checkpoint=signed.note, link=head.link),
            closing_root=head.root,
            consistency_proof=tuple(reader.consistency_proof(self.opening.tree_size)),
            index=None if is_provisional else self._index(reader, head.tree_size),
            counts={name: count for name, count in counts.items() if count},
            keys=tuple((str(log.key), log.first_size, log.last_size_or_none) for log in policy.logs),
            policy_digest=policy.digest,
        )

    def _index(self, reader: LogReader, end: int) -> IndexHead:
        first = self.opening.tree_size
        return index_head(lambda: reader.entries(first, end), end - first)

    def count_from(self, start: int, counts: Counter[str], head: TreeHead) -> None:
        """Set what was counted before this process, so that differences give the month's numbers."""
        month_counts = counts.copy()
        for _, entry in LogReader(self._folder, head.tree_size).entries(start, head.tree_size):
            month_counts[type_of(entry)] += 1
        self._opening_counts = Counter(head.counts)
        self._opening_counts.subtract(month_counts)


def _month_number(month: str) -> int:
    return int(month[:4]) * 12 + int(month[5:])


def begin_months(folder: Folder, keyring: Keyring, now_ms: int, signed: OpenedCheckpoint) -> None:
    """Start the first month of a new log: its provisional root is there before its first checkpoint."""
    opening = TreeState(tree_size=0, checkpoint=signed.note, link=FIRST_LINK)
    book = MonthBook(folder, keyring, month_of(now_ms), opening)
    book.publish_provisional(now_ms, signed, TreeHead(0, EMPTY_ROOT, FIRST_LINK, Counter()))


def resume_months(folder: Folder, keyring: Keyring, signed: OpenedCheckpoint, head: TreeHead) -> MonthBook:
    """Find the open month of a log from its certificates and its provisional root; raises `MonthFailed`."""
    names = [found for name in folder.names(ROOTS) if (found := split_root_name(name)) is not None]
    certified = max((month for month, is_provisional in names if not is_provisional), default=None)
    opened = [month for month, is_provisional in names if is_provisional and (certified is None or month > certified)]
    if certified is not None:
        path = certificate_path(certified)
        previous = open_month(path, require(folder, path), keyring.policy)
        _require_within(path, previous, folder, signed)
        book = MonthBook(folder, keyring, next_month(certified), previous.closing, previous)
    elif len(opened) == 1:
        path = provisional_path(opened[0])
        first = open_month(path, require(folder, path), keyring.policy)
        require_successor(path, first, None)
        book = MonthBook(folder, keyring, first.month, first.opening)
    else:
        raise MonthFailed(
            f"{ROOTS}: restore this folder",
            expected="certificates, or one provisional root of the first month",
            found=f"{len(opened)} provisional roots",
        )
    start, counts = _counted(book, folder, keyring, signed)
    book.count_from(start, counts, head)
    for month, is_provisional in names:
        if is_provisional and month != book.month:
            folder.remove(provisional_path(month))
    return book


def _require_within(path: str, statement: MonthStatement, folder: Folder, signed: OpenedCheckpoint) -> None:
    """The signed tree extends the closing one of a certificate."""
    size, now = statement.closing.tree_size, signed.checkpoint
    if size > now.tree_size:
        raise HistoryForked(
            "checkpoint: restore a newer one", expected=f"a size of at least {size}, as {path} has it", found=now
        )
    if size:
        proof = LogReader(folder, now.tree_size).consistency_proof(size)
        verify_consistency(size, now.tree_size, statement.closing_root, now.root, proof)


def _counted(book: MonthBook, folder: Folder, keyring: Keyring, signed: OpenedCheckpoint) -> tuple[int, Counter[str]]:
    """How far the provisional root has counted the open month, else its opening size and nothing."""
    path = provisional_path(book.month)
    data = folder.read(path)
    start = book.opening.tree_size
    if data is None:
        return start, Counter()
    try:
        statement = open_month(path, data, keyring.policy)
        size = statement.closing.tree_size
        is_ours = statement.opening == book.opening and size <= signed.checkpoint.tree_size
        if is_ours and LogReader(folder, signed.checkpoint.tree_size).root(size) == statement.closing_root:
            return size, Counter(statement.counts)
    except LedgerError:  # derived data: counted again from the entries
        pass
    return start, Counter()
