"""Exactly once: that no command was executed at two places of a log, in memory that does not grow with the log.

All events of a command lie side by side and name it (`causationid`); the first is one of the aggregate that it was
addressed to. Each such run of events leaves one record, in a long log in one of 256 scratch files by its first byte:

    SHA-256( <length of causationid> : <causationid> <subject of the first event> )[:16] || leaf index, u64 big endian

Two records with the same beginning are one command that the same aggregate executed twice. The same id sent to two
aggregates is two commands.
"""

from __future__ import annotations

import shutil
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Final

from ledger.errors import WrongUse

DIGEST_BYTES: Final = 16
RECORD_BYTES: Final = 24
BUCKETS: Final = 256
PENDING_BYTES_MAX: Final = 4 << 20

Mark = tuple[int, str]  # size of a scratch file, SHA-256 in hex


def run_record(command: str, subject: str, leaf_index: int) -> bytes:
    """The record of a run of events that begins at a leaf index."""
    text = f"{len(command)}:{command}{subject}".encode("utf-8", "surrogatepass")
    return sha256(text).digest()[:DIGEST_BYTES] + leaf_index.to_bytes(RECORD_BYTES - DIGEST_BYTES, "big")


class CommandRuns:
    """Takes records in any order; `first_repeated` says which command comes twice. A small log needs no files."""

    def __init__(self, folder: Path | None, marks: list[Mark]) -> None:
        """`folder` outlives an interruption and holds what `marks` say; None for a temporary one.

        Raises `WrongUse` when it does not hold that.
        """
        self._is_temporary = folder is None
        self._folder = folder
        self._pending = bytearray()
        self._digests = [sha256() for _ in range(BUCKETS)]
        self._sizes = [0] * BUCKETS
        if folder is not None and not marks:
            shutil.rmtree(folder, ignore_errors=True)
        for number, mark in enumerate(marks):
            self._open(number, *mark)

    def __len__(self) -> int:
        return (sum(self._sizes) + len(self._pending)) // RECORD_BYTES

    def _open(self, number: int, size: int, digest: str) -> None:
        """Take over what a scratch file held at some moment; what was added since is computed again."""
        path = self._path(number)
        data = path.read_bytes() if path.exists() else b""
        self._digests[number].update(data[:size])
        if len(data) < size or self._digests[number].hexdigest() != digest:
            raise WrongUse(
                f"{path}: remove the folder and the progress file to begin again",
                expected=f"{size} bytes of an interrupted audit",
                found="others",
            )
        self._sizes[number] = size
        if len(data) > size:
            path.write_bytes(data[:size])

    def add(self, records: bytes) -> None:
        """Take records, one behind the other."""
        self._pending += records
        if len(self._pending) >= PENDING_BYTES_MAX:
            self._flush()

    def marks(self) -> list[Mark]:
        """What is in the scratch files now, for an audit that goes on with them."""
        self._flush()
        return [(size, digest.hexdigest()) for size, digest in zip(self._sizes, self._digests, strict=True)]

    def _flush(self) -> None:
        buckets = [bytearray() for _ in range(BUCKETS)]
        pending = bytes(self._pending)
        for at in range(0, len(pending), RECORD_BYTES):
            buckets[pending[at]] += pending[at : at + RECORD_BYTES]
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="tally-audit-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(buckets):
            if data:
                with self._path(number).open("ab") as file:
                    file.write(data)
                self._digests[number].update(data)
                self._sizes[number] += len(data)
        self._pending.clear()

    def first_repeated(self) -> tuple[int, int] | None:
        """Leaf indexes of a command's first run and of the earliest one that repeats any; None when none does."""
        if not any(self._sizes):
            return _first_repeated(bytes(self._pending))
        self._flush()
        found = (_first_repeated(self._path(number).read_bytes()) for number in range(BUCKETS) if self._sizes[number])
        return min((pair for pair in found if pair is not None), key=lambda pair: pair[1], default=None)

    def _path(self, number: int) -> Path:
        return (self._folder or Path()) / f"{number:02x}"

    def close(self) -> None:
        """Remove a temporary folder; another is left to who named it."""
        if self._is_temporary and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _first_repeated(data: bytes) -> tuple[int, int] | None:
    """The same among records of which all of one command are at hand."""
    starts = range(0, len(data), RECORD_BYTES)
    if len({data[at : at + DIGEST_BYTES] for at in starts}) == len(starts):
        return None
    found: tuple[int, int] | None = None
    firsts: dict[bytes, int] = {}
    for record in sorted(data[at : at + RECORD_BYTES] for at in starts):
        leaf_index = int.from_bytes(record[DIGEST_BYTES:], "big")
        first = firsts.setdefault(record[:DIGEST_BYTES], leaf_index)
        if first != leaf_index and (found is None or leaf_index < found[1]):
            found = first, leaf_index
    return found
