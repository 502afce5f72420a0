"""A child process that ends with us: started from one thread, logged to a file, stopped with a deadline."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from adapters.errors import ServerFailed
from adapters.files import make_directory

# PR_SET_PDEATHSIG follows the parent THREAD: all children are started by this one, which lives as long as the process.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tally-spawner")

POLL_S = 0.02
LOG_TAIL_BYTES = 8192
LOG_BYTES_MAX = 20_000_000
ALARMS = ("[FTL]", "FATAL", "PANIC", "tally: ", "[ERR]", "Error", "error", "cannot", "Failed")


@dataclass(kw_only=True)
class Child:
    """One process; `die_signal` is what the kernel sends it when we are killed, `uid` whom it runs as (None: us)."""

    name: str
    argv: list[str]
    log_path: Path
    cwd: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    uid: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    die_signal: signal.Signals = signal.SIGKILL
    # File descriptors that the child keeps open, so that the lock of its data directory outlives us.
    keep_open: tuple[int, ...] = ()
    _process: subprocess.Popen[bytes] | None = None
    _log_start: int = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        return self._process.poll() if self._process else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        _SPAWNER.submit(self._spawn).result()

    def _spawn(self) -> None:
        uid = "-" if self.uid is None else str(self.uid)
        launch = [sys.executable, "-S", "-P", "-m", "adapters.embedded_launch"]
        launch += [str(os.getpid()), str(int(self.die_signal)), uid]
        make_directory(self.log_path.parent)
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES_MAX:
            self.log_path.replace(self.log_path.with_suffix(".old.log"))
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*launch, *self.argv],
                cwd=self.cwd,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": python_path(), **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self.keep_open,
                start_new_session=True,  # Ctrl-C in the terminal reaches us alone; we stop the children in order
            )

    def wait_until(self, ready: Callable[[], bool], within_s: float) -> None:
        """Return when `ready()`; raises ServerFailed when the process ends first or the time is over."""
        deadline = time.monotonic() + within_s
        while not ready():
            if not self.alive and not ready():  # it may have ended between the two looks, as it should (initdb)
                raise ServerFailed(f"{self.name} ended at start ({self.ending()}): see {self.log_path}")
            if time.monotonic() > deadline:
                tail = f", its last words: {self.last_words()}" if self.last_words() else ""
                raise ServerFailed(f"{self.name} did not answer within {within_s:g} s{tail}: see {self.log_path}")
            time.sleep(POLL_S)

    def signal_stop(self) -> None:
        self._send(self.stop_signal)

    def stop(self, within_s: float = 15.0) -> None:
        """Ask it to stop, kill it when it has not after `within_s`; returns when it is gone."""
        self.signal_stop()
        if self._process is None:
            return
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._send(signal.SIGKILL)
            self._process.wait()

    def kill(self) -> None:
        """Kill it and what it started in its session; returns when it is gone."""
        self._send(signal.SIGKILL, to_group=True)
        if self._process is not None:
            self._process.wait()

    def _send(self, number: signal.Signals, *, to_group: bool = False) -> None:
        def send() -> None:
            if self._process is not None and self._process.poll() is None:
                (os.killpg if to_group else os.kill)(self._process.pid, number)

        # In the spawner's thread: a start that an interrupt cut short has recorded its process by then.
        _SPAWNER.submit(send).result()

    def ending(self) -> str:
        """Say how it ended and its last words, for one line."""
        code = self.exit_code
        how = "it runs" if code is None else f"signal {-code}" if code < 0 else f"exit {code}"
        return f"{how}, {words}" if (words := self.last_words()) else how

    def log_holds(self, words: str) -> bool:
        """Tell whether this run's log says `words`."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return words.encode() in log.read()

    def last_words(self) -> str:
        """Return the line of this run's log that says most: the last alarming one, else the last."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        except OSError:
            return ""
        alarming = [line for line in lines if any(word in line for word in ALARMS)]
        return (alarming or lines or [""])[-1][:300]


def python_path() -> str:
    """Let a child import what we import, installed or from the source tree."""
    root = str(Path(__file__).resolve().parent.parent)
    others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != root]
    return os.pathsep.join([root, *others])
