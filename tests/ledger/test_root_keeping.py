"""Each closed month is time-stamped by every authority and copied to WORM storage; what fails waits and is told."""

import asyncio
import shutil
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from kept_places import MONTH, NOW_MS, keep, recorded, wait_for

from adapters.root_keeper import LOCK, read_kept
from adapters.root_status import roots_status
from adapters.signer import Signer
from bus.envelope import Recorded
from bus.follower import StreamIdentity
from ledger.audit import audit_log
from ledger.beside import stamp_path
from ledger.errors import LedgerError, TimestampFailed
from ledger.lock import Lock
from ledger.months import certificate_path, month_of
from ledger.receipt import parse_receipt, prove_entry, verify_receipt
from ledger.remote import Website

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed (Debian: openssl)")


def test_a_closed_month_is_stamped_by_two_authorities_and_audited_with_both(place, one, two, server):
    keeper = place.write(one, (two, server.url))
    waiting = place.status().waiting
    closing = place.folder.read(f"roots/{MONTH}.checkpoint")

    assert keep(keeper)

    assert waiting == (f"{MONTH}: time stamp of one: to be asked", f"{MONTH}: time stamp of two: to be asked")
    assert place.status().waiting == ()
    assert one.is_verified_by_openssl(place.folder.read(stamp_path(MONTH, "one")), closing)
    assert two.is_verified_by_openssl(place.folder.read(stamp_path(MONTH, "two")), closing)
    claims = [claim.detail for claim in audit_log(place.folder, place.policy()).claims if claim.name == "time stamp"]
    assert [claim.rpartition(" ")[2] for claim in claims] == ["one", "two"]
    assert keep(keeper)
    assert server.asked == 1


def test_an_audit_over_the_web_asks_for_the_stamps_of_the_authorities_that_the_policy_names(place, one):
    keep(place.write(one))
    handler = partial(QuietHandler, directory=str(place.log_dir))
    website = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=website.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    source = Website(f"http://127.0.0.1:{website.server_port}", month_of(NOW_MS))
    path = stamp_path(MONTH, "one")
    good = place.folder.read(path)
    try:
        claims = [claim for claim in audit_log(source, place.policy()).claims if claim.name == "time stamp"]
        place.folder.replace(path, good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(TimestampFailed, match="time stamp of one, signature: expected a good one"):
            audit_log(source, place.policy())
    finally:
        source.close()
        website.shutdown()
        website.server_close()

    assert len(claims) == 1


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_receipt_holds_the_time_stamps_and_verifies_offline(place, one):
    keep(place.write(one))
    receipt = parse_receipt("r", bytes(prove_entry(place.folder, place.policy(), 7)))

    claims = list(verify_receipt("r", receipt, place.policy()))

    assert list(receipt.timestamps) == ["one"]
    assert claims[-1].name == "time stamp"
    assert claims[-1].detail.startswith(f"certificate of {MONTH}: its closing checkpoint existed at 20")
    spoiled = receipt.timestamps["one"][:-1] + bytes([receipt.timestamps["one"][-1] ^ 1])
    altered = type(receipt)(receipt.entry, receipt.proof, receipt.certificate, {"one": spoiled})
    with pytest.raises(TimestampFailed, match="r, time stamp of one, signature: expected a good one"):
        list(verify_receipt("r", altered, place.policy()))


def test_a_stamp_by_an_authority_that_the_policy_does_not_name_is_said_to_be_unchecked(place, one):
    policy = place.policy()
    keep(place.write(one))

    claims = list(verify_receipt("r", prove_entry(place.folder, policy, 7), policy))

    assert claims[-1].detail.endswith("one by one, not checked: the policy names no such authority")


def test_a_stamp_of_another_month_or_authority_in_the_log_is_found_by_the_audit(place, one, two, server):
    keep(place.write(one, (two, server.url)))
    place.folder.replace(stamp_path(MONTH, "one"), place.folder.read(stamp_path(MONTH, "two")))

    with pytest.raises(TimestampFailed, match="time stamp of one, chain: expected one that ends at 'CN=root of one'"):
        audit_log(place.folder, place.policy())


ANSWERS = {
    "an error": ((500, b"down"), "gave no answer: HTTP Error 500"),
    "HTML": (b"<html>log in</html>", "expected DER tag 0x30, found 0x3c|expected"),
    "nothing": (b"", "a tag of one byte and a length, found nothing"),
    "endless": (b"0" * 100_000, "expected at most 65535 bytes"),
    "rejection": (bytes.fromhex("30053003020102"), "status: expected granted, found rejection"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_failing_authority_is_told_and_asked_again_until_it_answers(place, two, server, case):
    answer, message = ANSWERS[case]
    server.answer = lambda _: answer
    keeper = place.write(two=(two, server.url))

    assert not keep(keeper)
    assert place.folder.read(stamp_path(MONTH, "two")) is None
    (line,) = place.status().waiting
    assert line.startswith(f"{MONTH}: time stamp of two: ")
    with pytest.raises(LedgerError, match=message):
        raise LedgerError(line)
    server.answer = two.answer
    assert keep(keeper)
    assert place.status().waiting == ()


def test_a_replayed_answer_is_not_kept(place, two, server):
    old = []

    def replay(request):
        old.append(two.answer(request))
        return old[0]

    server.answer = replay
    keeper = place.write(two=(two, server.url))
    assert keep(keeper)
    place.folder.remove(stamp_path(MONTH, "two"))

    assert not keep(keeper)
    assert "nonce: expected" in place.status().waiting[0]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["/nowhere/ts"], "/nowhere/ts gave no answer"),
        (["sh", "-c", "echo no such key >&2; exit 3"], "sh ended with 3: no such key"),
    ],
)
def test_a_failing_program_is_told(place, one, command, message):
    keeper = place.write(SimpleNamespace(command=command, folder=one.folder))

    assert not keep(keeper)
    assert message in place.status().waiting[0]


