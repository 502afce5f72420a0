"""The measurements of the ledger run to their end in tiny sizes; what they count is told, their figures are not."""

import pytest

from benchmarks.auditing import as_measurement, audits_on
from benchmarks.big_log import big_log, kept_logs
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
    assert measured.details["its_files_read_and_nothing_else"]["proofs"] == 3


def test_a_log_is_audited_by_one_process_and_by_two(log):
    measured = as_measurement({SIZE: audits_on(log)}, {SIZE: log.built})

    assert measured.value > 0
    assert set(measured.details["by_entries_and_processes"][str(SIZE)]) == {"1", "2"}


def test_leaf_link_and_tree_are_set_beside_three_bare_digests():
    measured = signer_vs_hashlib(rounds=1, size=SIZE)

    assert 0 < measured.value < 2
    assert measured.details["events"] == 768


def test_the_measurements_of_one_run_share_a_log_that_grows():
    with kept_logs():
        with big_log(300) as first:
            root = first.folder.root
            assert first.policy.open("checkpoint", first.folder.read("checkpoint")).checkpoint.tree_size == 300
        with big_log(700) as grown, big_log(700) as again:
            assert (grown.folder.root, grown.built.entries) == (root, 400)
            assert audits_on(grown)["1"]["entries_per_second"] > 0
            assert again is grown
        with big_log(300) as smaller:
            assert smaller.folder.root != root
            assert smaller.folder.read("tile/entries/001.p/44") is not None
        assert root.exists()

    assert not root.exists()
