"""Fixtures of the ledger's tests."""

import os
import tempfile
from pathlib import Path

import pytest
from witness_samples import RunningWitness, WitnessedLog

from ledger import keyring, witness_client, witness_setup


@pytest.fixture
def scratch(tmp_path):
    """A folder in memory where there is one: for tests that write thousands of files and need no real disk."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="tallyroot-test-") as folder:
        yield Path(folder)


@pytest.fixture
def ed25519_alone(monkeypatch):
    """Where hundreds of signatures are made; the other algorithm has its own tests."""
    monkeypatch.setattr(keyring, "has_ml_dsa_44", lambda: False)
    monkeypatch.setattr(witness_setup, "has_ml_dsa_44", lambda: False)


@pytest.fixture
def witnessed(scratch, ed25519_alone, monkeypatch):
    """A log whose policy can be made to ask for cosignatures."""
    monkeypatch.setattr(witness_client, "RETRY_MAX_S", 0.5)
    return WitnessedLog(scratch / "log")


@pytest.fixture
def witnesses(witnessed, scratch):
    """Three witnesses that know the log."""
    running = [
        RunningWitness(scratch / f"w{number}", witnessed.plain_policy(), name=f"w{number}.example").start()
        for number in range(3)
    ]
    yield running
    for witness in running:
        witness.stop()
