"""The signer's month: which one is open, where it opened, and closing it into a certificate.

A month that has ended is frozen first: its closing checkpoint becomes a file of its own, before anything newer is
signed. Its certificate follows when its entries are counted, which for a long month goes on beside signing (closing).
Until then its provisional root stands, and the month after it has none.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from ledger.beside import checkpoint_path
from ledger.builder import TreeHead
from ledger.closing import AT_ONCE_MAX, Counting, MonthCount, count_month
from ledger.errors import HistoryForked, LedgerError, MonthFailed
from ledger.events import type_of
from ledger.files import Folder, require
from ledger.hashing import EMPTY_ROOT, FIRST_LINK
from ledger.index import IndexHead
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


@dataclass(frozen=True, slots=True)
class EndedMonth:
    """A month whose closing checkpoint is fixed and whose certificate is not written yet."""

    month: str
    opening: TreeState
    closing: TreeState
    closing_root: bytes


class MonthBook:
    """State of the open month; every method takes the last checkpoint signed and its tree head.

    `stop` ends a count that goes on beside signing.
    """

    def __init__(
        self,
        folder: Folder,
        keyring: Keyring,
        month: str,
        opening: TreeState,
        previous: MonthStatement | None = None,
        *,
        stop: threading.Event,
    ) -> None:
        self._folder = folder
        self.keyring = keyring
        self._stop = stop
        self.month = month
        self.opening = opening
        self._opening_counts: Counter[str] = Counter()
        self._previous = previous
        self._ended: deque[EndedMonth] = deque()
        self._counting: Counting | None = None
        self._provisional_at_ms: int | None = None
        self._provisional_of = b""

    def close_until(self, now_ms: int, signed: OpenedCheckpoint, head: TreeHead) -> None:
        """Freeze every month that has ended by the clock, empty ones too; certify those that are counted."""
        ends = _month_number(month_of(now_ms)) - _month_number(self.month)
        if ends > MONTHS_AT_ONCE_MAX:
            raise MonthFailed(
                f"open month {self.month}: the clock says {month_of(now_ms)}, {ends} months later; "
                "nothing was certified: set the clock right"
            )
        while self.month < month_of(now_ms):
            self._require_uncertified()
            self._folder.replace(checkpoint_path(self.month), signed.note)
            self.freeze(TreeState(tree_size=head.tree_size, checkpoint=signed.note, link=head.link), head.root)
            self._opening_counts = Counter(head.counts)
        self._certify()

    def freeze(self, closing: TreeState, root: bytes) -> None:
        """The open month has ended with this tree; the next one opens there."""
        self._ended.append(EndedMonth(self.month, self.opening, closing, root))
        self.month, self.opening = next_month(self.month), closing
        self._provisional_at_ms = None

    def _require_uncertified(self) -> None:
        for path in (certificate_path(self.month), checkpoint_path(self.month)):
            if self._folder.read(path) is not None:
                raise MonthFailed(f"{path}: there is one already; no second certificate is signed")

    def _certify(self) -> None:
        """Write the certificates of ended months in their order, as far as they are counted."""
        while self._ended:
            ended = self._ended[0]
            found = self._count(ended)
            if found is None:
                return
            statement = self._statement(ended, found.counts, found.index)
            path = certificate_path(ended.month)
            require_successor(path, statement, self._previous)
            self._folder.replace(path, self._seal(statement))
            self._folder.remove(provisional_path(ended.month))
            self._previous, self._counting = statement, None
            self._ended.popleft()

    def _count(self, ended: EndedMonth) -> MonthCount | None:
        first, end = ended.opening.tree_size, ended.closing.tree_size
        if self._counting is None and end - first <= AT_ONCE_MAX:
            return count_month(self._folder, first, end, self._stop)
        if self._counting is None:
            self._counting = Counting(self._folder, first, end, self._stop)
        return self._counting.result()

    def publish_provisional(
        self, now_ms: int, signed: OpenedCheckpoint, head: TreeHead, *, is_last: bool = False
    ) -> None:
        """Publish the root of the open month so far, at most once a second; it names the certificate before it."""
        if self._ended:
            return
        since = None if self._provisional_at_ms is None else abs(now_ms - self._provisional_at_ms)
        is_due = is_last or since is None or since >= PROVISIONAL_EVERY_MS
        if is_due and (since is None or self._provisional_of != signed.note):
            closing = TreeState(tree_size=head.tree_size, checkpoint=signed.note, link=head.link)
            counts = head.counts.copy()
            counts.subtract(self._opening_counts)
            statement = self._statement(EndedMonth(self.month, self.opening, closing, head.root), counts, None)
            self._folder.replace(provisional_path(self.month), self._seal(statement))
            self._provisional_at_ms, self._provisional_of = now_ms, signed.note

    def _seal(self, statement: MonthStatement) -> bytes:
        return seal(statement.payload(), self.keyring.certificate_key_at(statement.closing.tree_size))

    def _statement(self, month: EndedMonth, counts: Counter[str], index: IndexHead | None) -> MonthStatement:
        policy = self.keyring.policy
        reader = LogReader(self._folder, month.closing.tree_size)
        return MonthStatement(
            origin=self.keyring.origin,
            month=month.month,
            is_provisional=index is None,
            previous_digest=None if self._previous is None else self._previous.digest,
            opening=month.opening,
            closing=month.closing,
            closing_root=month.closing_root,
            consistency_proof=tuple(reader.consistency_proof(month.opening.tree_size)),
            index=index,
            counts={name: count for name, count in counts.items() if count},
            keys=tuple(
                (str(log.key), log.first_size, log.last_size_or_none) for log in policy.keys_at(month.closing.tree_size)
            ),
            policy_digest=policy.digest,
        )

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
    book = MonthBook(folder, keyring, month_of(now_ms), opening, stop=threading.Event())
    book.publish_provisional(now_ms, signed, TreeHead(0, EMPTY_ROOT, FIRST_LINK, Counter()))


def resume_months(
    folder: Folder, keyring: Keyring, signed: OpenedCheckpoint, head: TreeHead, stop: threading.Event
) -> MonthBook:
    """Find the open month of a log from its certificates and its provisional root; raises `MonthFailed`."""
    files = folder.names(ROOTS)
    names = [found for name in files if (found := split_root_name(name)) is not None]
    certified = max((month for month, is_provisional in names if not is_provisional), default=None)
    opened = [month for month, is_provisional in names if is_provisional and (certified is None or month > certified)]
    if certified is not None:
        path = certificate_path(certified)
        previous = open_month(path, require(folder, path), keyring.policy)
        _require_within(path, previous.closing.tree_size, previous.closing_root, folder, signed)
        book = MonthBook(folder, keyring, next_month(certified), previous.closing, previous, stop=stop)
    elif len(opened) == 1:
        path = provisional_path(opened[0])
        first = open_month(path, require(folder, path), keyring.policy)
        require_successor(path, first, None)
        book = MonthBook(folder, keyring, first.month, first.opening, stop=stop)
    else:
        raise MonthFailed(
            f"{ROOTS}: restore this folder",
            expected="certificates, or one provisional root of the first month",
            found=f"{len(opened)} provisional roots",
        )
    oldest_open = book.month
    while f"{book.month}.checkpoint" in files:
        _freeze_again(book, folder, keyring, signed)
    start, counts = _counted(book, folder, keyring, signed)
    book.count_from(start, counts, head)
    for month, is_provisional in names:
        if is_provisional and month not in {book.month, oldest_open}:
            folder.remove(provisional_path(month))
    return book


def _freeze_again(book: MonthBook, folder: Folder, keyring: Keyring, signed: OpenedCheckpoint) -> None:
    """A month had ended, and a crash or a stop came before its certificate."""
    path = checkpoint_path(book.month)
    closing = keyring.policy.open(path, require(folder, path), origin=keyring.origin)
    size, root = closing.checkpoint.tree_size, closing.checkpoint.root
    _require_within(path, size, root, folder, signed)
    link = LogReader(folder, signed.checkpoint.tree_size).link(size)
    book.freeze(TreeState(tree_size=size, checkpoint=closing.note, link=link), root)


def _require_within(path: str, size: int, root: bytes, folder: Folder, signed: OpenedCheckpoint) -> None:
    """The signed tree extends the closing one of a month."""
    now = signed.checkpoint
    if size > now.tree_size:
        raise HistoryForked(
            "checkpoint: restore a newer one", expected=f"a size of at least {size}, as {path} has it", found=now
        )
    if size:
        proof = LogReader(folder, now.tree_size).consistency_proof(size)
        verify_consistency(size, now.tree_size, root, now.root, proof)


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
