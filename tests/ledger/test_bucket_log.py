"""The whole log in an S3 bucket: at any moment what is promised there is there; audited over HTTP like the folder."""

import random
import threading
from threading import Event

import pytest
from bucket_places import Killed, grow
from kept_places import LAST_MONTH_MS, NOW_MS

from adapters.bucket_log import IMMUTABLE, SHORT
from adapters.bucket_state import STATE, read_state
from adapters.commands.status import _publication
from adapters.errors import CheckFailed
from adapters.s3 import StoreFailed
from ledger.audit import audit_log
from ledger.cli import main
from ledger.errors import HistoryForked, LedgerError, LogDamaged, Malformed
from ledger.months import certificate_path, month_of, provisional_path
from ledger.reader import LogReader
from ledger.receipt import parse_receipt, prove_entry
from ledger.tiles import CHECKPOINT

LAST_MONTH, MONTH = month_of(LAST_MONTH_MS), month_of(NOW_MS)


def test_a_log_in_a_bucket_is_audited_and_proved_over_http_as_in_its_folder(mirrored, tmp_path, capsys):
    grow(mirrored.installed, 300, at_ms=LAST_MONTH_MS)
    mirrored.publish()
    grow(mirrored.installed, 700)
    mirrored.publish()
    policy = str(mirrored.installed.policy_path)
    old = tmp_path / "old"
    old.write_bytes(mirrored.folder.read(f"roots/{LAST_MONTH}.checkpoint"))
    receipt, proof = tmp_path / "r.receipt", tmp_path / "r.tlog-proof"
    source = mirrored.website(MONTH)
    receipt.write_bytes(bytes(prove_entry(source, mirrored.installed.policy(), 600)))
    proof.write_bytes(bytes(parse_receipt("r", receipt.read_bytes()).proof))
    source.close()

    assert main(["audit", mirrored.url, "--policy", policy, "--jobs", "2"]) == 0
    assert main(["consistency", mirrored.url, "--old", str(old), "--policy", policy]) == 0
    assert main(["verify", str(receipt), "--policy", policy]) == 0
    entry = tmp_path / "entry"
    entry.write_bytes(LogReader(mirrored.folder, 700).entry(600))
    assert main(["verify", str(proof), "--entry", str(entry), "--policy", policy]) == 0
    out = capsys.readouterr().out
    assert "700 entries hashed again" in out
    assert f"certificate of {LAST_MONTH}: 300 events" in out
    assert sorted(mirrored.paths()) == sorted(mirrored.folder.walk())
    for path in mirrored.paths():
        assert mirrored.read(path) == mirrored.folder.read(path), path


def test_tiles_stand_before_the_checkpoint_and_roots_behind_it(mirrored):
    grow(mirrored.installed, 520)
    mirrored.publish()
    grow(mirrored.installed, 800)

    changes = mirrored.publish()

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


def test_what_never_changes_is_cached_for_ever_and_the_checkpoint_for_a_second(mirrored):
    grow(mirrored.installed, 300, at_ms=LAST_MONTH_MS)
    grow(mirrored.installed, 310)
    mirrored.publish()

    def head(path):
        found = mirrored.client.head_object(Bucket=mirrored.name, Key=f"here/boston/{path}")
        return found["ContentType"], found["CacheControl"]

    assert head("tile/entries/000") == head("tile/0/001.p/54") == ("application/octet-stream", IMMUTABLE)
    assert head(CHECKPOINT) == ("text/plain; charset=utf-8", SHORT)
    assert head(provisional_path(MONTH)) == ("application/json", SHORT)
    assert head(certificate_path(LAST_MONTH)) == ("application/json", IMMUTABLE)
    assert head(f"roots/{LAST_MONTH}.checkpoint") == ("text/plain; charset=utf-8", IMMUTABLE)


