"""Each closed month is time-stamped by every authority and copied to WORM storage; what fails waits and is told."""

import asyncio
import json
import shutil
import threading
import time
from argparse import ArgumentParser
from dataclasses import replace
from types import SimpleNamespace

import pytest
from authorities import Authority, AuthorityServer
from log_samples import Installation, events

from adapters.commands import roots
from adapters.errors import TallyError
from adapters.published_log import load_policy
from adapters.root_keeper import RootKeeper, read_kept
from adapters.root_settings import load_roots_config, trust_authorities
from adapters.root_status import roots_status
from adapters.settings import Settings
from adapters.signer import Signer
from bus.envelope import Recorded
from bus.follower import StreamIdentity
from ledger.audit import audit_log
from ledger.beside import stamp_path
from ledger.cli import main
from ledger.errors import LedgerError, TimestampFailed
from ledger.files import Folder
from ledger.keyring import load_keyring
from ledger.months import certificate_path, month_of, open_month, seal
from ledger.receipt import parse_receipt, prove_entry, verify_receipt

NOW_MS = int(time.time() * 1000)
LAST_MONTH_MS = NOW_MS - 32 * 86_400_000
MONTH = month_of(LAST_MONTH_MS)

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed (Debian: openssl)")


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


class Place:
    """An installation without servers whose last month is closed, and its roots.toml."""

    def __init__(self, base, made):
        self.settings = Settings.load(base, {}, need=("log_dir", "keys_dir"))
        shutil.copytree(made / "keys" / "boston", self.settings.keys_dir / "boston")
        shutil.copytree(made / "log", self.settings.log_dir / "boston")
        self.log_dir = self.settings.log_dir / "boston"
        self.folder = Folder(self.log_dir)
        self.config = base / "roots.toml"

    def write(self, one=None, two=None, bucket=None, days=30):
        lines = []
        if one is not None:
            lines += ["[authorities.one]", f"command = {json.dumps(one.command)}", f'ca = "{one.folder}/ca.pem"']
        if two is not None:
            authority, url = two
            lines += ["[authorities.two]", f'url = "{url}"', f'ca = "{authority.folder}/ca.pem"']
        if bucket is not None:
            lines += ["[worm]", f'bucket = "{bucket.name}"', 'prefix = "here"', f'endpoint = "{bucket.endpoint}"']
            lines += [f"retention_days = {days}"]
        self.config.write_text("\n".join(lines))
        trust_authorities(self.settings.keys_dir / "boston", load_roots_config(self.settings))
        return self.keeper()

    def keeper(self):
        policy = self.settings.keys_dir / "boston" / "policy"
        return RootKeeper("boston", self.log_dir, policy, load_roots_config(self.settings))

    def status(self):
        return roots_status(self.settings, "boston")

    def policy(self):
        return load_policy(self.settings, "boston")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    base = tmp_path_factory.mktemp("made")
    installed = Installation(base)
    installed.publish(40, 300, now_ms=LAST_MONTH_MS)
    installed.publish(310, now_ms=NOW_MS)
    return base


@pytest.fixture
def place(tmp_path, made):
    return Place(tmp_path, made)


def wait_for(holds):
    deadline = time.monotonic() + 60
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)


def keep(keeper):
    return keeper.keep(threading.Event())


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
            await signer.apply([Recorded(seq, events(seq - 1, seq)[0])])
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


def run_roots(place, *words):
    parser = ArgumentParser()
    roots.configure(parser)
    args = parser.parse_args(words)
    args.data, args.tenant = place.settings.data_dir, "boston"
    return roots.run(args)


