"""Receipts and proofs for outsiders: self-contained, checked offline, refused when a single bit differs."""

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from log_samples import DEC_1, NOV_21, Installation, Recording, event

from ledger.cli import main
from ledger.errors import LedgerError, LogDamaged, Malformed, NotYetSigned, SignatureFailed, WrongUse
from ledger.files import Folder
from ledger.receipt import parse_proof, parse_receipt, prove_entry, verify_receipt

CLOSING, CERTIFICATE = "roots/2026-11.checkpoint", "roots/2026-11.dsse.json"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A log of a closed month (300 events) and an open one (450)."""
    installed = Installation(tmp_path_factory.mktemp("receipts"))
    installed.publish(120, 300, now_ms=NOV_21)
    installed.publish(450, now_ms=DEC_1 + 1)
    return installed


@pytest.fixture
def files(installed, tmp_path):
    """Receipt, proof and entry of an event of the closed month, as files."""
    receipt = prove_entry(installed.folder, installed.policy(), 33)
    (tmp_path / "r.receipt").write_bytes(bytes(receipt))
    (tmp_path / "r.tlog-proof").write_bytes(bytes(receipt.proof))
    (tmp_path / "r.json").write_bytes(receipt.entry)
    return tmp_path


def claims(installed, receipt):
    return [claim.name for claim in verify_receipt("receipt", receipt, installed.policy())]


@pytest.mark.parametrize("leaf_index", [0, 1, 255, 256, 299])
def test_an_event_of_a_closed_month_is_proved_under_the_months_root(installed, leaf_index):
    receipt = parse_receipt("receipt", bytes(prove_entry(installed.folder, installed.policy(), leaf_index)))

    assert claims(installed, receipt) == ["entry", "checkpoint", "inclusion", "month", "time stamp"]
    assert receipt.entry == event(leaf_index)
    assert receipt.certificate is not None
    assert "\n300\n" in receipt.proof.checkpoint.decode()


@pytest.mark.parametrize("leaf_index", [300, 301, 449])
def test_an_event_of_the_open_month_is_proved_under_the_last_checkpoint(installed, leaf_index):
    receipt = prove_entry(installed.folder, installed.policy(), leaf_index)

    assert claims(installed, receipt) == ["entry", "checkpoint", "inclusion", "month"]
    assert receipt.certificate is None


def broken(note):
    """A checkpoint whose first signature is a bad one."""
    text, _, signatures = note.rpartition(b"\n\n")
    at = signatures.index(b" ", 4) + 20
    other = b"B" if signatures[at : at + 1] == b"A" else b"A"
    return text + b"\n\n" + signatures[:at] + other + signatures[at + 1 :]


def copied(installed, folder):
    """A copy of the log, to be damaged."""
    return Folder(shutil.copytree(installed.log_dir, folder / "log"))


def test_of_what_a_receipt_holds_every_signature_is_checked_and_of_nothing_else(installed, tmp_path):
    policy, log = installed.policy(), copied(installed, tmp_path)
    good = bytes(prove_entry(log, policy, 33))
    latest, closing, certificate = map(log.read, ("checkpoint", CLOSING, CERTIFICATE))

    log.replace("checkpoint", broken(latest))
    log.replace(CLOSING, broken(closing))
    assert bytes(prove_entry(log, policy, 33)) == good
    with pytest.raises(SignatureFailed, match=r"^checkpoint: expected a good signature by "):
        prove_entry(log, policy, 333)
    with pytest.raises(SignatureFailed, match=r"^checkpoint: expected a good signature by "):
        prove_entry(log, policy, 450)
    log.replace("checkpoint", latest)
    log.replace(CERTIFICATE, certificate.replace(b'"sig":"', b'"sig":"' + b"A" * 4).replace(b'=="}]', b'"}]'))
    assert prove_entry(log, policy, 333).certificate is None
    with pytest.raises(LedgerError, match=rf"^{CERTIFICATE}"):
        prove_entry(log, policy, 33)


@pytest.mark.parametrize("claimed", [10, 34, 299, 301, 449, 10_000])
@pytest.mark.parametrize("leaf_index", [9, 33, 298, 300, 400, 448])
def test_a_closing_checkpoint_that_claims_another_size_makes_no_receipt_that_does_not_verify(
    installed, tmp_path, claimed, leaf_index
):
    log = copied(installed, tmp_path)
    log.replace(CLOSING, log.read(CLOSING).replace(b"\n300\n", b"\n%d\n" % claimed))

    if 300 <= leaf_index < claimed:
        with pytest.raises(LogDamaged, match=rf"expected a month that has leaf {leaf_index}, found leaves 0 to 299"):
            prove_entry(log, installed.policy(), leaf_index)
    else:
        receipt = prove_entry(log, installed.policy(), leaf_index)
        assert (receipt.certificate is not None) == (leaf_index < min(claimed, 300))
        assert "inclusion" in claims(installed, receipt)


def test_a_last_checkpoint_that_is_older_than_a_month_is_told(installed, tmp_path):
    log = copied(installed, tmp_path)
    log.replace("checkpoint", log.read("checkpoint").replace(b"\n450\n", b"\n299\n"))

    with pytest.raises(LogDamaged, match=r"^checkpoint: expected a size of at least 300, that of a month, found 299"):
        prove_entry(log, installed.policy(), 33)


def test_any_flipped_bit_of_a_tile_that_a_proof_needs_makes_no_receipt(installed, tmp_path):
    log, policy, dice = copied(installed, tmp_path), installed.policy(), random.Random(7)
    for leaf_index in (33, 333):
        source = Recording(log.root)
        prove_entry(source, policy, leaf_index)
        tiles = sorted(path for path in source.paths if path.startswith("tile/") and log.read(path) is not None)
        assert any("entries" in path for path in tiles)
        for path in tiles:
            good = log.read(path)
            for bit in [dice.randrange(len(good) * 8) for _ in range(40)]:
                bad = bytearray(good)
                bad[bit // 8] ^= 1 << bit % 8
                log.replace(path, bytes(bad))
                with suppress(LedgerError):
                    receipt = prove_entry(log, policy, leaf_index)
                    assert receipt.entry == event(leaf_index)
                    assert "inclusion" in claims(installed, receipt)
            log.replace(path, good)


def lowest_free_descriptor():
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


def test_files_are_read_together_and_none_is_left_open(installed):
    paths = ["checkpoint", "nowhere", "tile/0/000", "checkpoint/below", CERTIFICATE]
    free = lowest_free_descriptor()

    assert installed.folder.read_all(paths) == [installed.folder.read(path) for path in paths]
    with pytest.raises(WrongUse, match="tile: expected a file, found a directory"):
        installed.folder.read_all(["checkpoint", "tile", "tile/0/000"])
    assert installed.folder.read_all([]) == []
    assert lowest_free_descriptor() == free


@pytest.mark.parametrize("leaf_index", [450, 10_000, -1])
def test_an_event_that_no_checkpoint_covers_is_not_proved(installed, leaf_index):
    with pytest.raises(NotYetSigned, match="450"):
        prove_entry(installed.folder, installed.policy(), leaf_index)


@pytest.mark.parametrize("leaf_index", [33, 333])
def test_a_receipt_with_any_flipped_bit_is_refused(installed, leaf_index):
    good = bytes(prove_entry(installed.folder, installed.policy(), leaf_index))
    dice = random.Random(leaf_index)

    for bit in dice.sample(range(len(good) * 8), 800):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(LedgerError):
            claims(installed, parse_receipt("receipt", bytes(bad)))


def test_a_receipt_cut_off_anywhere_is_refused(installed):
    good = bytes(prove_entry(installed.folder, installed.policy(), 33))

    for end in [*range(0, len(good), 97), len(good) - 1]:
        with pytest.raises(Malformed):
            parse_receipt("receipt", good[:end])


def test_a_receipt_with_another_event_proof_or_certificate_is_refused(installed):
    closed, other, open_month = (prove_entry(installed.folder, installed.policy(), at) for at in (33, 34, 333))

    for forged in (
        dataclasses.replace(closed, entry=other.entry),
        dataclasses.replace(closed, proof=other.proof),
        dataclasses.replace(open_month, certificate=closed.certificate),
        dataclasses.replace(closed, proof=dataclasses.replace(closed.proof, checkpoint=open_month.proof.checkpoint)),
        dataclasses.replace(closed, proof=dataclasses.replace(closed.proof, leaf_index=34)),
        dataclasses.replace(closed, proof=dataclasses.replace(closed.proof, hashes=closed.proof.hashes[:-1])),
    ):
        with pytest.raises(LedgerError):
            claims(installed, forged)


PROOF_PROBLEMS = {
    "another first line": (b"c2sp.org/tlog-proof@v1\n", b"c2sp.org/tlog-proof@v2\n"),
    "no index": (b"index 33\n", b""),
    "an index with a zero in front": (b"index 33\n", b"index 033\n"),
    "an index with a sign": (b"index 33\n", b"index +33\n"),
    "two spaces": (b"index 33\n", b"index  33\n"),
    "CRLF": (b"index 33\n", b"index 33\r\n"),
    "extra after the index": (b"index 33\n", b"index 33\nextra AAAA\n"),
    "no empty line": (b"\n\n", b"\n"),
}


@pytest.mark.parametrize("case", PROOF_PROBLEMS)
def test_a_malformed_tlog_proof_is_refused(installed, case):
    good = bytes(prove_entry(installed.folder, installed.policy(), 33).proof)
    old, new = PROOF_PROBLEMS[case]
    assert old in good

    with pytest.raises(Malformed):
        parse_proof("proof", good.replace(old, new))


def test_extra_data_of_a_tlog_proof_is_kept_and_proves_nothing(installed):
    proof = prove_entry(installed.folder, installed.policy(), 33).proof
    with_extra = parse_proof("proof", bytes(dataclasses.replace(proof, extra=b"hello")))

    assert (with_extra.extra, with_extra.hashes) == (b"hello", proof.hashes)


def test_verify_prints_one_line_per_claim_and_exits_0(installed, files, capsys):
    code = main(["verify", str(files / "r.receipt"), "--policy", str(installed.policy_path)])

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert [line.split()[:2] for line in lines[:5]] == [
        ["ok", "entry"], ["ok", "checkpoint"], ["ok", "inclusion"], ["ok", "month"], ["--", "time"],
    ]  # fmt: skip
    assert lines[5] == "verified"


def test_verify_takes_a_bare_tlog_proof_with_its_entry(installed, files, capsys):
    arguments = ["verify", str(files / "r.tlog-proof"), "--policy", str(installed.policy_path)]

    assert main([*arguments, "--entry", str(files / "r.json")]) == 0
    assert main(arguments) == 2
    assert "--entry FILE" in capsys.readouterr().err


def test_verify_says_in_json_what_failed_and_exits_1(installed, files, capsys):
    entry = files / "r.json"
    entry.write_bytes(entry.read_bytes().replace(b'"amount":33', b'"amount":34'))
    arguments = ["--entry", str(entry), "--policy", str(installed.policy_path), "--json"]

    code = main(["verify", str(files / "r.tlog-proof"), *arguments])

    found = json.loads(capsys.readouterr().out)
    assert (code, found["ok"]) == (1, False)
    assert found["failure"].startswith("inclusion of leaf 33 in the tree of size 300: expected root ")


def test_a_policy_of_another_log_is_refused(installed, files, tmp_path_factory, capsys):
    other = Installation(tmp_path_factory.mktemp("other"))

    code = main(["verify", str(files / "r.receipt"), "--policy", str(other.policy_path)])

    assert code == 1
    assert "expected a signature by tallyroot.example/ledger/boston+" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "nowhere.receipt", "--policy", "POLICY"], "nowhere.receipt cannot be read"),
        (["verify", "RECEIPT", "--policy", "nowhere"], "nowhere cannot be read"),
        (["verify", "RECEIPT", "--policy", "POLICY", "--entry", "RECEIPT"], "a receipt holds its entry"),
        (["audit", "nowhere", "--policy", "POLICY"], "is no folder"),
    ],
)
def test_wrong_use_is_one_line_and_exits_2(installed, files, capsys, arguments, message):
    names = {"POLICY": str(installed.policy_path), "RECEIPT": str(files / "r.receipt")}

    code = main([names.get(argument, argument) for argument in arguments])

    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_audit_prints_what_holds_and_in_json_the_whole_of_it(installed, capsys):
    arguments = ["audit", str(installed.log_dir), "--policy", str(installed.policy_path)]

    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "verified"
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tree_size"], found["per_type"]["quest-completed/1"]) == (450, 150)
    assert [month["month"] for month in found["months"]] == ["2026-11", "2026-12"]


def test_the_checker_loads_nothing_but_itself_the_standard_library_and_cryptography(files, installed):
    program = (
        "import sys; from ledger.cli import main; code = main(sys.argv[1:]);"
        "allowed = {*sys.stdlib_module_names, 'ledger', 'cryptography', '_openssl', '_cffi_backend', '__main__'};"
        "print(sorted({n.split('.')[0] for n in sys.modules} - allowed)); sys.exit(code)"
    )
    arguments = ["verify", str(files / "r.receipt"), "--policy", str(installed.policy_path)]

    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {program}", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_checker_runs_as_a_module_of_its_own(files, installed):
    arguments = ["verify", str(files / "r.receipt"), "--policy", str(installed.policy_path)]

    done = subprocess.run(
        [sys.executable, "-m", "ledger.cli", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("verified\n")
