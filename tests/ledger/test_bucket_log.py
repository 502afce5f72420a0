"""The whole log in an S3 bucket: at any moment what is promised there is there; audited over HTTP like the folder."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from threading import Event

import pytest
from bucket_places import BucketPlace, Killed
from kept_places import LAST_MONTH_MS, NOW_MS, recorded, wait_for
from log_samples import Installation

from adapters import publisher
from adapters.bucket_log import IMMUTABLE, SHORT
from adapters.bucket_state import STATE, BucketState, read_state
from adapters.commands.status import _publication
from adapters.embedded_process import python_path
from adapters.errors import CheckFailed
from adapters.publisher import Publisher
from adapters.s3 import StoreFailed
from adapters.supervisor import DEFAULT_PROCESSES, default_processes
from ledger.audit import audit_log
from ledger.cli import main
from ledger.errors import HistoryForked, LedgerError, LogDamaged, Malformed
from ledger.files import Folder
from ledger.lock import Lock
from ledger.months import certificate_path, month_of, provisional_path
from ledger.reader import LogReader
from ledger.receipt import parse_receipt, prove_entry
from ledger.tiles import CHECKPOINT

LAST_MONTH, MONTH = month_of(LAST_MONTH_MS), month_of(NOW_MS)


@pytest.fixture
def installed(tmp_path, ed25519_alone):
    installed = Installation(tmp_path / "made")
    installed.log_dir = tmp_path / "published" / "boston"
    installed.folder = Folder(installed.log_dir)
    return installed


@pytest.fixture
def place(installed, bucket, tmp_path):
    found = BucketPlace(installed, bucket, tmp_path)
    found.make_public()
    found.write_config()
    return found


def grow(installed, *sizes, at_ms=NOW_MS):
    for size in sizes:
        writer = installed.open(at_ms)
        writer.append(recorded(writer.tree_size, size, at_ms))
        writer.close(at_ms)


def test_a_log_in_a_bucket_is_audited_and_proved_over_http_as_in_its_folder(place, tmp_path, capsys):
    grow(place.installed, 300, at_ms=LAST_MONTH_MS)
    place.publish()
    grow(place.installed, 700)
    place.publish()
    policy = str(place.installed.policy_path)
    old = tmp_path / "old"
    old.write_bytes(place.folder.read(f"roots/{LAST_MONTH}.checkpoint"))
    receipt, proof = tmp_path / "r.receipt", tmp_path / "r.tlog-proof"
    source = place.website(MONTH)
    receipt.write_bytes(bytes(prove_entry(source, place.installed.policy(), 600)))
    proof.write_bytes(bytes(parse_receipt("r", receipt.read_bytes()).proof))
    source.close()

    assert main(["audit", place.url, "--policy", policy, "--jobs", "2"]) == 0
    assert main(["consistency", place.url, "--old", str(old), "--policy", policy]) == 0
    assert main(["verify", str(receipt), "--policy", policy]) == 0
    entry = tmp_path / "entry"
    entry.write_bytes(LogReader(place.folder, 700).entry(600))
    assert main(["verify", str(proof), "--entry", str(entry), "--policy", policy]) == 0
    out = capsys.readouterr().out
    assert "700 entries hashed again" in out
    assert f"certificate of {LAST_MONTH}: 300 events" in out
    assert sorted(place.paths()) == sorted(place.folder.walk())
    for path in place.paths():
        assert place.read(path) == place.folder.read(path), path


def test_tiles_stand_before_the_checkpoint_and_roots_behind_it(place):
    grow(place.installed, 520)
    place.publish()
    grow(place.installed, 800)

    changes = place.publish()

    put = [options["Key"].removeprefix("here/boston/") for method, options in changes if method == "put_object"]
    at = put.index(CHECKPOINT)
    assert put[at + 1 :] == [provisional_path(MONTH)]
    assert sorted(put[:at]) == sorted(
        [f"{kind}/002" for kind in ("tile/entries", "chain", "tile/0")]
        + [f"{kind}/003.p/32" for kind in ("tile/entries", "chain", "tile/0")]
        + ["tile/1/000.p/3"]
    )
    assert changes[-1][0] == "delete_objects"
    gone = {item["Key"].removeprefix("here/boston/") for item in changes[-1][1]["Delete"]["Objects"]}
    assert gone == {f"{kind}/002.p/8" for kind in ("tile/entries", "chain", "tile/0")}


def test_what_never_changes_is_cached_for_ever_and_the_checkpoint_for_a_second(place):
    grow(place.installed, 300, at_ms=LAST_MONTH_MS)
    grow(place.installed, 310)
    place.publish()

    def head(path):
        found = place.client.head_object(Bucket=place.name, Key=f"here/boston/{path}")
        return found["ContentType"], found["CacheControl"]

    assert head("tile/entries/000") == head("tile/0/001.p/54") == ("application/octet-stream", IMMUTABLE)
    assert head(CHECKPOINT) == ("text/plain; charset=utf-8", SHORT)
    assert head(provisional_path(MONTH)) == ("application/json", SHORT)
    assert head(certificate_path(LAST_MONTH)) == ("application/json", IMMUTABLE)
    assert head(f"roots/{LAST_MONTH}.checkpoint") == ("text/plain; charset=utf-8", IMMUTABLE)


@pytest.mark.parametrize("moment", ["die_before", "die_after"])
def test_killed_at_any_request_the_bucket_promises_nothing_that_is_not_there(place, moment):
    sizes = [3, 255, 257, 700, 1030]
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    published = 0
    for size in sizes:
        grow(place.installed, size)
        while True:
            mirror, watched = place.open()
            setattr(watched, moment, chance.randrange(14))
            try:
                mirror.publish(Event())
                is_done = True
            except Killed:
                is_done = False
            now = place.promised() or 0
            assert now >= published, f"seed {seed}: an older checkpoint over a newer one"
            published = now
            if is_done:
                break
    assert published == sizes[-1]
    place.publish()
    audited = audit_log(place.website(MONTH), place.installed.policy())
    assert audited.checkpoint.checkpoint.tree_size == sizes[-1]
    partials = {key for key in place.paths() if ".p/" in key}
    assert {key.partition(".p/")[0].rpartition("/")[2] for key in partials} == {"004", "000"}


def test_a_kill_in_a_long_first_publication_begins_again_where_it_was(place, monkeypatch):
    monkeypatch.setattr("adapters.bucket_log.BLOCK_ENTRIES", 512)
    grow(place.installed, 2048)
    mirror, watched = place.open()
    watched.die_before = 14

    with pytest.raises(Killed):
        mirror.publish(Event())

    assert place.promised() is None
    assert read_state(place.folder, f"s3://{place.name}/here/boston").whole == 1024
    put = [options["Key"] for method, options in place.publish() if method == "put_object"]
    assert "here/boston/tile/entries/003" not in put
    assert "here/boston/tile/entries/004" in put
    assert place.promised() == 2048


def test_told_to_stop_it_stops_between_two_blocks_and_goes_on_later(place, monkeypatch):
    monkeypatch.setattr("adapters.bucket_log.BLOCK_ENTRIES", 256)
    grow(place.installed, 600)
    mirror, watched = place.open()
    stop = Event()
    stop.set()

    assert not mirror.publish(stop)
    assert watched.changes == []
    place.publish()
    assert place.promised() == 600


def test_an_emptied_bucket_is_filled_anew_and_a_lost_note_costs_requests_alone(place):
    grow(place.installed, 600)
    place.publish()
    before = place.paths()
    for key in before:
        place.remove(key)

    place.publish()
    assert place.paths() == before
    (place.folder.root / STATE).unlink()
    place.remove("tile/0/000")
    place.publish()
    assert place.promised() == 600


def test_a_checkpoint_that_somebody_changed_meanwhile_is_not_written_over(place):
    grow(place.installed, 300)
    older = place.folder.read(CHECKPOINT)
    slow, _ = place.open()
    slow.publish(Event())
    grow(place.installed, 400)
    place.publish()
    grow(place.installed, 500)

    with pytest.raises(StoreFailed, match="here/boston/checkpoint: somebody changed it meanwhile"):
        slow.publish(Event())
    assert place.promised() == 400
    assert slow.publish(Event())
    assert place.promised() == 500
    place.folder.replace(CHECKPOINT, older)
    with pytest.raises(HistoryForked, match="the folder was set back: expected at most size 300"):
        slow.publish(Event())
    assert place.promised() == 500


FOREIGN = {
    "another history": (HistoryForked, "another history: expected root"),
    "another log": (HistoryForked, "another log stands there: expected tallyroot.example/ledger/boston, found"),
    "no checkpoint": (Malformed, "here/boston/checkpoint"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_not_ours_in_the_bucket_is_an_alarm_and_stays(place, case):
    grow(place.installed, 300)
    note = place.folder.read(CHECKPOINT)
    origin, size, root, *rest = note.split(b"\n")
    other = {
        "another history": [origin, b"200", root, *rest],
        "another log": [b"elsewhere.example", size, root, *rest],
        "no checkpoint": [b"<html>"],
    }[case]
    place.overwrite(CHECKPOINT, b"\n".join(other))
    mirror, watched = place.open()
    kind, message = FOREIGN[case]

    with pytest.raises(kind, match=message):
        mirror.publish(Event())

    assert watched.changes == []
    assert place.status().alarm == place.status().problem
    assert "ALARM: " in _publication(place.status())
    place.remove(CHECKPOINT)
    place.publish()
    assert place.status().alarm == ""


def test_a_certificate_that_changed_after_it_was_published_is_an_alarm(place):
    grow(place.installed, 300, at_ms=LAST_MONTH_MS)
    grow(place.installed, 310)
    place.publish()
    path = certificate_path(LAST_MONTH)
    good = place.folder.read(path)
    place.folder.replace(path, good.replace(b"payload", b"Payload", 1))
    mirror, _ = place.open()

    with pytest.raises(CheckFailed, match=f"{path}: the log's file is not the one that was published"):
        mirror.publish(Event())
    assert place.read(path) == good


def test_a_bundle_that_rotted_in_the_folder_is_not_published(place):
    grow(place.installed, 300)
    data = bytearray(place.folder.read("tile/entries/000"))
    data[100] ^= 1
    place.folder.replace("tile/entries/000", bytes(data))
    mirror, _ = place.open()

    with pytest.raises(LogDamaged, match="tile/entries/000: expected the entries that its hash tile says"):
        mirror.publish(Event())
    assert place.promised() is None


def test_an_ended_month_gets_its_certificate_and_its_provisional_root_goes(place):
    grow(place.installed, 300, at_ms=LAST_MONTH_MS)
    place.publish()
    assert provisional_path(LAST_MONTH) in place.paths()
    grow(place.installed, 310)

    place.publish()

    roots = [key for key in place.paths() if key.startswith("roots/")]
    assert roots == sorted(f"roots/{name}" for name in place.folder.names("roots"))
    assert audit_log(place.website(MONTH), place.installed.policy()).months[0].month == LAST_MONTH


def test_an_audit_that_meets_a_month_half_changed_reads_it_again(place):
    grow(place.installed, 300, at_ms=LAST_MONTH_MS)
    place.publish()
    grow(place.installed, 310)
    mirror, watched = place.open()
    watched.die_after_key = f"here/boston/{certificate_path(LAST_MONTH)}"
    with pytest.raises(Killed):
        mirror.publish(Event())
    rest = threading.Timer(0.2, place.publish)
    rest.start()

    found = audit_log(place.website(MONTH), place.installed.policy())

    rest.join()
    assert [month.month for month in found.months] == [LAST_MONTH, MONTH]


DAMAGES = {
    "tile/entries/000": "tile/entries/000, entry 0|tile/entries/000",
    "tile/0/001": "tile/0/001, hash",
    "tile/1/000.p/2": "tile/1/000.p/2, hash",
    "chain/001": "chain/001, link|chain/000",
    CHECKPOINT: "checkpoint",
}


@pytest.mark.parametrize("path", DAMAGES)
@pytest.mark.parametrize("is_gone", [False, True])
def test_damage_in_the_bucket_is_found_by_the_audit_over_http(place, path, is_gone):
    grow(place.installed, 600)
    place.publish()
    data = bytearray(place.read(path))
    data[len(data) // 2] ^= 1
    place.remove(path) if is_gone else place.overwrite(path, bytes(data))

    with pytest.raises(LedgerError, match=DAMAGES[path] if not is_gone else f"{path}: expected the file"):
        audit_log(place.website(MONTH), place.installed.policy())


def test_status_tells_the_lag_and_why_while_the_store_is_away(place):
    place.write_config()
    grow(place.installed, 300)
    assert "nothing there yet" in _publication(place.status())
    place.publish()
    assert _publication(place.status()) == f"s3://{place.name}/here/boston: up to date at 300"
    grow(place.installed, 350)
    mirror, watched = place.open()
    watched.fail_at = 2

    with pytest.raises(StoreFailed, match="away"):
        mirror.publish(Event())

    found = place.status()
    assert (found.tree_size, found.behind_entries, found.alarm) == (300, 50, "")
    assert found.behind_s > 0
    assert f"50 entries and {found.behind_s:.1f} s behind, at 300; s3://{place.name}: away" in _publication(found)
    place.publish()
    assert place.status().problem == ""


def test_what_is_noted_of_another_place_or_torn_counts_for_nothing(place):
    grow(place.installed, 300)
    place.publish()
    noted = json.loads(place.folder.read(STATE))

    assert set(noted) == set(BucketState.__dataclass_fields__)
    assert read_state(place.folder, "s3://elsewhere/boston") is None
    place.folder.replace(STATE, b'{"place": "s3')
    assert read_state(place.folder, noted["place"]) is None


def test_the_publisher_follows_the_log_and_waits_for_a_store_that_is_away(place, monkeypatch):
    monkeypatch.setattr(publisher, "WAIT_MAX_S", 0.2)
    grow(place.installed, 300)
    place.write_config(endpoint="http://127.0.0.1:9")

    def serve(holds):
        async def run():
            stop, ready = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(Publisher(place.settings).run(stop, ready))
            await asyncio.to_thread(wait_for, holds)
            stop.set()
            await task

        asyncio.run(run())

    serve(lambda: place.status().problem)
    assert "Could not connect" in place.status().problem
    place.write_config()
    grown = threading.Timer(1.2, grow, (place.installed, 340))
    grown.start()
    serve(lambda: place.status().tree_size == 340)
    grown.join()

    assert place.promised() == 340
    assert place.status().problem == ""
    Lock(place.folder.root / publisher.LOCK).release()


def test_the_process_publishes_without_any_server_but_the_store_and_ends_when_told(place, tmp_path):
    grow(place.installed, 300)
    command = [sys.executable, "-P", "-m", "adapters.cli", "run", "publisher", "--data", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    environment |= {"TALLY_LOG_DIR": str(place.settings.log_dir), "PYTHONPATH": python_path()}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        wait_for(lambda: place.promised() == 300 or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)

    assert (process.returncode, place.promised()) == (0, 300), said


def test_an_installation_runs_a_publisher_where_the_settings_name_a_bucket(place, tmp_path):
    assert default_processes(tmp_path) == f"{DEFAULT_PROCESSES} publisher"
    place.config.write_text("[publish]\n")
    assert default_processes(tmp_path) == DEFAULT_PROCESSES
    place.config.unlink()
    assert default_processes(tmp_path) == DEFAULT_PROCESSES


def test_a_second_publisher_of_one_folder_waits_for_the_first(place):
    grow(place.installed, 300)
    lock = Lock(place.folder.root / publisher.LOCK)
    stop = Event()
    options = (place.settings, place.publication, "boston", stop)
    thread = threading.Thread(target=publisher.keep_publishing, args=options)
    thread.start()
    time.sleep(0.3)
    is_untouched = place.promised() is None
    lock.release()
    wait_for(lambda: place.promised() == 300)
    stop.set()
    thread.join(20)

    assert is_untouched
    assert place.promised() == 300
