"""What is written is made durable file by file in several threads, then by name; a failure ends it at once."""

import os
import threading

import pytest

from ledger.files import Folder

LONG_S = 20


class Watched:
    """The syncs and closings of files and folders, by name; `fails` names the file whose sync fails."""

    def __init__(self, monkeypatch, fails=None):
        self.synced = []
        self.closed = []
        self.changed = threading.Condition()
        self._fails = fails
        self.names = {}
        self._open, self._close, self._fsync = os.open, os.close, os.fsync
        for call in ("open", "close", "fdatasync", "fsync"):
            monkeypatch.setattr(os, call, getattr(self, call), raising=False)  # macOS has no `fdatasync`

    def open(self, path, *how):
        descriptor = self._open(path, *how)
        self.names[descriptor] = os.path.basename(path)  # noqa: PTH119 (this stands in for `os` itself)
        return descriptor

    def close(self, descriptor):
        name = self.names.pop(descriptor, None)
        self._close(descriptor)
        if name is not None:  # else it is somebody else's
            with self.changed:
                self.closed.append(name)
                self.changed.notify_all()

    def fdatasync(self, descriptor):
        self.fsync(descriptor)
        if self.names[descriptor] == self._fails:
            raise OSError(5, "Input/output error")

    def fsync(self, descriptor):
        with self.changed:
            self.synced.append(self.names[descriptor])
            self.changed.notify_all()
        self._fsync(descriptor)

    def wait_until(self, is_so):
        with self.changed:
            assert self.changed.wait_for(is_so, LONG_S), (self.synced, self.closed)


def written(tmp_path, names, threads):
    folder = Folder(tmp_path, synced_at_once=threads)
    for name in names:
        folder.write(f"tile/{name}", name.encode())
    return folder


def test_names_are_synced_when_the_files_are(tmp_path, monkeypatch):
    watched = Watched(monkeypatch)
    folder = written(tmp_path, "abcdef", threads=3)

    folder.sync()
    folder.close()

    assert sorted(watched.synced[:6]) == list("abcdef")
    assert sorted(watched.synced[6:]) == sorted([tmp_path.name, "tile"])


def test_after_a_failure_no_file_and_no_folder_is_synced_and_all_are_closed(tmp_path, monkeypatch):
    watched = Watched(monkeypatch, fails="b")
    folder = written(tmp_path, "abcd", threads=1)

    with pytest.raises(OSError, match="Input/output error"):
        folder.sync()
    folder.close()

    assert watched.synced == ["a", "b"]
    assert watched.closed == list("abcd")  # in this order, by one thread


def test_another_thread_ends_the_file_that_it_has_in_hand_and_begins_no_other(tmp_path, monkeypatch):
    watched = Watched(monkeypatch, fails="a")
    folder = written(tmp_path, "abcd", threads=2)  # one thread has a and c, the other b and d
    sync = watched.fdatasync

    def fdatasync(descriptor):
        name = watched.names[descriptor]
        if name == "a":
            watched.wait_until(lambda: "b" in watched.synced)
        sync(descriptor)
        if name == "b":  # who failed has closed all that it had: the failure is known
            watched.wait_until(lambda: {"a", "c"} <= set(watched.closed))

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(OSError, match="Input/output error"):
        folder.sync()
    folder.close()

    assert watched.synced == ["b", "a"]
    assert sorted(watched.closed) == list("abcd")
