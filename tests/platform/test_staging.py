"""The server stages atomic batches in memory where there is room, and what it acknowledged is on the disk."""

import asyncio
import json
import os
import shutil
import time
from pathlib import Path

import nats
import pytest

from adapters import embedded_staging
from adapters.embedded_probe import nats_request
from adapters.embedded_servers import NatsServer
from adapters.embedded_staging import MEMORY, Staging
from tests.platform.processes import wait_for

STREAM = "EVENTS_staged"
ROOM = shutil.disk_usage(MEMORY).free if MEMORY.is_dir() else 0
needs_memory = pytest.mark.skipif(
    not embedded_staging._is_in_memory(MEMORY) or ROOM < embedded_staging.FREE_BYTES_MIN,
    reason=f"a tmpfs at {MEMORY} with 512 MB free is missing: batches are staged on the disk here",
)


def make_stream(server):
    wanted = {"name": STREAM, "subjects": ["e.>"], "storage": "file", "num_replicas": 1, "allow_atomic": True}
    answer = nats_request(server.port, f"$JS.API.STREAM.CREATE.{STREAM}", json.dumps(wanted).encode())
    assert "error" not in answer
    return server.directory / "jetstream" / "$G" / "streams" / STREAM / "batches"


def append(server, name, count, is_committed=True):
    """A batch of so many messages; returns the answer, None when it was not to be committed."""

    async def scenario():
        client = await nats.connect(server.url)
        for at in range(1, count + 1):
            headers = {"Nats-Batch-Id": name, "Nats-Batch-Sequence": str(at)}
            if is_committed and at == count:
                answer = await client.request(f"e.{at}", b"x" * 200, headers=headers | {"Nats-Batch-Commit": "1"})
                break
            await client.publish(f"e.{at}", b"x" * 200, headers=headers)
        else:
            await client.flush()
            answer = None
        await client.close()
        return answer and json.loads(answer.data)

    return asyncio.run(scenario())


def stored(server):
    return nats_request(server.port, f"$JS.API.STREAM.INFO.{STREAM}")["state"]["messages"]


@needs_memory
def test_batches_are_staged_in_memory_and_what_was_committed_outlives_a_killed_server(server):
    stage = make_stream(server)
    wait_for(stage.is_symlink)
    first = stage.resolve()

    assert append(server, "one", 20)["count"] == 20
    append(server, "half", 7, is_committed=False)
    wait_for(lambda: list(first.glob("*/msgs/*.blk")))
    server.child.kill()
    server.restart()
    wait_for(server.serves)
    assert stored(server) == 20
    wait_for(stage.is_symlink)

    assert list(stage.iterdir()) == []
    assert append(server, "two", 5)["count"] == 5
    assert stored(server) == 25
    assert first.is_relative_to(MEMORY)


@needs_memory
def test_no_batch_is_given_up_while_a_busy_stream_waits_for_its_link_and_a_restarted_server_has_it_at_once(server):
    stage = make_stream(server)
    until = time.monotonic() + 2
    counts = []
    while time.monotonic() < until:
        counts.append(append(server, f"batch-{len(counts)}", 2)["count"])
    server.child.kill()
    server.restart()
    wait_for(server.serves)
    wait_for(stage.is_symlink)

    assert set(counts) == {2}
    assert append(server, "after", 2)["count"] == 2


@needs_memory
def test_a_new_stream_that_is_never_idle_for_long_has_its_link_soon(server):
    stage = make_stream(server)
    counts = []
    while not stage.is_symlink() and len(counts) < 100:
        counts.append(append(server, f"batch-{len(counts)}", 2)["count"])
        time.sleep(4 * embedded_staging.QUIET_S)

    assert set(counts) <= {2}
    assert stage.is_symlink()


@needs_memory
def test_a_server_that_ends_leaves_nothing_in_memory(server):
    stage = make_stream(server)
    wait_for(stage.is_symlink)
    folder = stage.resolve().parent

    server.stop()

    assert not folder.exists()


@needs_memory
def test_what_a_killed_owner_left_in_memory_is_removed_and_what_another_holds_is_not(tmp_path):
    prefix = f"tallyroot-{os.geteuid()}-"
    left = MEMORY / f"{prefix}left{os.getpid()}"
    left.mkdir(mode=0o700)
    held, mine = Staging(tmp_path / "held"), Staging(tmp_path / "mine")

    held.start(lambda: True)
    mine.start(lambda: True)
    folders = [Path(one._folder) for one in (held, mine)]
    alive = [folder.is_dir() for folder in folders]
    mine.stop()
    held.stop()

    assert alive == [True, True]
    assert not left.exists()
    assert not any(folder.exists() for folder in folders)


@needs_memory
def test_when_memory_runs_out_batches_go_back_to_the_disk(server, monkeypatch):
    stage = make_stream(server)
    wait_for(stage.is_symlink)
    assert append(server, "one", 3)["count"] == 3

    monkeypatch.setattr(server.staging, "_free_bytes", lambda: 1_000_000)
    wait_for(lambda: not stage.is_symlink())

    assert append(server, "two", 3)["count"] == 3
    assert stage.is_dir()
    assert stored(server) == 6


def test_without_room_in_memory_batches_stay_on_the_disk(tmp_path):
    server = NatsServer(tmp_path / "nats", tmp_path / "nats.log", fixed_port=None, keep_open=())
    server.staging = Staging(server.directory, memory=tmp_path)
    server.start()
    try:
        stage = make_stream(server)
        assert append(server, "one", 3)["count"] == 3
        assert not stage.is_symlink()
        assert stored(server) == 3
    finally:
        server.stop()
