"""Keys of every role turn, Ed25519 and ML-DSA-44 keys stand in for each other; what may be destroyed, and when."""

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rotation_samples import DEC_21, Rotating

from adapters.errors import TallyError
from adapters.key_rotation import Place, destroy, retire
from adapters.settings import Settings
from ledger.keyfolder import CERTIFICATE, list_keys
from ledger.keys import KeyOpener
from ledger.note import COSIGNATURE_ML_DSA_44
from ledger.primitives import has_ml_dsa_44

needs_ml_dsa = pytest.mark.skipif(not has_ml_dsa_44(), reason="this build of cryptography has no ML-DSA-44")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rotating(tmp_path):
    return Rotating(tmp_path)


@needs_ml_dsa
def test_an_ml_dsa_key_is_rotated_and_retired_beside_the_ed25519_key(rotating):
    old = rotating.key("log-mldsa44").key.label
    new = rotating.stage("log-mldsa44-2", algorithm=COSIGNATURE_ML_DSA_44).label

    rotating.run([rotating.add("log-mldsa44-2", "log-ed25519"), *rotating.players(2)])
    overlap = rotating.signers_of()
    rotating.run([rotating.retire("log-mldsa44", "log-ed25519")])

    assert {old, new} <= overlap
    assert old not in rotating.signers_of()
    assert new in rotating.signers_of()
    rotating.audit()


@needs_ml_dsa
def test_a_lost_ed25519_key_is_replaced_with_the_approval_of_the_ml_dsa_key(rotating):
    lost = rotating.key("log-ed25519").key.label
    rotating.stage("log-ed25519-2")

    rotating.run(
        [
            rotating.add("log-ed25519-2", "log-mldsa44"),
            rotating.retire("log-ed25519", "log-mldsa44"),
            *rotating.players(1),
        ]
    )

    assert lost not in rotating.signers_of()
    rotating.audit()


@needs_ml_dsa
def test_the_last_ed25519_key_stays_though_the_ml_dsa_key_would_let_it_go(rotating):
    rotating.run([rotating.retire("log-ed25519", "log-mldsa44")])

    assert rotating.key("log-ed25519").key.label in rotating.signers_of()
    rotating.audit()


def place_of(rotating, tmp_path):
    settings = Settings.load(tmp_path / "data", {}, need=("log_dir", "keys_dir"))
    return Place(
        settings=settings, tenant="boston", folder=rotating.keyring.folder, log_dir=rotating.log_dir, wait_s=1.0
    )


def test_the_private_half_of_a_key_is_removed_only_once_it_is_retired_under_a_checkpoint(rotating, tmp_path):
    place = place_of(rotating, tmp_path)
    rotating.stage("log-ed25519-2")
    rotating.run([rotating.add("log-ed25519-2", "log-ed25519"), *rotating.players(1)])

    with pytest.raises(TallyError, match="is not retired under a checkpoint"):
        destroy(place, "log-ed25519")
    rotating.run([rotating.retire("log-ed25519", "log-ed25519-2")])

    assert destroy(place, "log-ed25519")
    assert {row.name: row.kept for row in list_keys(place.folder)}["log-ed25519"] == "destroyed"
    assert not destroy(place, "log-ed25519")


def test_a_certificate_key_is_kept_while_an_ended_month_waits_for_its_certificate(rotating, tmp_path):
    place = place_of(rotating, tmp_path)
    rotating.stage("certificate-ed25519-2", CERTIFICATE)
    rotating.run([rotating.add("certificate-ed25519-2", "log-ed25519", role=CERTIFICATE)])
    rotating.now_ms = DEC_21
    rotating.run([rotating.retire("certificate-ed25519", "log-ed25519", role=CERTIFICATE)])
    certificate = rotating.log_dir / "roots/2026-11.dsse.json"
    content = certificate.read_bytes()

    certificate.unlink()
    with pytest.raises(TallyError, match="2026-11 waits for its certificate"):
        destroy(place, "certificate-ed25519")
    certificate.write_bytes(content)

    assert destroy(place, "certificate-ed25519")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("log-ed25519", "is the last Ed25519 log key: tally keys rotate log-ed25519 first"),
        ("certificate-ed25519", "is the last Ed25519 certificate key"),
        ("log-ed25519-2", "is not in the policy"),
        ("log-ed25519-7", "is no key of"),
    ],
)
def test_a_retirement_that_cannot_be_is_refused_before_the_log_is_told(rotating, tmp_path, name, problem):
    rotating.stage("log-ed25519-2")

    with pytest.raises(TallyError, match=problem):
        retire(place_of(rotating, tmp_path), name, KeyOpener())


AT_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from ledger import keycrypt
keycrypt.LOG2_N = 14  # how dear a guess is does not matter here
from adapters.cli import main
sys.exit(main(sys.argv[1:]))
"""


def typed(master, prompt, answer):
    """Wait for a prompt, then type; what is typed earlier is thrown away."""
    shown = b""
    while prompt not in shown:
        shown += os.read(master, 1024)
    os.write(master, answer + b"\n")


def test_a_person_types_a_new_passphrase_twice_until_it_is_the_same(tmp_path):
    master, terminal = pty.openpty()
    command = [sys.executable, "-c", AT_A_TERMINAL, "keys", "generate", "--encrypt", "--tenant", "boston"]
    command += ["--data", str(tmp_path / "data")]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT) as process:
        os.close(terminal)
        try:
            typed(master, b"passphrase of the keys: ", b"one")
            typed(master, b"the same again: ", b"another")
            typed(master, b"they differ; passphrase of the keys: ", b"third time lucky")
            typed(master, b"the same again: ", b"third time lucky")
            with contextlib.suppress(OSError):  # the end of a terminal
                while os.read(master, 1024):
                    pass
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(master)
    folder = tmp_path / "data/keys/boston"
    opener = KeyOpener(passphrase=lambda _label: "third time lucky")
    assert opener.open(folder, "log-ed25519").key.name.endswith("/boston")