def test_certificate_checkpoint_and_stamp_are_copied_once_in_compliance_mode(place, one, bucket):
    keeper = place.write(one, bucket=bucket)
    assert keep(keeper)
    assert keep(place.keeper())
    (place.log_dir / ".kept.json").unlink()
    assert keep(place.keeper())

    listed = bucket.client.list_object_versions(Bucket=bucket.name)["Versions"]

    names = {f"roots/{MONTH}{end}" for end in (".checkpoint", ".dsse.json", ".one.tsr")}
    assert sorted(item["Key"] for item in listed) == sorted(f"here/boston/{name}" for name in names)
    assert set(read_kept(place.folder).copies) == names
    for item in listed:
        found = bucket.client.get_object(Bucket=bucket.name, Key=item["Key"])
        with found["Body"] as body:
            assert body.read() == place.folder.read(item["Key"].removeprefix("here/boston/"))
        assert found["ObjectLockMode"] == "COMPLIANCE"
        assert 29 < (found["ObjectLockRetainUntilDate"].timestamp() - time.time()) / 86_400 < 31
        with pytest.raises(bucket.client.exceptions.ClientError, match="Access Denied"):
            bucket.client.delete_object(Bucket=bucket.name, Key=item["Key"], VersionId=item["VersionId"])


def test_a_copy_that_says_something_else_is_an_alarm_and_never_written_over(place, bucket):
    keeper = place.write(bucket=bucket)
    key = f"here/boston/{certificate_path(MONTH)}"
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"another certificate")

    assert not keep(keeper)

    (alarm,) = place.status().alarms
    assert f"s3://{bucket.name}/{key}, version" in alarm
    assert f"the copy differs from {certificate_path(MONTH)} of the log" in alarm
    assert len(bucket.client.list_object_versions(Bucket=bucket.name, Prefix=key)["Versions"]) == 1
    assert list(read_kept(place.folder).copies) == [f"roots/{MONTH}.checkpoint"]


