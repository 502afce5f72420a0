"""Logs of millions of small entries, made with the signer's own code and kept for the measurements of one run.

`python -m benchmarks.big_log FOLDER TREE_SIZE` makes or grows one, in a process whose memory is then known.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.usage import used_by
from ledger.files import Folder
from ledger.keyfolder import POLICY
from ledger.keyring import ensure_keys
from ledger.policy import Policy, parse_policy
from ledger.writer import LogWriter

TENANT: Final = "bench"
SUBJECTS: Final = 10_000
#: The first entries are those of 24 months, each of so many as are certified at once; all others are of the open month.
MONTHS: Final = 24
MONTH_ENTRIES: Final = 20_000
#: The moment of all that happens in a month, the last of them November 2026.
TIMES: Final = [f"{at // 12}-{at % 12 + 1:02d}-21T10:00:00.000Z" for at in range(2024 * 12 + 10, 2026 * 12 + 11)]
APPENDED_AT_ONCE: Final = 256 * 64


class Built(NamedTuple):
    """What the last growth of a log took: the entries that came, the time, the memory of the process that did it."""

    entries: int
    seconds: float
    cpu_seconds: float
    process_bytes: int


class BigLog(NamedTuple):
    """A published log of so many entries with its policy."""

    folder: Folder
    policy: Policy
    policy_text: bytes
    tree_size: int
    built: Built


class _Unsynced(Folder):
    """Files that reach the disk when the system likes: they are built to be measured, and removed afterwards."""

    def sync(self) -> None:
        self.close()
        self._stale_folders.clear()


class BigLogs:
    """One log that grows from size to size; a smaller one that is asked for later stands beside it."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._logs: list[BigLog] = []

    def of(self, tree_size: int) -> BigLog:
        """The log of this size, all of it on the disk; what was lent before may have grown to it."""
        known = next((log for log in self._logs if log.tree_size == tree_size), None)
        if known is not None:
            return known
        smaller = [log for log in self._logs if log.tree_size < tree_size]
        grown = max(smaller, key=lambda log: log.tree_size, default=None)
        if grown is not None:
            self._logs.remove(grown)
        base = grown.folder.root.parent if grown is not None else self._base / str(len(self._logs))
        made = _build(base, tree_size, tree_size - (grown.tree_size if grown is not None else 0))
        self._logs.append(made)
        return made


_kept: BigLogs | None = None


@contextmanager
def kept_logs() -> Iterator[None]:
    """Whoever asks for a big log within shares it with the others; all are removed at the end."""
    global _kept  # noqa: PLW0603 (the measurements of one run have nothing else in common)
    with tempfile.TemporaryDirectory(prefix="tally-bench-") as base:
        _kept = BigLogs(Path(base))
        try:
            yield
        finally:
            _kept = None


@contextmanager
def big_log(tree_size: int) -> Iterator[BigLog]:
    """Lend a log of this size: a kept one, or one that is removed afterwards."""
    if _kept is not None:
        yield _kept.of(tree_size)
        return
    with tempfile.TemporaryDirectory(prefix="tally-bench-") as base:
        yield BigLogs(Path(base)).of(tree_size)


def entry(number: int) -> bytes:
    """The shortest event that the rules allow: disk and time go into hashes, not into bodies."""
    version, owner = divmod(number, SUBJECTS)
    at = TIMES[min(number // MONTH_ENTRIES, MONTHS)]
    return (
        f'{{"specversion":"1.0","id":"token.o{owner}.{version + 1}","source":"//b","type":"t/1",'
        f'"subject":"token/o{owner}","time":"{at}","recordedtime":"{at}",'
        f'"datacontenttype":"application/json","dataschema":"t","tenantid":"b","aggregateversion":{version + 1},'
        f'"causationid":"c{number}","data":{number}}}'
    ).encode()


def _build(base: Path, tree_size: int, entries: int) -> BigLog:
    used = used_by([sys.executable, "-m", "benchmarks.big_log", str(base), str(tree_size)])
    os.sync()  # nothing of it is written while something else is measured
    policy = (ensure_keys(base / "keys", TENANT).folder / POLICY).read_bytes()
    built = Built(entries, round(used.seconds, 1), used.cpu_seconds, used.largest_process_bytes)
    return BigLog(Folder(base / "log"), parse_policy("policy", policy), policy, tree_size, built)


def main() -> None:
    """Grow the log below a folder to a size, as its signer would, but for the waits for the disk."""
    base, tree_size = Path(sys.argv[1]), int(sys.argv[2])
    keyring = ensure_keys(base / "keys", TENANT)
    writer = LogWriter.open(base / "log", keyring, _clock_ms(0), folder=_Unsynced(base / "log"))
    now_ms = _clock_ms(MONTHS)
    while (start := writer.tree_size) < tree_size:
        month = min(start // MONTH_ENTRIES, MONTHS)
        end = min(tree_size, start + APPENDED_AT_ONCE)
        now_ms = _clock_ms(month)
        if month < MONTHS:
            end = min(end, (month + 1) * MONTH_ENTRIES)
        writer.append([entry(number) for number in range(start, end)])
        if month < MONTHS:
            writer.sign(now_ms)  # the month before closes at what was signed last
    writer.close(now_ms)


def _clock_ms(month: int) -> int:
    return int(datetime.fromisoformat(TIMES[month]).timestamp()) * 1000


if __name__ == "__main__":
    main()
