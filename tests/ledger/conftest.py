"""Fixtures of the ledger's tests."""

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from authorities import Authority, AuthorityServer
from kept_places import LAST_MONTH_MS, NOW_MS, Place, recorded
from log_samples import Installation
from witness_samples import RunningWitness, WitnessedLog

from ledger import keyring, witness_client, witness_setup
from ledger.files import Folder


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


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authorities") / "one", name="one")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authorities") / "two", name="two", is_rsa=True)


@pytest.fixture
def server(two):
    server = AuthorityServer(two)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def store():
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(store, request, monkeypatch):
    """A bucket with Object Lock and a client of its own."""
    import boto3

    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    name = f"roots-{abs(hash(request.node.nodeid))}"
    client = boto3.client("s3", endpoint_url=store)
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    yield SimpleNamespace(name=name, client=client, endpoint=store)
    client.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    base = tmp_path_factory.mktemp("made")
    installed = Installation(base)
    for size, at_ms in ((40, LAST_MONTH_MS), (300, LAST_MONTH_MS), (310, NOW_MS)):
        writer = installed.open(at_ms)
        writer.append(recorded(writer.tree_size, size, at_ms))
        writer.close(at_ms)
    return base


@pytest.fixture
def place(tmp_path, made):
    return Place(tmp_path, made)


@pytest.fixture
def published(tmp_path, ed25519_alone):
    installed = Installation(tmp_path / "made")
    installed.log_dir = tmp_path / "published" / "boston"
    installed.folder = Folder(installed.log_dir)
    return installed


@pytest.fixture
def mirrored(published, bucket, tmp_path):
    from bucket_places import BucketPlace  # it needs boto3, the other fixtures do not

    found = BucketPlace(published, bucket, tmp_path)
    found.make_public()
    found.write_config()
    return found
