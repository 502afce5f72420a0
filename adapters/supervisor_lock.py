"""Who owns a data directory: a lock that the kernel frees when the supervisor AND all of its children are gone.

The children inherit the locked file descriptor, so that nobody starts servers over the data of servers that still stop.
"""

import contextlib
import fcntl
import json
import os
import signal
import time
from pathlib import Path
from typing import IO, Any

from adapters.errors import TallyError
from adapters.files import make_directory

LOCK_FILE = "supervisor.lock"
POLL_S = 0.05
# How long the servers of a killed supervisor may take to end before we say that they do not.
ORPHANS_END_WITHIN_S = 20.0


class AlreadyRunning(TallyError):
    def __init__(self, data_dir: Path, pid: int) -> None:
        super().__init__(f"{data_dir} is already up (process {pid}): tally down --data {data_dir} stops it")
        self.pid = pid


class DataDirLock:
    """Held from `acquire` until `release` here and the end of every process that inherited `fileno`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._file: IO[bytes] | None = None

    @property
    def held(self) -> bool:
        return self._file is not None

    @property
    def fileno(self) -> int:
        if self._file is None:
            raise TallyError(f"{self.data_dir} is not locked by this process: acquire its lock first")
        return self._file.fileno()

    def acquire(self) -> None:
        """Take the lock; raises AlreadyRunning when a living supervisor has it."""
        make_directory(self.data_dir)
        path = self.data_dir / LOCK_FILE
        try:
            file = path.open("a+b")
        except OSError as err:
            raise TallyError(f"{path} cannot be opened ({err.strerror}): choose another --data") from err
        deadline = time.monotonic() + ORPHANS_END_WITHIN_S
        while not _try_lock(file):
            pid = living_supervisor(self.data_dir)
            if pid is not None or time.monotonic() > deadline:
                file.close()
            if pid is not None:
                raise AlreadyRunning(self.data_dir, pid)
            if file.closed:
                raise TallyError(
                    f"servers of an earlier run still use {self.data_dir} although their supervisor is dead: end them "
                    "(look for the directory's name in: ps -ef), then try again"
                )
            time.sleep(POLL_S)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "born": _born(os.getpid())}).encode())
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def is_locked(data_dir: Path) -> bool:
    """Tell whether a supervisor, or a child of one, still uses `data_dir`."""
    try:
        with (data_dir / LOCK_FILE).open("rb") as file:
            return not _try_lock(file)
    except (FileNotFoundError, NotADirectoryError):
        return False


def living_supervisor(data_dir: Path) -> int | None:
    """Return the process number of the supervisor of `data_dir`, None when it is dead."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        holder: dict[str, Any] = json.loads((data_dir / LOCK_FILE).read_bytes())
        pid = int(holder["pid"])
        os.kill(pid, 0)
        if holder["born"] in {None, _born(pid)}:
            return pid
    return None


def stop_supervisor(data_dir: Path, within_s: float) -> bool:
    """Ask the supervisor to stop and wait until all is gone; False when nothing ran. Kills it when the time is over."""
    if not is_locked(data_dir):
        return False
    pid = living_supervisor(data_dir)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + within_s
        while is_locked(data_dir) or _runs(pid):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        else:
            return True
    raise TallyError(f"processes on {data_dir} did not end within {2 * within_s:g} s: look for its name in ps -ef")


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _runs(pid: int | None) -> bool:
    """Tell whether a process still runs: it frees the lock before it is gone, and a dead one may wait to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def _born(pid: int) -> str | None:
    """Return when a process started, in clock ticks: its number alone may belong to another one by now (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return None