def test_a_keeper_waits_for_the_one_before_it_and_then_goes_on(place, one):
    keeper = place.write(one)
    lock = Lock(place.log_dir / LOCK)
    stop = threading.Event()
    thread = threading.Thread(target=keeper.run, args=(stop,))
    thread.start()
    busy_s = time.process_time()
    stop.wait(0.6)
    busy_s = time.process_time() - busy_s
    is_untouched = place.folder.read(stamp_path(MONTH, "one")) is None
    lock.release()
    wait_for(lambda: place.folder.read(stamp_path(MONTH, "one")) is not None)
    stop.set()
    thread.join(20)

    assert is_untouched
    assert busy_s < 0.5  # it sleeps in between
    assert place.folder.read(stamp_path(MONTH, "one")) is not None


def test_a_folder_that_cannot_be_read_for_a_while_does_not_end_the_keeper(place, one, monkeypatch):
    monkeypatch.setattr("adapters.root_keeper.AWAY_S", 0.05)
    keeper = place.write(one)
    roots, elsewhere = place.log_dir / "roots", place.log_dir / ".roots"
    roots.rename(elsewhere)
    roots.symlink_to(roots)  # whoever lists it goes round in a circle
    stop = threading.Event()
    thread = threading.Thread(target=keeper.run, args=(stop,), daemon=True)
    thread.start()
    stop.wait(0.3)
    roots.unlink()
    elsewhere.rename(roots)
    try:
        wait_for(lambda: place.folder.read(stamp_path(MONTH, "one")) is not None)
    finally:
        stop.set()
        thread.join(20)

    assert place.folder.read(stamp_path(MONTH, "one")) is not None


def test_a_bucket_without_object_lock_is_refused_and_told(place, bucket):
    plain = f"{bucket.name}-plain"
    bucket.client.create_bucket(Bucket=plain)
    keeper = place.write(bucket=SimpleNamespace(name=plain, endpoint=bucket.endpoint))

    assert not keep(keeper)
    assert "ObjectLock" in place.status().waiting[0]
    assert "Contents" not in bucket.client.list_objects_v2(Bucket=plain)


def test_a_store_that_is_away_is_tried_again(place, bucket):
    keeper = place.write(bucket=SimpleNamespace(name=bucket.name, endpoint="http://127.0.0.1:9"))

    assert not keep(keeper)
    assert f"{MONTH}: 2 copies to {bucket.name}: s3://{bucket.name}: Could not connect" in place.status().waiting[0]
    assert keep(place.write(bucket=bucket))
    assert place.status().waiting == ()


def test_the_signer_stamps_and_copies_beside_signing_and_a_failing_authority_does_not_stop_it(
    place, one, two, server, bucket
):
    place.write(one, (two, server.url), bucket)
    asked = threading.Event()

    def hang(_):
        asked.set()
        time.sleep(0.5)
        return 503, b"later"

    server.answer = hang

    async def sign():
        clock = SimpleNamespace(now_ms=NOW_MS)
        signer = Signer(place.settings, now_ms=lambda: clock.now_ms)
        await signer.open("boston", StreamIdentity("EVENTS_boston", "2026-01-01T00:00:00Z"))
        await asyncio.to_thread(asked.wait, 20)
        sizes = []
        for seq in (311, 312, 313):
            await signer.apply([Recorded(seq, recorded(seq - 1, seq, NOW_MS)[0])])
            clock.now_ms += 250
            await signer.idle()
            sizes.append(signer._require_open().signed.tree_size)
        is_still_refused = place.folder.read(stamp_path(MONTH, "two")) is None
        server.answer = two.answer
        await asyncio.to_thread(wait_for, lambda: not place.status().waiting)
        await signer.close()
        return sizes, is_still_refused

    assert asyncio.run(sign()) == ([311, 312, 313], True)
    assert place.status() == roots_status(place.settings, "boston")
    assert place.status().waiting == ()
    assert audit_log(place.folder, place.policy()).checkpoint.checkpoint.tree_size == 313
