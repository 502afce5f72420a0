"""The publisher: how far the bucket is behind, a store that is away, its process, one for each folder."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from threading import Event

import pytest
from bucket_places import grow
from kept_places import wait_for

from adapters import publisher
from adapters.bucket_state import STATE, BucketState, read_state
from adapters.commands.status import _publication
from adapters.embedded_process import python_path
from adapters.publisher import Publisher
from adapters.s3 import StoreFailed
from adapters.supervisor import DEFAULT_PROCESSES, default_processes
from ledger.lock import Lock


def test_status_tells_the_lag_and_why_while_the_store_is_away(mirrored):
    mirrored.write_config()
    grow(mirrored.installed, 300)
    assert "nothing there yet" in _publication(mirrored.status())
    mirrored.publish()
    assert _publication(mirrored.status()) == f"s3://{mirrored.name}/here/boston: up to date at 300"
    grow(mirrored.installed, 350)
    mirror, watched = mirrored.open()
    watched.fail_at = 2

    with pytest.raises(StoreFailed, match="away"):
        mirror.publish(Event())

    found = mirrored.status()
    assert (found.tree_size, found.behind_entries, found.alarm) == (300, 50, "")
    assert found.behind_s > 0
    assert f"50 entries and {found.behind_s:.1f} s behind, at 300; s3://{mirrored.name}: away" in _publication(found)
    mirrored.publish()
    assert mirrored.status().problem == ""


def test_what_is_noted_of_another_place_or_torn_counts_for_nothing(mirrored):
    grow(mirrored.installed, 300)
    mirrored.publish()
    noted = json.loads(mirrored.folder.read(STATE))

    assert set(noted) == set(BucketState.__dataclass_fields__)
    assert read_state(mirrored.folder, "s3://elsewhere/boston") is None
    mirrored.folder.replace(STATE, b'{"place": "s3')
    assert read_state(mirrored.folder, noted["place"]) is None


def test_the_publisher_follows_the_log_and_waits_for_a_store_that_is_away(mirrored, monkeypatch):
    monkeypatch.setattr(publisher, "WAIT_MAX_S", 0.2)
    grow(mirrored.installed, 300)
    mirrored.write_config(endpoint="http://127.0.0.1:9")

    def serve(holds):
        async def run():
            stop, ready = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(Publisher(mirrored.settings).run(stop, ready))
            await asyncio.to_thread(wait_for, holds)
            stop.set()
            await task

        asyncio.run(run())

    serve(lambda: mirrored.status().problem)
    assert "Could not connect" in mirrored.status().problem
    mirrored.write_config()
    grown = threading.Timer(1.2, grow, (mirrored.installed, 340))
    grown.start()
    serve(lambda: mirrored.status().tree_size == 340)
    grown.join()

    assert mirrored.promised() == 340
    assert mirrored.status().problem == ""
    Lock(mirrored.folder.root / publisher.LOCK).release()


def test_the_process_publishes_without_any_server_but_the_store_and_ends_when_told(mirrored, tmp_path):
    grow(mirrored.installed, 300)
    command = [sys.executable, "-P", "-m", "adapters.cli", "run", "publisher", "--data", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    environment |= {"TALLY_LOG_DIR": str(mirrored.settings.log_dir), "PYTHONPATH": python_path()}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        wait_for(lambda: mirrored.promised() == 300 or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)

    assert (process.returncode, mirrored.promised()) == (0, 300), said


def test_an_installation_runs_a_publisher_where_the_settings_name_a_bucket(mirrored, tmp_path):
    assert default_processes(tmp_path) == f"{DEFAULT_PROCESSES} publisher"
    mirrored.config.write_text("[publish]\n")
    assert default_processes(tmp_path) == DEFAULT_PROCESSES
    mirrored.config.unlink()
    assert default_processes(tmp_path) == DEFAULT_PROCESSES


def test_a_second_publisher_of_one_folder_waits_for_the_first(mirrored):
    grow(mirrored.installed, 300)
    lock = Lock(mirrored.folder.root / publisher.LOCK)
    stop = Event()
    options = (mirrored.settings, mirrored.publication, "boston", stop)
    thread = threading.Thread(target=publisher.keep_publishing, args=options)
    thread.start()
    time.sleep(0.3)
    is_untouched = mirrored.promised() is None
    lock.release()
    wait_for(lambda: mirrored.promised() == 300)
    stop.set()
    thread.join(20)

    assert is_untouched
    assert mirrored.promised() == 300