@pytest.mark.parametrize("moment", ["die_before", "die_after"])
def test_killed_at_any_request_the_bucket_promises_nothing_that_is_not_there(mirrored, moment):
    sizes = [3, 257, 700, 1030]
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    published = 0
    for size in sizes:
        grow(mirrored.installed, size)
        while True:
            mirror, watched = mirrored.open()
            setattr(watched, moment, chance.randrange(14))
            try:
                mirror.publish(Event())
                is_done = True
            except Killed:
                is_done = False
            now = mirrored.promised() or 0
            assert now >= published, f"seed {seed}: an older checkpoint over a newer one"
            published = now
            if is_done:
                break
    assert published == sizes[-1]
    mirrored.publish()
    audited = audit_log(mirrored.website(MONTH), mirrored.installed.policy())
    assert audited.checkpoint.checkpoint.tree_size == sizes[-1]
    partials = {key for key in mirrored.paths() if ".p/" in key}
    assert {key.partition(".p/")[0].rpartition("/")[2] for key in partials} == {"004", "000"}


def test_a_kill_in_a_long_first_publication_begins_again_where_it_was(mirrored, monkeypatch):
    monkeypatch.setattr("adapters.bucket_log.BLOCK_ENTRIES", 512)
    grow(mirrored.installed, 2048)
    mirror, watched = mirrored.open()
    watched.die_before = 14

    with pytest.raises(Killed):
        mirror.publish(Event())

    assert mirrored.promised() is None
    assert read_state(mirrored.folder, f"s3://{mirrored.name}/here/boston").whole == 1024
    put = [options["Key"] for method, options in mirrored.publish() if method == "put_object"]
    assert "here/boston/tile/entries/003" not in put
    assert "here/boston/tile/entries/004" in put
    assert mirrored.promised() == 2048


def test_told_to_stop_it_stops_between_two_blocks_and_goes_on_later(mirrored, monkeypatch):
    monkeypatch.setattr("adapters.bucket_log.BLOCK_ENTRIES", 256)
    grow(mirrored.installed, 600)
    mirror, watched = mirrored.open()
    stop = Event()
    stop.set()

    assert not mirror.publish(stop)
    assert watched.changes == []
    mirrored.publish()
    assert mirrored.promised() == 600


def test_an_emptied_bucket_is_filled_anew_and_a_lost_note_costs_requests_alone(mirrored):
    grow(mirrored.installed, 600)
    mirrored.publish()
    before = mirrored.paths()
    for key in before:
        mirrored.remove(key)

    mirrored.publish()
    assert mirrored.paths() == before
    (mirrored.folder.root / STATE).unlink()
    mirrored.remove("tile/0/000")
    mirrored.publish()
    assert mirrored.promised() == 600


def test_a_checkpoint_that_somebody_changed_meanwhile_is_not_written_over(mirrored):
    grow(mirrored.installed, 300)
    older = mirrored.folder.read(CHECKPOINT)
    slow, _ = mirrored.open()
    slow.publish(Event())
    grow(mirrored.installed, 400)
    mirrored.publish()
    grow(mirrored.installed, 500)

    with pytest.raises(StoreFailed, match="here/boston/checkpoint: somebody changed it meanwhile"):
        slow.publish(Event())
    assert mirrored.promised() == 400
    assert slow.publish(Event())
    assert mirrored.promised() == 500
    mirrored.folder.replace(CHECKPOINT, older)
    with pytest.raises(HistoryForked, match="the folder was set back: expected at most size 300"):
        slow.publish(Event())
    assert mirrored.promised() == 500


