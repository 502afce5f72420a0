"""A signer killed, or failed, at each of its system calls on files; then resumed, and its log audited in full.

strace counts the calls of each thread and injects the fault: SIGKILL before the call, or an error in place of it.
Afterwards the same events come again: every checkpoint that anybody may have seen is a part of the final log, and the
log passes its audit. A failed write or sync stops the signer: nothing is written, synced or renamed any more by that
process, but for the files that its other threads sync until they see the failure, which promises nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from adapters.embedded_process import python_path
from ledger.audit import audit_log
from ledger.errors import LedgerError
from ledger.files import SYNCED_AT_ONCE, Folder
from ledger.keyfolder import POLICY
from ledger.keyring import LAST_SIGNED, ensure_keys
from ledger.policy import parse_policy
from ledger.proofs import verify_consistency
from ledger.reader import LogReader
from ledger.tiles import CHECKPOINT
from simulations.corruption import TENANT
from simulations.crash_life import FINAL_SIZE, STOPPED, live

PROGRAM: Final = "strace"
#: What a call fails with. Several threads sync files at once (`fdatasync`), each a share that is always the same.
ERRORS: Final = {
    "mkdir": "ENOSPC",
    "write": "ENOSPC",
    "fdatasync": "EIO",
    "fsync": "EIO",
    "rename": "EIO",
    "unlink": "EIO",
    "rmdir": "EIO",
}
CALLS: Final = tuple(ERRORS)
#: What several threads do at the same time, each with files of its own.
SHARED: Final = "fdatasync"
#: strace counts no further.
NEVER: Final = 65_535
KILLED: Final = -9
#: Files may not grow beyond so many bytes: the write that crosses it is short, the next one fails.
FILE_LIMITS: Final = (10, 200, 1_000, 5_000, 30_000, 90_000)
_CALL: Final = re.compile(rf"^(\d+) +({'|'.join(CALLS)})\(")
_PATIENCE_S: Final = 120


class Fault(NamedTuple):
    """What befalls the signer: at the `nth` of a call an error or, with none, SIGKILL; or a limit on its files."""

    call: str
    nth: int
    error: str | None = None
    file_bytes_max: int | None = None
    synced_at_once: int = SYNCED_AT_ONCE

    @property
    def told(self) -> str:
        if self.file_bytes_max is not None:
            return f"files of at most {self.file_bytes_max} bytes"
        return f"{self.error or 'SIGKILL'} at {self.call} {self.nth}, {self.synced_at_once} synced at once"


def missing() -> str | None:
    """Why strace cannot be used here, None when it can."""
    program = shutil.which(PROGRAM)
    if program is None:
        return f"{PROGRAM} is not installed (Debian: apt-get install strace)"
    tried = subprocess.run([program, "-qq", "-e", "trace=none", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"{PROGRAM} may not trace here: {tried.stderr.decode().strip()}"


class Crashes:
    """The faults and what became of each; `base` is a folder for the logs."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._fresh = base / "fresh"
        ensure_keys(self._fresh / "keys", TENANT)

    def faults(self) -> list[Fault]:
        """Every call that a life without faults makes, killed and failed; and files that may not grow.

        Those that sync files both ways: each by itself, as one thread makes them all; and several at the same time.
        """
        found = [fault for fault in self._faults(1) if fault.call == "fdatasync"]
        return found + self._faults(SYNCED_AT_ONCE) + [Fault("write", 0, None, limit) for limit in FILE_LIMITS]

    def _faults(self, synced_at_once: int) -> list[Fault]:
        folder = self._copy("count")
        done = self._live(folder, Fault("write", NEVER, synced_at_once=synced_at_once))
        if done.returncode != 0:
            raise RuntimeError(f"a life without faults ended with {done.returncode}: {done.stderr}")
        lines = (folder / "trace").read_text().splitlines()
        shutil.rmtree(folder)
        found: list[Fault] = []
        for call, error in ERRORS.items():
            for nth, line in enumerate(_most_by_one_thread(lines, call), 1):
                found.append(Fault(call, nth, synced_at_once=synced_at_once))
                if "EEXIST" not in line:  # to make a folder that is there already fails in any case, and does no harm
                    found.append(Fault(call, nth, error, synced_at_once=synced_at_once))
        return found

    def suffer(self, fault: Fault) -> list[str]:
        """One life with a fault, another that goes on from there, an audit; returns what is wrong."""
        folder = self._copy(re.sub(r"\W+", "-", fault.told))
        try:
            return [f"{fault.told}: {problem}" for problem in self._suffer(folder, fault)]
        finally:
            shutil.rmtree(folder)

    def _suffer(self, folder: Path, fault: Fault) -> Iterator[str]:
        done = self._live(folder, fault)
        is_killed = fault.error is None and fault.file_bytes_max is None
        if done.returncode != (KILLED if is_killed else STOPPED):
            yield f"the signer ended with {done.returncode}: {done.stderr.strip()}"
        if fault.error is not None:
            after = _calls_after_fault(folder)
            if after:
                yield f"after the failure the signer went on with {after[0]}"
        seen = [Folder(folder / "log").read(CHECKPOINT), Folder(folder / "keys" / TENANT).read(LAST_SIGNED)]
        try:
            if live(folder) != 0:
                yield "the signer did not go on"
                return
            _require_whole(folder, [note for note in seen if note])
        except LedgerError as err:
            yield f"afterwards: {err}"

    def _copy(self, name: str) -> Path:
        return Path(shutil.copytree(self._fresh, self._base / name))

    def _live(self, folder: Path, fault: Fault) -> subprocess.CompletedProcess[str]:
        injected = f"signal=KILL:when={fault.nth}" if fault.error is None else f"error={fault.error}:when={fault.nth}"
        program = [sys.executable, "-m", "simulations.crash_life", str(folder), str(fault.synced_at_once)]
        if fault.file_bytes_max is not None:
            command = [*program, str(fault.file_bytes_max)]
        else:
            traced = ["-f", "-qq", "-o", str(folder / "trace"), "-e", f"trace={','.join(CALLS)}"]
            command = [PROGRAM, *traced, "-e", f"inject={fault.call}:{injected}", *program]
        # Byte code that Python would store is not the signer's writing.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": python_path()}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )


def _most_by_one_thread(lines: list[str], call: str) -> list[str]:
    """The lines of one call by the thread that made most of them: strace counts for each thread by itself."""
    by_thread: dict[str, list[str]] = {}
    for line in lines:
        if (match := _CALL.match(line)) and match[2] == call:
            by_thread.setdefault(match[1], []).append(line)
    return max(by_thread.values(), key=len, default=[])


def _calls_after_fault(folder: Path) -> list[str]:
    """The calls of a traced life that came after the injected error.

    Left out are those of other threads that sync files of the same stretch: when they see the failure is the system's
    choice (`Folder.sync`; a test of its own holds them to stopping then). Whoever failed does nothing any more.
    """
    lines = (folder / "trace").read_text().splitlines()
    at = next((at for at, line in enumerate(lines) if "(INJECTED)" in line), len(lines))
    failed = "".join(lines[at : at + 1])
    is_shared = f" {SHARED}" in failed
    found: list[str] = []
    for line in lines[at + 1 :]:
        match = _CALL.match(line)
        # What it says of the failure, on its error output, is no work on a file.
        if match is None or re.match(r"^\d+ +write\(2,", line):
            continue
        if not (is_shared and match[2] == SHARED and match[1] != failed.partition(" ")[0]):
            found.append(match[2])
    return found


def _require_whole(folder: Path, seen: list[bytes]) -> None:
    path = folder / "keys" / TENANT / POLICY
    policy = parse_policy(f"policy {path}", path.read_bytes())
    source = Folder(folder / "log")
    found = audit_log(source, policy, clock_skew_s=10**9)
    final = found.checkpoint.checkpoint
    reader = LogReader(source, FINAL_SIZE)
    if final.tree_size != FINAL_SIZE:
        raise LedgerError("tree size", expected=FINAL_SIZE, found=final.tree_size)
    for note in seen:
        old = policy.open("checkpoint seen before", note).checkpoint
        if old.tree_size:
            proof = reader.consistency_proof(old.tree_size)
            verify_consistency(old.tree_size, FINAL_SIZE, old.root, final.root, proof)


class Outcome(NamedTuple):
    """How many faults there were by kind, and what went wrong."""

    tried: Counter[str]
    problems: list[str]


def run(cases: int | None, *, jobs: int = 1, show: Callable[[int, int], None] | None = None) -> Outcome:
    """Suffer all faults, or so many of them."""
    tried: Counter[str] = Counter()
    problems: list[str] = []
    with TemporaryDirectory(prefix="tally-crashes-") as scratch, ThreadPoolExecutor(jobs) as pool:
        crashes = Crashes(Path(scratch))
        every = crashes.faults()
        chosen = every if cases is None else Random(cases).sample(every, min(cases, len(every)))
        for done, (fault, found) in enumerate(zip(chosen, pool.map(crashes.suffer, chosen), strict=True), 1):
            tried["short writes" if fault.file_bytes_max else f"{fault.error or 'SIGKILL'} at {fault.call}"] += 1
            problems += found
            if show:
                show(done, len(chosen))
    return Outcome(tried, problems)
