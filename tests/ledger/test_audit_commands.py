"""Exactly once, as the log shows it: a command that was executed at two places is found, whatever lies between."""

import shutil
import tracemalloc
from hashlib import sha256

import pytest
from log_samples import NOV_21, Installation, event

from ledger import audit, replay
from ledger.commands import RECORD_BYTES, CommandRuns, run_record
from ledger.errors import EventRefused, WrongUse
from ledger.progress import ProgressFile

OPTIONS = {"log": "here"}
SUBJECTS = 7
SIZE = 1_300


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 512 entries, so that a small log has three."""
    monkeypatch.setattr(replay, "BLOCK_BUNDLES", 2)
    monkeypatch.setattr(audit, "BLOCK_ENTRIES", 512)


def published(base, commands, size=SIZE):
    """A log whose entries say that they follow from `commands`, by leaf index; from one of their own otherwise."""
    installed = Installation(base)
    writer = installed.open()
    own = ({"causationid": commands[number]} if number in commands else {} for number in range(size))
    writer.append([event(number, subjects=SUBJECTS, **changes) for number, changes in enumerate(own)])
    writer.close(NOV_21)
    return installed


def stop_at(entries):
    def progress(done, _total):
        if done >= entries:
            raise KeyboardInterrupt

    return progress


def said(installed, **options):
    with pytest.raises(EventRefused) as found:
        installed.audit(**options)
    return str(found.value)


TWICE = {
    "one idempotency key with two bodies": (1, 1 + SUBJECTS),
    "soon after": (0, 14),
    "in the next bundle": (3, 3 + 40 * SUBJECTS),
    "in another block": (3, 3 + 100 * SUBJECTS),
    "at either end": (4, 4 + (SIZE - 5) // SUBJECTS * SUBJECTS),
}


@pytest.mark.parametrize("pending_bytes_max", [1 << 10, 4 << 20])
@pytest.mark.parametrize("case", TWICE)
def test_a_command_that_was_executed_twice_is_named_with_both_places(tmp_path, monkeypatch, case, pending_bytes_max):
    monkeypatch.setattr("ledger.commands.PENDING_BYTES_MAX", pending_bytes_max)
    first, again = TWICE[case]
    installed = published(tmp_path, {first: "twice", again: "twice"})
    player = f"player.b{first % SUBJECTS}"

    assert said(installed) == (
        f"entry {again}, causationid 'twice': a command was executed twice: expected its events at one place, "
        f"entry {first} ({player}.{first // SUBJECTS + 1} {'xp-awarded/1' if first % 3 else 'quest-completed/1'} "
        f"player/b{first % SUBJECTS}), found {player}.{again // SUBJECTS + 1} "
        f"{'xp-awarded/1' if again % 3 else 'quest-completed/1'} player/b{first % SUBJECTS}"
    )


def test_several_processes_find_the_earliest_repetition_of_all(tmp_path):
    installed = published(tmp_path, {5: "x", 1_300 - 6: "x", 6: "y", 6 + 90 * SUBJECTS: "y", 6 + 91 * SUBJECTS: "y"})

    assert said(installed, jobs=2).startswith(f"entry {6 + 90 * SUBJECTS}, causationid 'y'")


LEGITIMATE = {
    "many events of many aggregates side by side": dict.fromkeys(range(20, 40), "one"),
    "over the end of a bundle": dict.fromkeys(range(250, 262), "one"),
    "over the end of a block": dict.fromkeys(range(500, 520), "one"),
    "a whole block and more": dict.fromkeys(range(400, 1_200), "one"),
    "up to the last entry": dict.fromkeys(range(1_270, 1_300), "one"),
    "one id sent to two aggregates": {0: "same", 15: "same"},
}


@pytest.mark.parametrize("case", LEGITIMATE)
def test_what_one_command_leads_to_in_one_place_is_no_repetition(tmp_path, case):
    commands = LEGITIMATE[case]
    found = published(tmp_path, commands).audit()

    runs = SIZE - len(commands) + (2 if case.startswith("one id") else 1)
    (claim,) = [claim for claim in found.claims if claim.name == "commands"]
    assert claim.detail == f"{runs} commands and batches, each at one place of the log"


@pytest.mark.parametrize("stopped_at", [512, 1_024, SIZE])
def test_a_resumed_audit_knows_the_commands_that_it_read_before(tmp_path, stopped_at):
    bad = published(tmp_path / "bad", {3: "twice", 3 + 180 * SUBJECTS: "twice"})
    good = published(tmp_path / "good", dict.fromkeys(range(1_000, 1_290), "one"))
    for name, installed in (("bad", bad), ("good", good)):
        file = ProgressFile(tmp_path / name / "progress", OPTIONS)
        with pytest.raises(KeyboardInterrupt):
            installed.audit(progress=stop_at(stopped_at), progress_file=file)
        assert file.scratch.is_dir()

    resumed = ProgressFile(tmp_path / "bad" / "progress", OPTIONS)
    assert said(bad, progress_file=resumed).startswith(f"entry {3 + 180 * SUBJECTS}, causationid 'twice'")
    file = ProgressFile(tmp_path / "good" / "progress", OPTIONS)
    claims = {claim.name: claim.detail for claim in good.audit(progress_file=file).claims}
    assert "before it was interrupted" in claims["entries"]
    assert claims["commands"].startswith(f"{SIZE - 289} commands")
    assert not resumed.scratch.exists()
    assert not file.scratch.exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_scratch_files_that_are_not_those_of_the_interrupted_audit_are_refused(tmp_path, damage):
    installed = published(tmp_path, {})
    file = ProgressFile(tmp_path / "progress", OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        installed.audit(progress=stop_at(512), progress_file=file)
    path = max(file.scratch.iterdir(), key=lambda each: each.stat().st_size)
    data = path.read_bytes()
    if damage == "gone":
        shutil.rmtree(file.scratch)
    else:
        path.write_bytes(data[:-1] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:])

    with pytest.raises(WrongUse, match=r"remove the folder and the progress file to begin again: expected .* bytes"):
        installed.audit(progress_file=ProgressFile(tmp_path / "progress", OPTIONS))


def test_a_record_is_what_the_formats_page_says():
    digest = sha256(b"2:c7player/b1").digest()[:16]

    assert run_record("c7", "player/b1", 258) == digest + bytes([0, 0, 0, 0, 0, 0, 1, 2])
    assert run_record("c", "7player/b1", 0)[:16] != run_record("c7", "player/b1", 0)[:16]


def test_memory_stays_flat_while_commands_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr("ledger.commands.PENDING_BYTES_MAX", 1 << 16)
    number = 10_000
    records = int.from_bytes(b"".join(run_record(f"c{at}", "player/b1", at) for at in range(number)), "big")
    peaks = []
    for times in (2, 12):
        runs = CommandRuns(tmp_path / f"runs-{times}", [])
        tracemalloc.start()
        for turn in range(times):
            others = int.from_bytes(bytes([turn + 1]) * RECORD_BYTES * number, "big")
            runs.add((records ^ others).to_bytes(RECORD_BYTES * number, "big"))
        assert runs.first_repeated() is None
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(runs) == times * number

    assert peaks[1] < 1.25 * peaks[0]


def test_nothing_is_left_behind_by_an_audit(tmp_path, monkeypatch):
    monkeypatch.setattr("ledger.commands.PENDING_BYTES_MAX", 1 << 10)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    published(tmp_path / "log", {}, 300).audit()
    said(published(tmp_path / "twice", {0: "x", SUBJECTS: "x"}, 300))

    assert list((tmp_path / "scratch").iterdir()) == []
