"""Counting a month that has ended: events by type, and the index of its subjects; beside signing when it is long.

Everything follows from the entries and the closing checkpoint, so that a count which a crash cut off is begun again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ledger.errors import LedgerError
from ledger.events import type_of
from ledger.files import Source
from ledger.index import IndexHead, index_head
from ledger.reader import LogReader

AT_ONCE_MAX: Final = 20_000  # events that are counted while signing waits: a tenth of a second


@dataclass(frozen=True, slots=True)
class MonthCount:
    """What a certificate states of its entries."""

    counts: Counter[str]
    index: IndexHead


class _Stopped(Exception):
    pass


def count_month(source: Source, first: int, end: int, stop: threading.Event) -> MonthCount:
    """Read the entries of a month; memory is bounded by the index, which reads a large month several times."""
    counts: Counter[str] = Counter()
    reader = LogReader(source, end)
    is_counted = False

    def read() -> Iterator[tuple[int, bytes]]:
        nonlocal is_counted
        is_first, is_counted = not is_counted, True
        for leaf_index, entry in reader.entries(first, end):
            if stop.is_set():
                raise _Stopped
            if is_first:
                counts[type_of(entry)] += 1
            yield leaf_index, entry

    index = index_head(read, end - first)
    return MonthCount(counts, index)


class Counting:
    """A count that goes on in a thread of its own while the signer signs."""

    def __init__(self, source: Source, first: int, end: int, stop: threading.Event) -> None:
        self._found: MonthCount | None = None
        self._failure: LedgerError | OSError | None = None
        self._thread = threading.Thread(target=self._run, args=(source, first, end, stop), daemon=True)
        self._thread.start()

    def _run(self, source: Source, first: int, end: int, stop: threading.Event) -> None:
        try:
            self._found = count_month(source, first, end, stop)
        except _Stopped:
            pass
        except (LedgerError, OSError) as err:
            self._failure = err

    def result(self) -> MonthCount | None:
        """The count, None while it goes on; raises what the reading raised."""
        if self._failure is not None:
            raise self._failure
        return self._found

    def wait(self) -> None:
        """Until it has ended or was stopped."""
        self._thread.join()
