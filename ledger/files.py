"""The only part of the ledger that touches a log on disk: read, write, sync, replace.

Nothing here retries. After a failed write or sync the caller opens the log anew, from what the last checkpoint covers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

from ledger.errors import ObjectMissing, WrongUse

_READING: Final = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_FRESH: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
#: So many files are waited for at once: a disk that flushes for one flushes for those that came meanwhile, too.
SYNCED_AT_ONCE: Final = 8


class Source(Protocol):
    """Where published files come from."""

    def read(self, path: str) -> bytes | None:
        """The bytes of one file, None when there is none."""

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; empty when there is none."""

    def close(self) -> None:
        """Let go of connections and open files; reading on opens them again."""


def read_all(source: Source, paths: Sequence[str]) -> list[bytes | None]:
    """The bytes of some files, None where there is none; in a folder the disk looks for all of them at once."""
    return source.read_all(paths) if isinstance(source, Folder) else [source.read(path) for path in paths]


def require(source: Source, path: str) -> bytes:
    """The bytes of a file that must be there; raises `ObjectMissing`."""
    return require_data(path, source.read(path))


def require_data(path: str, data: bytes | None) -> bytes:
    """What was read of a file that must be there; raises `ObjectMissing`."""
    if data is None:
        raise ObjectMissing(path, expected="the file", found="none")
    return data


class Folder:
    """Files below one directory, named by relative paths with slashes; so many are synced at once, each in a thread."""

    def __init__(self, root: Path, *, synced_at_once: int = SYNCED_AT_ONCE) -> None:
        self.root = root
        self._synced_at_once = synced_at_once
        self._unsynced: list[int] = []
        self._syncers: list[ThreadPoolExecutor] = []
        self._dealt = 0
        self._stale_folders: set[Path] = set()
        self._known_folders: dict[str, Path] = {}

    def read(self, path: str) -> bytes | None:
        descriptor = self._open(path)
        if descriptor is None:
            return None
        try:
            return self._read(path, descriptor)
        finally:
            os.close(descriptor)

    def read_all(self, paths: Sequence[str]) -> list[bytes | None]:
        """The bytes of some files, None where there is none; the disk looks for all of them at once."""
        opened: list[tuple[str, int | None]] = []
        try:
            for path in paths:
                descriptor = self._open(path)
                opened.append((path, descriptor))
                if descriptor is not None and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            return [None if descriptor is None else self._read(path, descriptor) for path, descriptor in opened]
        finally:
            for _, descriptor in opened:
                if descriptor is not None:
                    os.close(descriptor)

    def _open(self, path: str) -> int | None:
        try:
            return os.open(f"{self.root}/{path}", _READING)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _read(self, path: str, descriptor: int) -> bytes:
        """All of an open file, which is rarely longer than it was a moment ago."""
        size = os.fstat(descriptor).st_size
        parts = []
        try:
            while part := os.read(descriptor, size + 1):
                parts.append(part)
        except IsADirectoryError as err:
            raise WrongUse(f"{self.root / path}", expected="a file", found="a directory") from err
        return b"".join(parts)

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(f"{self.root}/{folder}"))  # noqa: PTH208 (on the way of every receipt)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def walk(self) -> Iterator[str]:
        """Every file below, as a relative path; names that begin with a dot are nobody's but the signer's."""
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            base = Path(folder).relative_to(self.root)
            for name in sorted(names):
                if not name.startswith("."):
                    yield (base / name).as_posix()

    def write(self, path: str, data: bytes) -> None:
        """Write a file that nobody reads before a checkpoint covers it; durable after `sync`."""
        self._write(path, data, _FRESH)

    def write_new(self, path: str, data: bytes) -> bool:
        """`write` unless there is a file of that name already; returns whether it was written."""
        try:
            self._write(path, data, _NEW)
        except FileExistsError:
            return False
        return True

    def sync(self) -> None:
        """Make all that was written since the last call durable, then the names.

        After a failure what is left is closed and not synced; raises the first.
        """
        if hasattr(os, "posix_fadvise"):
            # Linux begins to write such a file at once: all are on their way before the first is waited for.
            for descriptor in self._unsynced:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        failures: list[BaseException] = []
        for each in self._begin_syncing(failures):
            each.result()
        if failures:
            raise failures[0]
        while self._stale_folders:
            self._sync_folder(self._stale_folders.pop())

    def _begin_syncing(self, failures: list[BaseException]) -> list[Future[None]]:
        """Deal the files to the threads, in turns over all calls: which thread syncs which file is no accident."""
        descriptors, self._unsynced = self._unsynced, []
        count = self._synced_at_once
        if descriptors and not self._syncers:
            self._syncers = [ThreadPoolExecutor(1, "tally-sync") for _ in range(count)]
        shares = [descriptors[(at - self._dealt) % count :: count] for at in range(count)]
        self._dealt += len(descriptors)
        dealt = zip(self._syncers, shares, strict=False)  # of nothing no thread gets a share
        return [syncer.submit(_sync_each, share, failures) for syncer, share in dealt if share]

    def replace(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Put a file in place of an older one in one step: readers see one or the other, whole."""
        target = self.root / path
        self._make_folder(path)
        draft = target.with_name(f".{target.name}.new")
        descriptor = os.open(draft, _FRESH, mode)
        try:
            self._write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.rename(target)
        self._sync_folder(target.parent)

    def remove(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)

    def remove_partials(self, folder: str, *, wider_than: int = 0) -> None:
        """Remove the partial tiles of one tile, except those of at most the given width."""
        kept = False
        for name in self.names(folder):
            if name.isdecimal() and int(name) > wider_than:
                self.remove(f"{folder}/{name}")
            else:
                kept = True
        target = self.root / folder
        if not kept and target.is_dir():
            target.rmdir()
            self._known_folders.pop(folder, None)

    def close(self) -> None:
        """Let go of the threads, and of the files that a failure left open."""
        while self._unsynced:
            os.close(self._unsynced.pop())
        while self._syncers:
            self._syncers.pop().shutdown()

    def _write(self, path: str, data: bytes, how: int) -> None:
        self._make_folder(path)
        descriptor = os.open(f"{self.root}/{path}", how, 0o644)
        self._unsynced.append(descriptor)
        self._write_all(descriptor, data)

    @staticmethod
    def _write_all(descriptor: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def _make_folder(self, path: str) -> None:
        """Make the folder of a file; its names are to be synced."""
        name = path.rpartition("/")[0]
        known = self._known_folders.get(name)
        if known is not None:
            self._stale_folders.add(known)
            return
        folder = self.root / name
        self._stale_folders.add(folder)
        missing = []
        at = folder
        while not at.is_dir():
            missing.append(at)
            at = at.parent
        folder.mkdir(parents=True, exist_ok=True)
        self._stale_folders.update(made.parent for made in missing)
        self._known_folders[name] = folder

    @staticmethod
    def _sync_folder(folder: Path) -> None:
        if not hasattr(os, "O_DIRECTORY"):  # Windows, where auditors may be, has no such thing
            return
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # it went away again: the last partial of a full tile
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_each(descriptors: Sequence[int], failures: list[BaseException]) -> None:
    """Sync and close files; after a failure, here or in another thread, only close them."""
    # `fdatasync` leaves the times of a file for later, nothing that is needed to read it again; Linux has it.
    sync = getattr(os, "fdatasync", os.fsync)
    for descriptor in descriptors:
        try:
            try:
                if not failures:
                    sync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException as err:  # noqa: BLE001 (raised by who waits for all)
            failures.append(err)
