"""Where the embedded NATS server stages atomic batches: in memory, where the machine has room for that (ADR 0041).

Until a batch is committed, the server keeps its messages in a store of their own in `batches/ID` below the stream: four
fsyncs and a dozen files made and removed for each batch. Nothing is ever read back from there: a server that starts
removes `batches` first of all. So a link in its place that leads to a file system in memory takes nothing from what an
acknowledgement promises; the commit itself writes and syncs the stream's own files as before.
"""

import fcntl
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder that others cannot enter is made in it
#: Less room than this and batches stay on the disk; less than a quarter of it and they go back there.
FREE_BYTES_MIN: Final = 512 << 20
LOOK_EVERY_S: Final = 0.25
#: While the server restores its streams, nobody sends batches: links are made at once.
LOOK_AT_START_EVERY_S: Final = 0.005
#: Later only where nothing was staged for so long: the server gives a batch up whose folder vanishes under it, and who
#: is busy all the time has few moments that are longer.
QUIET_S: Final = 0.05
STAGE: Final = "batches"


class Staging:
    """Keeps the links of one server's streams, which the server removes whenever it starts."""

    def __init__(self, store_dir: Path, memory: Path = MEMORY, free_bytes_min: int = FREE_BYTES_MIN) -> None:
        self._store_dir = store_dir
        self._memory = memory
        self._free_bytes_min = free_bytes_min
        self._folder: Path | None = None
        self._lock = -1
        self._atomic: dict[Path, bool] = {}
        self._is_ready: Callable[[], bool] = lambda: True
        self._woken = threading.Event()
        self._is_ending = False
        self._thread: threading.Thread | None = None

    def start(self, is_ready: Callable[[], bool]) -> None:
        """The server was started, and is ready when that says so: look after its streams, now and later, until `stop`.

        Without room in memory, nothing happens.
        """
        self._is_ready = is_ready
        self._woken.set()
        if self._thread is not None or not _is_in_memory(self._memory) or self._free_bytes() < self._free_bytes_min:
            return
        prefix = f"tallyroot-{os.geteuid()}-"
        for left in self._memory.glob(f"{prefix}*"):
            _remove_if_left(left)
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self._memory))
            self._lock = _locked(self._folder)  # at once: who starts now would take it for left
        except OSError:
            return
        self._is_ending = False
        self._thread = threading.Thread(target=self._watch, name="staging", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, after the server."""
        if self._thread is None or self._folder is None:
            return
        self._is_ending = True
        self._woken.set()
        self._thread.join()
        self._thread = None
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)

    def _watch(self) -> None:
        while not self._is_ending:
            if self._woken.is_set():
                self._woken.clear()
                self._until_ready()
            self._look(QUIET_S)
            self._woken.wait(LOOK_EVERY_S)

    def _until_ready(self) -> None:
        """While the server restores its streams: a last look follows the moment in which it is ready."""
        is_ready = False
        while not (is_ready or self._is_ending):
            is_ready = self._is_ready()
            self._look(0.0)
            time.sleep(LOOK_AT_START_EVERY_S)

    def _look(self, quiet_s: float) -> None:
        """Link every stream that takes atomic batches and stages them on the disk, or none when memory runs out."""
        is_full = self._free_bytes() < self._free_bytes_min // 4
        with suppress(OSError):  # a stream that is deleted just now, a disk that is full: the next look tells
            for stream in self._store_dir.glob("jetstream/*/streams/*"):
                if is_full:
                    self._unlink(stream)
                elif self._takes_batches(stream):
                    self._link(stream, quiet_s)

    def _link(self, stream: Path, quiet_s: float) -> None:
        stage = stream / STAGE
        if stage.is_symlink():
            return
        touched = (stage if stage.exists() else stream).stat().st_mtime
        if time.time() - touched < quiet_s:
            return
        try:
            stage.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return  # a batch is on its way in it
        target = self._target(stream)
        shutil.rmtree(target, ignore_errors=True)  # of a server that was killed
        target.mkdir(mode=0o700)
        with suppress(FileExistsError):  # the server was faster
            stage.symlink_to(target)

    def _unlink(self, stream: Path) -> None:
        """Back to the disk; a batch that is on its way is given up by the server, and sent again by who wrote it."""
        if (stream / STAGE).is_symlink():
            (stream / STAGE).unlink()
            shutil.rmtree(self._target(stream), ignore_errors=True)

    def _target(self, stream: Path) -> Path:
        account = stream.parent.parent
        return (self._folder or self._memory) / f"{account.name}.{stream.name}"

    def _takes_batches(self, stream: Path) -> bool:
        if stream not in self._atomic:
            try:
                self._atomic[stream] = bool(json.loads((stream / "meta.inf").read_bytes()).get("allow_atomic"))
            except (OSError, ValueError):
                return False  # half made: the next look tells
        return self._atomic[stream]

    def _free_bytes(self) -> int:
        try:
            found = os.statvfs(self._memory)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize


def _is_in_memory(folder: Path) -> bool:
    """Whether a tmpfs is mounted there, as Linux says."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(line.split()[1:3] == [str(folder), "tmpfs"] for line in mounts.splitlines())


def _locked(folder: Path) -> int:
    """A descriptor that holds the folder until it is closed or its process has ended; raises `OSError` when held."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_if_left(folder: Path) -> None:
    """Remove a folder of this user whose owner was killed."""
    with suppress(OSError):
        if folder.lstat().st_uid == os.geteuid():
            descriptor = _locked(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)