def test_the_commands_show_stamps_and_copies_check_them_and_export_the_month(place, one, bucket, capsys, tmp_path):
    keep(place.write(one, bucket=bucket))

    codes = [
        run_roots(place, "list"),
        run_roots(place, "show", MONTH),
        run_roots(place, "check"),
        run_roots(place, "export", MONTH, "-o", str(tmp_path / "month.zip")),
        run_roots(place, "attest", MONTH, "-o", str(tmp_path / "page.html")),
    ]

    out = capsys.readouterr().out
    policy = place.settings.keys_dir / "boston" / "policy"
    assert codes == [0, 0, 0, 0, 0]
    assert "stamped by one  3 copies" in out
    assert "  time stamp    one: at 20" in out
    assert f"  copy          s3://{bucket.name}/here/boston/roots/{MONTH}.one.tsr (version " in out
    assert out.count("the same bytes, locked until 20") == 3
    assert "month.zip: 7 files, checked by: tally verify" in out
    assert main(["verify", str(tmp_path / "month.zip"), "--policy", str(policy)]) == 0
    assert (tmp_path / "page.html").read_bytes().startswith(b"<!DOCTYPE html>")


def test_the_check_names_a_copy_that_was_overlaid_a_deleted_one_and_a_missing_stamp(place, one, bucket, capsys):
    keep(place.write(one, bucket=bucket))
    base = f"here/boston/roots/{MONTH}"
    bucket.client.put_object(Bucket=bucket.name, Key=f"{base}.dsse.json", Body=b"a newer version")
    bucket.client.delete_object(Bucket=bucket.name, Key=f"{base}.checkpoint")
    place.folder.remove(stamp_path(MONTH, "one"))

    assert run_roots(place, "check", MONTH) == 1

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"ok      {MONTH}  certificate, root ")
    assert lines[1] == f"FAILED  {MONTH}  time stamp of one: missing, tally status says why"
    assert "a newer" not in lines[2]
    assert f"{base}.dsse.json, version " in lines[2]
    assert "the copy differs from" in lines[2]
    assert f"{base}.checkpoint: somebody deleted it" in lines[3]


def test_a_certificate_that_was_changed_after_it_was_copied_is_told_by_the_check(place, bucket, capsys):
    keep(place.write(bucket=bucket))
    bucket.client.put_object(Bucket=bucket.name, Key="here/boston/roots/other", Body=b"")
    path = certificate_path(MONTH)
    keyring = load_keyring(place.settings.keys_dir / "boston")
    statement = open_month(path, place.folder.read(path), place.policy())
    lie = replace(statement, counts={"quest-completed/1": 300})
    place.folder.replace(path, seal(lie.payload(), keyring.certificate_key))

    assert run_roots(place, "check", "--json") == 1

    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check["is_good"] for check in checks] == [True, False, True]
    assert "the copy differs from" in checks[1]["detail"]


BAD_SETTINGS = {
    "no TOML": ("[authorities", "cannot be read"),
    "unknown table": ("[author]", "names author, wanted some of authorities, worm"),
    "unknown key": ('[worm]\nbukket = "b"', "names bukket, wanted some of bucket"),
    "no url": ('[authorities.x]\nca = "ca.pem"', "wanted ca .* and either url"),
    "both": ('[authorities.x]\nca = "c"\nurl = "http://x"\ncommand = ["x"]', "wanted ca .* and either url"),
    "file URL": ('[authorities.x]\nca = "c"\nurl = "file:///etc"', "wanted http:// or https://"),
    "no CA": ('[authorities.x]\nca = "none.pem"\nurl = "http://x"', "holds no certificates in PEM"),
    "bad name": ('[authorities."a b"]\nca = "c"\nurl = "http://x"', "expected 1 to 64 letters"),
    "no bucket": ("[worm]\nretention_days = 3", "wanted bucket"),
    "no days": ('[worm]\nbucket = "b"\nretention_days = 0', "wanted a number from 1"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_settings_that_make_no_sense_are_refused_in_one_line_and_told_by_the_status(place, case):
    text, message = BAD_SETTINGS[case]
    place.config.write_text(text)

    with pytest.raises(TallyError, match=message) as found:
        load_roots_config(place.settings)
    assert "\n" not in str(found.value)
    assert place.status().waiting == (str(found.value),)


def test_nothing_configured_is_nothing_to_wait_for(place, monkeypatch):
    assert place.status().waiting == ()
    assert load_roots_config(place.settings).is_empty
    monkeypatch.setenv("TALLY_ROOTS_CONFIG", "/nowhere/roots.toml")
    with pytest.raises(TallyError, match="is not there: TALLY_ROOTS_CONFIG names it"):
        load_roots_config(place.settings)
