"""A log whose end is missing, or whose checkpoint promises more than there is (LEDGER.md 5C), each with its message."""

import shutil

import pytest
from log_samples import NOV_21, Installation, events, slow_root

from ledger.checkpoint import Checkpoint
from ledger.cli import main
from ledger.tiles import encode_bundle

TAIL = ("tile/entries/001.p/44", "tile/0/001.p/44", "chain/001.p/44")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    base = tmp_path_factory.mktemp("whole")
    Installation(base / "log").publish(200, 300)
    return base / "log"


@pytest.fixture
def installed(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "log")
    return Installation(tmp_path / "log")


def audit(installed, capsys, *options):
    code = main(["audit", str(installed.log_dir), "--policy", str(installed.policy_path), *map(str, options)])
    return code, capsys.readouterr().out.splitlines()[-1]


def sign(installed, size, root):
    """Publish a checkpoint by the log's own keys, whatever it says."""
    note = installed.keyring.sign(Checkpoint(installed.keyring.origin, size, root), NOV_21 // 1000)
    installed.folder.replace("checkpoint", note)


def test_the_whole_log_passes(installed, capsys):
    assert audit(installed, capsys) == (0, "verified")


@pytest.mark.parametrize("path", TAIL)
def test_a_missing_tail_is_named_by_the_first_file_that_the_checkpoint_needs(installed, capsys, path):
    installed.folder.remove(path)

    assert audit(installed, capsys) == (1, f"FAILED  {path}: expected the file, as tree size 300 needs it, found none")


def test_a_checkpoint_that_is_larger_than_the_data_is_refused_though_its_signature_is_good(installed, capsys):
    sign(installed, 301, slow_root(events(0, 301)))

    assert audit(installed, capsys) == (
        1,
        "FAILED  tile/entries/001.p/45: expected the file, as tree size 301 needs it, found none",
    )


@pytest.mark.parametrize("cut", [1, 500])
def test_a_last_bundle_that_is_shortened_is_named(installed, capsys, cut):
    path = "tile/entries/001.p/44"
    installed.folder.replace(path, installed.folder.read(path)[:-cut])

    code, said = audit(installed, capsys)

    assert code == 1
    assert said.startswith(f"FAILED  {path}")


def test_a_last_bundle_that_lacks_its_last_event_is_named(installed, capsys):
    installed.folder.replace("tile/entries/001.p/44", encode_bundle(events(256, 299)))

    code, said = audit(installed, capsys)

    assert code == 1
    assert said.startswith("FAILED  tile/entries/001.p/44")


def test_a_log_cut_off_at_an_older_genuine_checkpoint_is_found_by_who_remembers(installed, tmp_path, capsys):
    remembered = tmp_path / "boston.last"
    assert audit(installed, capsys, "--remember", remembered)[0] == 0
    keys = shutil.copytree(installed.keyring.folder, tmp_path / "older" / "keys" / "boston")
    (keys / "last-signed").unlink()
    older = Installation(tmp_path / "older")
    older.publish(200)

    code, said = audit(older, capsys, "--remember", remembered)

    assert code == 1
    assert said.startswith("FAILED  rollback: the log is smaller than it was: expected at least size 300, root ")
    assert "; both signed checkpoints are kept in " in said
