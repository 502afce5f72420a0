"""Time stamps in what is handed out: one that was taken out of an export is missed; what no file can tell is said."""

import datetime as dt
import json
import subprocess
import sys

import pytest
from authorities import Authority
from log_samples import DAY_MS, NOV_21, Installation

from ledger.beside import STAMP_WITHIN_S
from ledger.build_pyz import build
from ledger.cli import main
from ledger.encoding import encode_base64
from ledger.errors import ObjectMissing, TimestampFailed
from ledger.export import make_export, verify_export, write_export
from ledger.policy import parse_policy
from ledger.receipt import prove_entry, verify_receipt

THEN = NOV_21 - 730 * DAY_MS  # 2024-11-21: every stamp is long due
CLOSED = THEN + 10 * DAY_MS
MONTH = "2024-11"
ENDED_S = CLOSED // 1000 - 36_000  # 2024-12-01T00:00:00Z
NO_TIME = "nothing outside the log says when it closed"
MISSED = (
    f"{MONTH}.one.tsr: expected the time stamp of a month that ended at 2024-12-01T00:00:00Z, which one stamps by the "
    "policy, found none"
)


class Stamped(Installation):
    """A log whose month was stamped by one authority; policies with and without that."""

    def __init__(self, base):
        super().__init__(base)
        self.publish(20, now_ms=THEN)
        self.publish(30, now_ms=CLOSED)
        self.authority = Authority(base / "one", years=(4, 10))
        self.lenient = self.policy()
        self.strict = self.with_lines(f"# tally-timestamp one {encode_base64(self.authority.root_der)}\n")
        self.strict_path = base / "strict.policy"
        self.strict_path.write_bytes(self.text)
        self.stamp = self.authority.forge(
            self.folder.read(f"roots/{MONTH}.checkpoint"), at=dt.datetime(2024, 12, 1, 11, 0, 0, tzinfo=dt.UTC)
        )

    def with_lines(self, lines):
        self.text = self.policy_path.read_bytes() + lines.encode()
        return parse_policy("p", self.text)

    def export(self, *, stamped=True):
        """The files of an export; without its stamp as whoever took it out would make it, all else fitting."""
        self.put(stamped=stamped)
        return make_export(self.folder, self.strict if stamped else self.lenient, MONTH)

    def put(self, *, stamped):
        self.folder.remove(f"roots/{MONTH}.one.tsr")
        if stamped:
            self.folder.replace(f"roots/{MONTH}.one.tsr", self.stamp)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return Stamped(tmp_path_factory.mktemp("stamped"))


def said_of_stamps(claims):
    return [(claim.is_checked, claim.detail) for claim in claims if claim.name == "time stamp"]


def test_a_stamp_that_was_taken_out_of_an_export_is_missed_when_its_time_is_over(log):
    whole, without = log.export(), log.export(stamped=False)
    assert said_of_stamps(verify_export("x.zip", whole, log.strict))[0][0]
    just_before = log.strict.as_of(ENDED_S + STAMP_WITHIN_S - 1)
    list(verify_export("x.zip", without, just_before))

    for policy in (log.strict, log.strict.as_of(ENDED_S + STAMP_WITHIN_S)):
        with pytest.raises(ObjectMissing) as found:
            list(verify_export("x.zip", without, policy))

        assert str(found.value) == f"x.zip, {MISSED}"


@pytest.mark.parametrize("name", ["folder", "x.tar", "x.zip"])
def test_tally_verify_and_the_checker_in_one_file_miss_it_in_every_kind_of_export(log, tmp_path, capsys, name):
    path = tmp_path / name
    write_export(path, log.export(stamped=False))
    checker = build(tmp_path / "tally-verify.pyz")

    code = main(["verify", str(path), "--policy", str(log.strict_path)])
    command = [sys.executable, str(checker), "verify", str(path), "--policy", str(log.strict_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    said = capsys.readouterr().out
    assert (code, done.returncode) == (1, 1)
    assert said.splitlines()[-1] == f"FAILED  {name}, {MISSED}"
    assert done.stdout == said


def test_while_its_time_is_not_over_the_missing_stamp_is_told_and_refused_where_one_is_required(log):
    young = log.strict.as_of(ENDED_S + 60)
    without = log.export(stamped=False)

    told = said_of_stamps(verify_export("x.zip", without, young))

    assert told == [(False, f"certificate of 2024-11: none by one, which stamps it by the policy: {NO_TIME}")]
    with pytest.raises(TimestampFailed) as found:
        list(verify_export("x.zip", without, young, needs_stamp=True))
    assert str(found.value) == (
        "x.zip, time stamp of one: expected one that can be checked (--require-stamp), found none"
    )
    assert list(verify_export("x.zip", log.export(), young, needs_stamp=True))


def test_a_policy_that_names_no_authority_is_told_what_is_not_claimed_and_can_be_refused(log):
    for files, said in (
        (log.export(stamped=False), f"certificate of 2024-11: none, and the policy names no authority: {NO_TIME}"),
        (log.export(), "certificate of 2024-11: one by one, not checked: the policy names no such authority"),
    ):
        assert said_of_stamps(verify_export("x", files, log.lenient)) == [(False, said)]
        with pytest.raises(TimestampFailed, match="x, time stamp of an authority that the policy names: expected one"):
            list(verify_export("x", files, log.lenient, needs_stamp=True))


def test_a_receipt_says_which_stamp_it_has_not_and_is_refused_where_one_is_required(log):
    log.put(stamped=False)
    receipt = prove_entry(log.folder, log.strict, 3)

    told = said_of_stamps(verify_receipt("r", receipt, log.strict))

    assert told == [(False, f"certificate of 2024-11: none by one, which stamps it by the policy: {NO_TIME}")]
    with pytest.raises(TimestampFailed, match=r"r, time stamp of one: expected one .*--require-stamp.*, found none"):
        list(verify_receipt("r", receipt, log.strict, needs_stamp=True))
    log.put(stamped=True)
    assert list(verify_receipt("r", prove_entry(log.folder, log.strict, 3), log.strict, needs_stamp=True))
    with pytest.raises(TimestampFailed, match="found none: the month was open"):
        list(verify_receipt("r", prove_entry(log.folder, log.strict, 25), log.strict, needs_stamp=True))


def test_what_is_not_claimed_is_marked_in_text_and_in_json(log, tmp_path, capsys):
    write_export(tmp_path / "x.zip", log.export(stamped=False))
    arguments = ["verify", str(tmp_path / "x.zip"), "--policy", str(log.policy_path)]

    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "ok", "--", "ok", "verified"]
    assert main([*arguments, "--json"]) == 0
    assert [claim["is_checked"] for claim in json.loads(capsys.readouterr().out)["claims"]] == [True, True, False, True]
    assert main([*arguments, "--require-stamp"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAILED  x.zip, time stamp of an authority")


def test_a_stamp_cannot_be_required_of_what_holds_none(log, tmp_path, capsys):
    (tmp_path / "it").write_bytes(bytes(prove_entry(log.folder, log.strict, 3).proof))

    code = main(["verify", str(tmp_path / "it"), "--policy", str(log.policy_path), "--require-stamp"])

    assert code == 2
    assert "--require-stamp goes with a receipt or an export; it is neither" in capsys.readouterr().err
