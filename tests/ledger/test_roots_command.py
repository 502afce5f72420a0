"""`tally roots`: time stamps and copies shown and compared, months exported; settings that make no sense refused."""

import json
import shutil
from argparse import ArgumentParser
from dataclasses import replace

import pytest
from kept_places import MONTH, keep

from adapters.commands import roots
from adapters.commands.status import _lines as status_lines
from adapters.errors import TallyError
from adapters.root_settings import load_roots_config
from adapters.root_status import RootsStatus
from adapters.status import LogStatus, TenantStatus
from ledger.beside import stamp_path
from ledger.cli import main
from ledger.keyring import load_keyring
from ledger.months import certificate_path, open_month, seal

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed (Debian: openssl)")


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


def test_the_commands_say_the_same_in_json(place, one, bucket, capsys, tmp_path):
    keep(place.write(one, bucket=bucket))
    for words in (["list"], ["show", MONTH], ["check"], ["export", MONTH, "-o", str(tmp_path / "folder")]):
        assert run_roots(place, "--json", *words) == 0

    listed, shown, checked, exported = map(json.loads, capsys.readouterr().out.splitlines())

    assert (listed[0]["month"], list(listed[0]["timestamps"]), len(listed[0]["copies"])) == (MONTH, ["one"], 3)
    assert listed[1]["provisional"] is True
    assert shown["copies"][f"roots/{MONTH}.one.tsr"]["place"].startswith("s3://")
    assert (checked["ok"], len(checked["checks"])) == (True, 5)
    assert exported["files"] == sorted(path.name for path in (tmp_path / "folder").iterdir())


def test_the_status_says_what_waits_and_exits_1_on_an_alarm():
    log = LogStatus(tree_size=7, root="aa", chain_head="bb", checkpoint_age_s=0.1)
    waits = RootsStatus(waiting=("2026-11: time stamp of one: no answer",))
    alarmed = RootsStatus(alarms=("s3://b/x: the copy differs",))
    seen = [
        TenantStatus(tenant="boston", events=7, commands_waiting=0, log=log, followers=(), roots=roots)
        for roots in (waits, alarmed)
    ]

    lines = [list(status_lines(tenant)) for tenant in seen]

    assert lines[0][-1] == "  roots wait     2026-11: time stamp of one: no answer"
    assert lines[1][-1] == "  ALARM          s3://b/x: the copy differs"
    assert [tenant.ok for tenant in seen] == [True, False]


@pytest.mark.parametrize("words", [["show", "2020-01"], ["export", "2020-01", "-o", "x.zip"], ["check", "2020-01"]])
def test_a_month_that_the_log_has_not_is_named(place, words):
    with pytest.raises(TallyError, match=r"2020-01 has no .* tally roots list shows which"):
        run_roots(place, *words)


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
    place.folder.replace(path, seal(lie.payload(), keyring.certificate_keys[-1]))

    assert run_roots(place, "check", "--json") == 1

    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check["is_good"] for check in checks] == [True, False, True]
    assert "the copy differs from" in checks[1]["detail"]


BAD_SETTINGS = {
    "no TOML": ("[authorities", "cannot be read"),
    "unknown table": ("[author]", "names author, wanted some of authorities, publish, worm"),
    "unknown key": ('[worm]\nbukket = "b"', "names bukket, wanted some of bucket"),
    "no url": ('[authorities.x]\nca = "ca.pem"', "wanted ca .* and either url"),
    "both": ('[authorities.x]\nca = "c"\nurl = "http://x"\ncommand = ["x"]', "wanted ca .* and either url"),
    "file URL": ('[authorities.x]\nca = "c"\nurl = "file:///etc"', "wanted http:// or https://"),
    "no CA": ('[authorities.x]\nca = "none.pem"\nurl = "http://x"', "holds no certificates in PEM"),
    "bad name": ('[authorities."a b"]\nca = "c"\nurl = "http://x"', "expected 1 to 64 letters"),
    "no bucket": ("[worm]\nretention_days = 3", "wanted bucket"),
    "no bucket for the log": ('[publish]\nprefix = "p"', "publish: wanted bucket"),
    "no interval": ('[publish]\nbucket = "b"\nevery_seconds = 0', "every_seconds is 0, wanted a number from 1"),
    "days of a log": ('[publish]\nbucket = "b"\nretention_days = 3', "publish names retention_days, wanted some of"),
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
