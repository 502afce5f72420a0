"""What was signed once stays: rollback, split view, fork and frozen logs are found, and the evidence is kept."""

import json
import shutil
import subprocess
import sys
import time
import zipfile

import pytest
from log_samples import NOV_21, Installation, event, events

from ledger.build_pyz import build
from ledger.checkpoint import Checkpoint
from ledger.cli import main
from ledger.errors import HistoryForked
from ledger.history import require_fresh, require_later
from ledger.receipt import prove_entry


@pytest.fixture
def installed(tmp_path):
    installed = Installation(tmp_path / "honest")
    installed.publish(300)
    return installed


@pytest.fixture
def twin(installed, tmp_path):
    """The same log and keys in a second place, from where another history can grow."""
    shutil.copytree(tmp_path / "honest", tmp_path / "twin")
    return Installation(tmp_path / "twin")


def audit(installed, *options):
    return main(["audit", str(installed.log_dir), "--policy", str(installed.policy_path), *map(str, options)])


@pytest.fixture
def remembered(installed, tmp_path):
    path = tmp_path / "boston.last"
    assert audit(installed, "--remember", path) == 0
    return path


def test_a_good_audit_is_remembered_and_the_next_one_proves_that_the_log_grew_from_there(installed, remembered, capsys):
    assert remembered.read_bytes() == installed.folder.read("checkpoint")
    installed.publish(700)

    assert audit(installed, "--remember", remembered) == 0

    assert "ok      history     extends the checkpoint of an earlier audit, size 300" in capsys.readouterr().out
    assert remembered.read_bytes() == installed.folder.read("checkpoint")


def test_a_rolled_back_log_is_found_by_the_remembered_checkpoint(installed, twin, remembered, capsys):
    installed.publish(400)
    assert audit(installed, "--remember", remembered) == 0
    newest = remembered.read_bytes()

    code = audit(twin, "--remember", remembered)

    out = capsys.readouterr().out
    assert code == 1
    assert "FAILED  rollback: the log is smaller than it was: expected at least size 400" in out
    evidence = json.loads((remembered.parent / "boston.last.evidence-1.json").read_bytes())
    assert evidence["remembered"].encode() == newest == remembered.read_bytes()
    assert evidence["found"].encode() == twin.folder.read("checkpoint")


def grow_differently(twin, size):
    writer = twin.open()
    writer.append([event(300, causationid="another"), *events(301, size)])
    writer.sign(NOV_21)
    writer.close(NOV_21)


def test_two_checkpoints_of_one_size_are_a_split_view(installed, twin, remembered, capsys):
    installed.publish(400)
    assert audit(installed, "--remember", remembered) == 0
    grow_differently(twin, 400)

    assert audit(twin, "--remember", remembered) == 1
    assert "FAILED  split view: two checkpoints of one size are signed" in capsys.readouterr().out
    assert len(list(remembered.parent.glob("*.evidence-*.json"))) == 1


def test_a_longer_log_with_another_beginning_is_a_fork(installed, twin, remembered, capsys):
    installed.publish(400)
    assert audit(installed, "--remember", remembered) == 0
    grow_differently(twin, 500)

    assert audit(twin, "--remember", remembered) == 1
    assert audit(twin, "--remember", remembered) == 1
    assert "FAILED  fork: the first 400 entries are not those that were signed" in capsys.readouterr().out
    assert len(list(remembered.parent.glob("*.evidence-*.json"))) == 2


def test_consistency_is_proved_from_the_tiles_alone(installed, remembered, tmp_path, capsys):
    installed.publish(700)
    shutil.rmtree(installed.log_dir / "tile" / "entries")
    arguments = [
        "consistency",
        str(installed.log_dir),
        "--old",
        str(remembered),
        "--policy",
        str(installed.policy_path),
    ]

    assert main([*arguments, "--proof", str(tmp_path / "proof")]) == 0
    assert capsys.readouterr().out.endswith("verified\n")
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["proof"] == (tmp_path / "proof").read_text().split()


def test_consistency_with_another_history_is_refused(installed, twin, remembered, capsys):
    installed.publish(400)
    assert audit(installed, "--remember", remembered) == 0
    grow_differently(twin, 500)

    code = main(["consistency", str(twin.log_dir), "--old", str(remembered), "--policy", str(installed.policy_path)])

    assert code == 1
    assert "FAILED  fork: size 500" in capsys.readouterr().out


def opened(installed, at_seconds, size=10):
    checkpoint = Checkpoint(installed.keyring.origin, size, bytes(32))
    return installed.policy().open("checkpoint", installed.keyring.sign(checkpoint, at_seconds))


def test_a_frozen_log_and_one_from_the_future_are_refused(installed):
    found = opened(installed, 1_000_000)
    if found.at_seconds is None:
        pytest.skip("this build of cryptography signs no times")

    require_fresh(found, 1_000_060, 60)
    require_fresh(found, 999_900, 60)
    with pytest.raises(HistoryForked, match=r"frozen log.*at most 60 s, found 61"):
        require_fresh(found, 1_000_061, 60)
    with pytest.raises(HistoryForked, match="from the future"):
        require_fresh(found, 999_000, 60)


def test_a_log_of_unknown_age_fails_where_an_age_is_asked_for(installed):
    found = opened(installed, 1_000_000)
    ageless = type(found)(found.checkpoint, found.note, found.signed_by, (), None)

    with pytest.raises(HistoryForked, match="unknown"):
        require_fresh(ageless, 1_000_000, 60)


def test_the_time_of_a_later_checkpoint_is_not_earlier(installed):
    later, earlier = opened(installed, 2_000, size=11), opened(installed, 3_000, size=10)
    if later.at_seconds is None:
        pytest.skip("this build of cryptography signs no times")

    with pytest.raises(HistoryForked, match="backwards"):
        require_later(earlier, later)


def test_the_audit_command_refuses_a_log_that_is_older_than_allowed(tmp_path, capsys):
    installed = Installation(tmp_path)
    installed.publish(3, now_ms=int(time.time() * 1000) - 90_000)
    if installed.policy().open("c", installed.folder.read("checkpoint")).at_seconds is None:
        pytest.skip("this build of cryptography signs no times")

    assert audit(installed, "--max-age", 3_600) == 0
    assert audit(installed, "--max-age", 30) == 1
    assert "frozen log: age of the checkpoint: expected at most 30 s" in capsys.readouterr().out


def test_the_checker_in_one_file_verifies_and_is_built_the_same_each_time(installed, tmp_path):
    checker = build(tmp_path / "tally-verify.pyz")
    receipt = tmp_path / "r.receipt"
    receipt.write_bytes(bytes(prove_entry(installed.folder, installed.policy(), 7)))

    done = subprocess.run(
        [sys.executable, str(checker), "verify", str(receipt), "--policy", str(installed.policy_path)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("verified\n")
    assert build(tmp_path / "again.pyz").read_bytes() == checker.read_bytes()
    with zipfile.ZipFile(checker) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"__main__.py", "ledger"}
