"""The signer is killed at every single write, sync, rename and removal; what was not synced is torn.

After each crash the log is opened again and the same events come in: every checkpoint that anybody ever saw must be a
part of the final log, and the final log must pass the audit.
"""

import random
import shutil
import threading
from pathlib import Path

import pytest
from log_samples import DAY_MS, NOV_21, Installation, event, events

from ledger import files, keyring
from ledger.errors import LedgerError, LogDamaged
from ledger.files import Folder
from ledger.proofs import verify_consistency
from ledger.reader import LogReader

DECEMBER = NOV_21 + 20 * DAY_MS
FINAL_SIZE = 540
#: A batch comes in two, with no checkpoint between: hashes of the first are synced with the bundle of the second.
CUT = 270
EVENTS = events(0, FINAL_SIZE)


class Crash(BaseException):
    """The process is gone."""


class Disk:
    """Counts down the operations on the disk, then ends the process; unsynced files are torn."""

    def __init__(self, monkeypatch):
        self.left = None
        self.done = 0
        self._unsynced = {}
        self._os = files.os
        self._lock = threading.Lock()
        monkeypatch.setattr(files, "os", self)
        for name in ("rename", "unlink", "rmdir"):
            self._wrap(monkeypatch, name)

    def __getattr__(self, name):
        return getattr(self._os, name)

    def _wrap(self, monkeypatch, name):
        original = getattr(Path, name)

        def wrapped(path, *args, **kwargs):
            self.step()
            return original(path, *args, **kwargs)

        monkeypatch.setattr(Path, name, wrapped)

    def step(self):
        with self._lock:  # files are synced in several threads
            if self.left is not None:
                if self.left <= 0:
                    raise Crash
                self.left -= 1
            self.done += 1

    def open(self, path, flags, mode=0o777):
        is_written = flags & self._os.O_WRONLY
        if is_written or flags & self._os.O_DIRECTORY:  # reading changes nothing that the next life finds
            self.step()
        descriptor = self._os.open(path, flags, mode)
        if is_written:
            self._unsynced[descriptor] = path
        return descriptor

    def write(self, descriptor, data):
        try:
            self.step()
        except Crash:
            self._os.write(descriptor, data[: len(data) // 2])
            raise
        return self._os.write(descriptor, data)

    def fsync(self, descriptor):
        self.step()
        self._unsynced.pop(descriptor, None)

    fdatasync = fsync

    def crash_at(self, left):
        self.left, self.done = left, 0
        self._unsynced.clear()

    def tear(self, dice):
        """After the crash: what was not synced is cut short, zeroed or whole."""
        self.left = None
        for path in self._unsynced.values():
            if Path(path).exists():
                data = Path(path).read_bytes()
                kept = dice.choice([data, data[: dice.randrange(len(data) + 1)], bytes(len(data)), b""])
                Path(path).write_bytes(kept)
        self._unsynced.clear()


def live(installed, seen):
    """A signer's life: batches, checkpoints, a month that ends; goes on from wherever the log stands."""
    writer = installed.open(NOV_21)
    try:
        for size, now_ms in ((3, NOV_21), (250, NOV_21 + 1_500), (530, NOV_21 + 3_000), (FINAL_SIZE, DECEMBER)):
            for end in (min(CUT, size), size):
                if writer.tree_size < end:
                    writer.append(EVENTS[writer.tree_size : end])
            writer.sign(now_ms)
            seen.append(installed.folder.read("checkpoint"))
        writer.close(DECEMBER + 1_000)
    finally:
        writer.abandon()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """An installation with its keys, before its first event; Ed25519 alone, as hundreds of lives are lived here."""
    base = tmp_path_factory.mktemp("fresh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyring, "has_ml_dsa_44", lambda: False)
        Installation(base)
    return base


def count_operations(fresh, base, disk):
    shutil.copytree(fresh, base)
    disk.crash_at(10**9)
    live(Installation(base), [])
    return disk.done


def require_whole(installed, seen):
    report = installed.audit()
    assert report.checkpoint.checkpoint.tree_size == FINAL_SIZE
    assert [month.month for month in report.months] == ["2026-11", "2026-12"]
    assert report.months[0].closing.tree_size in {0, 3, 250, 530}
    final = report.checkpoint.checkpoint
    reader = LogReader(installed.folder, FINAL_SIZE)
    for note in filter(None, seen):
        old = installed.policy().open("seen checkpoint", note).checkpoint
        if old.tree_size:
            proof = reader.consistency_proof(old.tree_size)
            verify_consistency(old.tree_size, FINAL_SIZE, old.root, final.root, proof)


def test_a_signer_killed_at_any_operation_goes_on_without_a_fork(fresh, scratch, monkeypatch):
    disk = Disk(monkeypatch)
    operations = count_operations(fresh, scratch / "count", disk)
    assert operations > 150
    shutil.rmtree(scratch / "count")

    for left in range(operations):
        dice = random.Random(left)
        base = scratch / f"crash-{left}"
        shutil.copytree(fresh, base)
        installed, seen = Installation(base), []
        disk.crash_at(left)
        with pytest.raises(Crash):
            live(installed, seen)
        disk.tear(dice)
        seen += [installed.folder.read("checkpoint"), Folder(installed.keyring.folder).read("last-signed")]
        live(installed, seen)
        require_whole(installed, seen)
        shutil.rmtree(base)


def test_a_signer_killed_again_and_again_goes_on_without_a_fork(fresh, scratch, monkeypatch):
    disk = Disk(monkeypatch)
    dice = random.Random(20261121)
    for round_number in range(12):
        base = scratch / f"round-{round_number}"
        shutil.copytree(fresh, base)
        installed, seen = Installation(base), []
        for _ in range(6):
            disk.crash_at(dice.randrange(120))
            try:
                live(installed, seen)
            except Crash:
                disk.tear(dice)
            disk.left = None
            seen += [installed.folder.read("checkpoint"), Folder(installed.keyring.folder).read("last-signed")]
        live(installed, seen)
        require_whole(installed, seen)


@pytest.mark.parametrize("name", ["open", "write", "fdatasync", "fsync"])
def test_a_full_or_failing_disk_stops_the_signer_and_nothing_half_done_is_promised(fresh, tmp_path, monkeypatch, name):
    shutil.copytree(fresh, tmp_path / "log")
    installed = Installation(tmp_path / "log")
    writer = installed.open()
    writer.append(events(0, 300))
    writer.sign(NOV_21)
    writer.append(events(300, 400))

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, name, fail)
        with pytest.raises(OSError, match="No space"):
            writer.sign(NOV_21 + 1_000)
    with pytest.raises(LedgerError, match="open the log again"):
        writer.append([event(400)])
    writer.abandon()
    assert installed.audit().checkpoint.checkpoint.tree_size == 300
    installed.publish(400)
    assert installed.audit().checkpoint.checkpoint.tree_size == 400


def test_a_disk_that_writes_something_else_is_noticed_before_signing(fresh, tmp_path):
    class ForgetfulFolder(Folder):
        def write_new(self, path, data):
            return super().write_new(path, data[:-3] if path == "tile/entries/000" else data)

    shutil.copytree(fresh, tmp_path / "log")
    installed = Installation(tmp_path / "log")
    writer = installed.open(folder=ForgetfulFolder(installed.log_dir))

    with pytest.raises(LogDamaged, match="tile/entries/000, read back"):
        writer.append(events(0, 256))
    writer.abandon()
