"""The measurements of the ledger run to their end in tiny sizes; what they count is told, their figures are not."""

import pytest

from benchmarks.auditing import as_measurement, audits_on
from benchmarks.big_log import big_log
from benchmarks.hashing import signer_vs_hashlib
from benchmarks.proving import proof_p99_ms_on

SIZE = 1_000


@pytest.fixture(scope="module")
def log():
    with big_log(SIZE) as log:
        yield log


def test_a_receipt_is_made_from_cold_tiles_and_verified(log):
    measured = proof_p99_ms_on(log, proofs=3)

    assert measured.value > 0
    assert measured.details["verify_p99_ms"] > 0
    assert measured.details["entries"] == SIZE


def test_a_log_is_audited_by_one_process_and_by_two(log):
    measured = as_measurement({SIZE: audits_on(log)})

    assert measured.value > 0
    assert set(measured.details["by_entries_and_processes"][str(SIZE)]) == {"1", "2"}


def test_leaf_link_and_tree_are_set_beside_three_bare_digests():
    measured = signer_vs_hashlib(rounds=1, size=SIZE)

    assert 0 < measured.value < 2
    assert measured.details["events"] == 768