FOREIGN = {
    "another history": (HistoryForked, "another history: expected root"),
    "another log": (HistoryForked, "another log stands there: expected tallyroot.example/ledger/boston, found"),
    "no checkpoint": (Malformed, "here/boston/checkpoint"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_not_ours_in_the_bucket_is_an_alarm_and_stays(mirrored, case):
    grow(mirrored.installed, 300)
    note = mirrored.folder.read(CHECKPOINT)
    origin, size, root, *rest = note.split(b"\n")
    other = {
        "another history": [origin, b"200", root, *rest],
        "another log": [b"elsewhere.example", size, root, *rest],
        "no checkpoint": [b"<html>"],
    }[case]
    mirrored.overwrite(CHECKPOINT, b"\n".join(other))
    mirror, watched = mirrored.open()
    kind, message = FOREIGN[case]

    with pytest.raises(kind, match=message):
        mirror.publish(Event())

    assert watched.changes == []
    assert mirrored.status().alarm == mirrored.status().problem
    assert "ALARM: " in _publication(mirrored.status())
    mirrored.remove(CHECKPOINT)
    mirrored.publish()
    assert mirrored.status().alarm == ""


def test_a_certificate_that_changed_after_it_was_published_is_an_alarm(mirrored):
    grow(mirrored.installed, 300, at_ms=LAST_MONTH_MS)
    grow(mirrored.installed, 310)
    mirrored.publish()
    path = certificate_path(LAST_MONTH)
    good = mirrored.folder.read(path)
    mirrored.folder.replace(path, good.replace(b"payload", b"Payload", 1))
    mirror, _ = mirrored.open()

    with pytest.raises(CheckFailed, match=f"{path}: the log's file is not the one that was published"):
        mirror.publish(Event())
    assert mirrored.read(path) == good


def test_a_bundle_that_rotted_in_the_folder_is_not_published(mirrored):
    grow(mirrored.installed, 300)
    data = bytearray(mirrored.folder.read("tile/entries/000"))
    data[100] ^= 1
    mirrored.folder.replace("tile/entries/000", bytes(data))
    mirror, _ = mirrored.open()

    with pytest.raises(LogDamaged, match="tile/entries/000: expected the entries that its hash tile says"):
        mirror.publish(Event())
    assert mirrored.promised() is None


def test_an_ended_month_gets_its_certificate_and_its_provisional_root_goes(mirrored):
    grow(mirrored.installed, 300, at_ms=LAST_MONTH_MS)
    mirrored.publish()
    assert provisional_path(LAST_MONTH) in mirrored.paths()
    grow(mirrored.installed, 310)

    mirrored.publish()

    roots = [key for key in mirrored.paths() if key.startswith("roots/")]
    assert roots == sorted(f"roots/{name}" for name in mirrored.folder.names("roots"))
    assert audit_log(mirrored.website(MONTH), mirrored.installed.policy()).months[0].month == LAST_MONTH


def test_an_audit_that_meets_a_month_half_changed_reads_it_again(mirrored):
    grow(mirrored.installed, 300, at_ms=LAST_MONTH_MS)
    mirrored.publish()
    grow(mirrored.installed, 310)
    mirror, watched = mirrored.open()
    watched.die_after_key = f"here/boston/{certificate_path(LAST_MONTH)}"
    with pytest.raises(Killed):
        mirror.publish(Event())
    rest = threading.Timer(0.2, mirrored.publish)
    rest.start()

    found = audit_log(mirrored.website(MONTH), mirrored.installed.policy())

    rest.join()
    assert [month.month for month in found.months] == [LAST_MONTH, MONTH]


DAMAGES = {
    "tile/entries/000": "tile/entries/000, entry 0|tile/entries/000",
    "tile/0/001": "tile/0/001, hash",
    "tile/1/000.p/2": "tile/1/000.p/2, hash",
    "chain/001": "chain/001, link|chain/000",
    CHECKPOINT: "checkpoint",
}


def test_damage_in_the_bucket_is_found_by_the_audit_over_http(mirrored):
    grow(mirrored.installed, 600)
    mirrored.publish()
    policy = mirrored.installed.policy()
    for path, message in DAMAGES.items():
        good = mirrored.read(path)
        flipped = bytearray(good)
        flipped[len(flipped) // 2] ^= 1
        mirrored.overwrite(path, bytes(flipped))
        with pytest.raises(LedgerError, match=message):
            audit_log(mirrored.website(MONTH), policy)
        mirrored.remove(path)
        with pytest.raises(LedgerError, match=f"{path}: expected the file"):
            audit_log(mirrored.website(MONTH), policy)
        mirrored.overwrite(path, good)
    assert audit_log(mirrored.website(MONTH), policy).checkpoint.checkpoint.tree_size == 600
