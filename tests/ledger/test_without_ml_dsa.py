"""A build of `cryptography` without ML-DSA-44 signs and checks with Ed25519 alone, and says what it cannot check."""

import pytest
from log_samples import NOV_21, Installation

from ledger import primitives
from ledger.cli import main
from ledger.errors import Unsupported
from ledger.receipt import prove_entry

DEC_1 = 1_796_083_200_000


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setattr(primitives, "mldsa", None)


def test_a_log_is_signed_and_audited_with_ed25519_alone(without, tmp_path):
    installed = Installation(tmp_path)
    installed.publish(10, 300, now_ms=NOV_21)
    installed.publish(301, now_ms=DEC_1)

    report = installed.audit()

    assert [key.key.algorithm for key in installed.keyring.log_keys] == [0x01]
    assert report.checkpoint.at_seconds is None
    assert "signed at an unknown time" in report.claims[0].detail
    assert [month.month for month in report.months] == ["2026-11", "2026-12"]


@pytest.mark.skipif(not primitives.has_ml_dsa_44(), reason="this build of cryptography has no ML-DSA-44")
def test_a_signature_that_this_build_cannot_check_is_not_passed_over(tmp_path, monkeypatch, capsys):
    installed = Installation(tmp_path)
    installed.publish(10)
    receipt = tmp_path / "r.receipt"
    receipt.write_bytes(bytes(prove_entry(installed.folder, installed.policy(), 3)))
    monkeypatch.setattr(primitives, "mldsa", None)
    primitives.ml_dsa_44_key.cache_clear()  # another build is another process
    primitives.is_ml_dsa_44_signature.cache_clear()

    with pytest.raises(Unsupported):
        installed.audit()
    assert main(["verify", str(receipt), "--policy", str(installed.policy_path)]) == 2
    assert "install cryptography>=48" in capsys.readouterr().err
