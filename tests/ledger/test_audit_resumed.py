"""An audit that was interrupted goes on where it stopped, and finds no less for it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from log_samples import ANY_TIME_S, NOV_21, Installation, event

from ledger import audit, replay
from ledger.cli import main
from ledger.errors import EventRefused, HistoryForked, LogDamaged, WrongUse
from ledger.progress import AuditProgress, ProgressFile, Replayed, decode_progress, encode_progress

DEC_1 = 1_796_083_200_000
OPTIONS = {"log": "here"}


class Stopped(KeyboardInterrupt):
    pass


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 512 entries, so that a small log has several; the command runs with those that it has."""
    monkeypatch.setattr(replay, "BLOCK_BUNDLES", 2)
    monkeypatch.setattr(audit, "BLOCK_ENTRIES", 512)


def publish(installed, *stages, **changes):
    for size, now_ms in stages:
        writer = installed.open(now_ms)
        writer.append([event(number, subjects=90, **changes) for number in range(writer.tree_size, size)])
        writer.close(now_ms)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Three blocks of the audit, over two months; later tests add to copies of it."""
    installed = Installation(tmp_path_factory.mktemp("long"))
    publish(installed, (600, NOV_21), (1_300, DEC_1 + 1))
    return installed


@pytest.fixture
def copy(long, tmp_path):
    shutil.copytree(long.log_dir.parent, tmp_path / "copy")
    return Installation(tmp_path / "copy")


def stop_at(entries):
    def progress(done, _total):
        if done >= entries:
            raise Stopped

    return progress


def interrupted(installed, tmp_path, at=512):
    """Progress of an audit that was stopped; what it has read so far must hold."""
    file = ProgressFile(tmp_path / "progress", OPTIONS)
    with pytest.raises(Stopped):
        installed.audit(progress=stop_at(at), progress_file=file)
    return file


def damage(installed, path):
    data = bytearray(installed.folder.read(path))
    data[-7] ^= 1
    installed.folder.replace(path, bytes(data))


@pytest.mark.parametrize("at", [512, 1_024])
def test_a_resumed_audit_reports_what_an_uninterrupted_one_does_and_says_what_it_did_not_read_again(copy, tmp_path, at):
    file = interrupted(copy, tmp_path, at)
    seen = []

    resumed, whole = copy.audit(progress_file=file, progress=lambda *x: seen.append(x)), copy.audit()

    assert (resumed.counts, resumed.link, resumed.months) == (whole.counts, whole.link, whole.months)
    assert f"1300 entries hashed again ({at} of them before it was interrupted)" in resumed.claims[1].detail
    assert seen[0] == (at, 1_300)
    assert file.load() is None


def test_what_comes_after_the_interruption_is_checked_as_ever(copy, tmp_path):
    file = interrupted(copy, tmp_path)
    damage(copy, "tile/entries/003")

    with pytest.raises(LogDamaged, match="tile/entries/003"):
        copy.audit(progress_file=file)


def test_an_audit_that_failed_goes_on_once_the_file_is_mended(copy, tmp_path):
    file = ProgressFile(tmp_path / "progress", OPTIONS)
    good = copy.folder.read("tile/entries/005.p/20")
    damage(copy, "tile/entries/005.p/20")
    with pytest.raises(LogDamaged, match="tile/entries/005"):
        copy.audit(progress_file=file)
    copy.folder.replace("tile/entries/005.p/20", good)

    assert "1024 of them before" in copy.audit(progress_file=file).claims[1].detail


def test_a_gap_in_the_versions_across_the_interruption_is_found(tmp_path):
    installed = Installation(tmp_path)
    writer = installed.open()
    writer.append([event(number, subjects=512) for number in range(512)])
    writer.append([event(512, subjects=512, aggregateversion=3)])
    writer.close(NOV_21)
    file = interrupted(installed, tmp_path)

    with pytest.raises(EventRefused, match="entry 512, aggregateversion of 'player/b0': expected 2"):
        installed.audit(progress_file=file)


def test_a_log_that_grew_meanwhile_is_audited_to_its_new_end(copy, tmp_path):
    file = interrupted(copy, tmp_path)
    publish(copy, (1_900, DEC_1 + 5_000))

    report = copy.audit(progress_file=file)

    assert report.checkpoint.checkpoint.tree_size == 1_900
    assert "512 of them before" in report.claims[1].detail


def rewritten(copy, tmp_path):
    """Another log of the same size by the same keys, which forgot the first one."""
    shutil.copytree(copy.log_dir.parent / "keys", tmp_path / "other" / "keys")
    (tmp_path / "other" / "keys" / "boston" / "last-signed").unlink()
    other = Installation(tmp_path / "other")
    publish(other, (600, NOV_21), (1_300, DEC_1 + 1), actor="forger")
    return other


def test_a_log_that_was_rewritten_meanwhile_is_a_fork(copy, tmp_path):
    file = interrupted(copy, tmp_path)

    with pytest.raises(HistoryForked, match="split view"):
        rewritten(copy, tmp_path).audit(progress_file=file)


def test_on_a_conflict_with_an_interrupted_audit_both_checkpoints_are_kept_as_evidence(copy, tmp_path, capsys):
    kept = interrupted(copy, tmp_path).load()
    other, state = rewritten(copy, tmp_path), tmp_path / "progress"
    log = str(other.log_dir)
    options = {"log": log, "plain": False, "clock_skew_s": ANY_TIME_S}
    ProgressFile(state, options).save(kept.checkpoint, kept.replayed)
    arguments = [
        "audit",
        log,
        "--policy",
        str(other.policy_path),
        "--clock-skew",
        str(ANY_TIME_S),
        "--resume",
        str(state),
    ]

    assert main(arguments) == 1

    assert "both signed checkpoints are kept in" in capsys.readouterr().out
    evidence = json.loads((tmp_path / "progress.evidence-1.json").read_bytes())
    assert evidence["remembered"] == kept.checkpoint.decode()
    assert evidence["found"] == other.folder.read("checkpoint").decode()


def test_a_state_that_the_interrupted_audit_did_not_keep_makes_it_begin_again(copy, tmp_path):
    file = interrupted(copy, tmp_path, 1_024)
    known = copy.policy().open("known", copy.audit().months[0].closing.checkpoint)
    replayed = file.load().replayed
    del replayed.states[600]
    file.save(copy.folder.read("checkpoint"), replayed)

    report = copy.audit(progress_file=file, known=known)

    assert "before it was interrupted" not in report.claims[1].detail


def test_progress_that_was_damaged_or_is_of_another_audit_is_refused(tmp_path):
    file = ProgressFile(tmp_path / "progress", OPTIONS)
    file.save(b"note", Replayed())
    data = (tmp_path / "progress").read_bytes()

    with pytest.raises(WrongUse, match=r"progress: name another file, or remove it: expected .*there"):
        ProgressFile(tmp_path / "progress", {"log": "there"}).load()
    for bad in (data[:-1], data.replace(b'"bundles":0', b'"bundles":9'), b"", b"x", data + b" "):
        (tmp_path / "progress").write_bytes(bad)
        with pytest.raises(WrongUse, match="progress: remove it to begin again"):
            file.load()


def test_progress_is_read_as_it_was_written(copy, tmp_path):
    found = interrupted(copy, tmp_path, 1_024).load()

    assert decode_progress("progress", encode_progress(found)) == found
    assert isinstance(found, AuditProgress)
    assert set(found.replayed.states) == {0, 600}
    assert found.replayed.bundles == 4


def test_the_audit_command_interrupted_by_ctrl_c_goes_on(tmp_path, capsys):
    copy, state = Installation(tmp_path / "big"), tmp_path / "state"
    writer = copy.open()
    writer.append([event(number, subjects=20_000, data=0) for number in range(16_390)])
    writer.close(NOV_21)
    arguments = ["audit", str(copy.log_dir), "--policy", str(copy.policy_path), "--clock-skew", str(ANY_TIME_S)]
    arguments += ["--resume", str(state), "--jobs", "2"]
    # A reader that blocks (a named pipe in place of a late file) holds the audit between two blocks.
    late = copy.log_dir / "tile" / "entries" / "064.p" / "6"
    content = late.read_bytes()
    late.unlink()
    os.mkfifo(late)
    command = [sys.executable, "-m", "ledger.cli", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    # The process that hangs in the pipe leaves interrupts to the first one, which waits for it: let it read nothing.
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):  # nobody reads yet, or any more
            os.close(os.open(late, os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.02)
    _, err = process.communicate(timeout=60)
    late.unlink()
    late.write_bytes(content)

    assert (process.returncode, err) == (130, "")
    assert json.loads(state.read_bytes().partition(b"\n")[2])["bundles"] * 256 == 16_384
    assert main(arguments) == 0
    assert "(16384 of them before it was interrupted)" in capsys.readouterr().out
    assert not state.exists()
