"""Keys are rotated under a running signer: real server, one process with worker and signer, the operator's commands."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from adapters.cli import main
from adapters.embedded_servers import NatsServer
from ledger.policy import parse_policy


@pytest.fixture
def installed(tmp_path, tenant, monkeypatch):
    """A server, and a process with worker and signer, for one tenant."""
    server = NatsServer(tmp_path / "nats", tmp_path / "nats.log", fixed_port=None, keep_open=())
    server.start()
    try:
        monkeypatch.setenv("TALLY_NATS_URL", server.url)
        monkeypatch.setenv("TALLY_LOG_DIR", str(tmp_path / "published"))
        monkeypatch.setenv("TALLY_KEYS_DIR", str(tmp_path / "keys"))
        monkeypatch.setenv("TALLY_TENANT", tenant)
        assert main(["tenant", "create", tenant]) == 0
        with serving(tmp_path) as process:
            yield process
    finally:
        server.stop()


@contextlib.contextmanager
def serving(tmp_path):
    ready = tmp_path / "ready"
    command = [sys.executable, "-m", "adapters.cli", "run", "worker,signer"]
    with (tmp_path / "run.log").open("ab") as told:
        process = subprocess.Popen(command, env={**os.environ, "TALLY_READY_FILE": str(ready)}, stderr=told)
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None, (tmp_path / "run.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def test_a_signer_turns_to_a_new_key_and_away_from_the_old_one_without_a_restart(
    installed, tenant, tmp_path, capsys, monkeypatch
):
    log, folder = tmp_path / "published" / tenant, tmp_path / "keys" / tenant
    register("ada", capsys)
    wait_for_checkpoint(log)
    old_policy = tmp_path / "old.policy"
    old_policy.write_bytes((folder / "policy").read_bytes())
    first = (folder / "log-ed25519.vkey").read_text().split("+")[1]

    added = said(capsys, "keys", "rotate", "--json")
    overlap = signers(log, folder)
    assert main(["audit", str(log), "--policy", str(old_policy)]) == 0
    assert f"{added['key']} signs from size {added['entry'] + 1} on" in capsys.readouterr().out
    retired = said(capsys, "keys", "retire", "log-ed25519", "--destroy", "--json")
    register("eve", capsys)
    after = signers(log, folder)
    rows = {row["name"]: row for row in said(capsys, "keys", "list", "--json")["keys"]}

    assert installed.poll() is None
    assert {first, added["key"].split("+")[1]} <= overlap
    assert first not in after
    assert added["key"].split("+")[1] in after
    assert rows["log-ed25519"]["last_size"] == retired["entry"]
    assert rows["log-ed25519"]["kept"] == "destroyed"
    assert rows["log-ed25519-2"]["first_size"] == added["entry"] + 1
    assert main(["audit", str(log), "--policy", str(folder / "policy")]) == 0
    assert main(["audit", str(log), "--policy", str(old_policy)]) == 1
    capsys.readouterr()
    assert main(["keys", "retire", "log-ed25519-2"]) == 2
    assert "is the last Ed25519 log key: tally keys rotate log-ed25519 first" in capsys.readouterr().err
    assert main(["replay", "ledger/keys", "--json"]) == 0
    assert "log-ed25519" not in capsys.readouterr().err


def register(name, capsys):
    assert main(["send", "RegisterPlayer", name, "{}"]) == 0
    capsys.readouterr()


def said(capsys, *arguments):
    capsys.readouterr()
    assert main(list(arguments)) == 0
    return json.loads(capsys.readouterr().out)


def wait_for_checkpoint(log):
    deadline = time.monotonic() + 30
    while not (log / "checkpoint").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def signers(log, folder):
    """IDs of the keys that signed the published checkpoint, under the policy of now."""
    policy = parse_policy("policy", (folder / "policy").read_bytes())
    opened = policy.open("checkpoint", (log / "checkpoint").read_bytes())
    return {label.rsplit("+", 1)[1] for label in opened.signed_by}
