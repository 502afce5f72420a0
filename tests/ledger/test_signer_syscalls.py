"""The signer killed and failed at its system calls by strace: a sample; `make chaos` does all of them."""

from random import Random

import pytest

from ledger.files import SYNCED_AT_ONCE
from simulations import crashes

SAMPLE = 7


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    reason = crashes.missing()
    if reason is not None:
        pytest.skip(reason)
    lives = crashes.Crashes(tmp_path_factory.mktemp("crashes"))
    return lives, lives.faults()


def test_a_life_has_every_call_that_can_fail(every):
    _, faults = every
    by_call = {call: sum(fault.call == call for fault in faults) for call in crashes.CALLS}

    assert by_call["fsync"] > 100
    assert all(by_call.values()), by_call


def test_a_signer_killed_or_failed_at_a_system_call_goes_on_without_a_fork_and_its_log_is_whole(every):
    lives, faults = every
    sample = Random(3).sample(faults, SAMPLE)

    assert {fault.error is None for fault in sample} == {True, False}
    assert [problem for fault in sample for problem in lives.suffer(fault)] == []


@pytest.mark.parametrize("call", ["write", "fdatasync", "fsync", "rename"])
def test_a_signer_whose_call_failed_touches_no_file_any_more(every, call):
    lives, faults = every
    failing = [fault for fault in faults if fault.call == call and fault.error]

    assert lives.suffer(failing[len(failing) // 2]) == []


def test_a_signer_whose_file_was_not_synced_by_one_of_several_threads_touches_no_other_any_more(every):
    lives, faults = every
    failing = [fault for fault in faults if fault.call == "fdatasync" and fault.error]

    assert [fault.synced_at_once for fault in failing[:1] + failing[-1:]] == [1, SYNCED_AT_ONCE]
    assert lives.suffer(failing[-1]) == []


def test_a_short_write_stops_the_signer_and_signs_nothing(every):
    lives, faults = every

    assert lives.suffer(next(fault for fault in faults if fault.file_bytes_max == 5_000)) == []


def test_what_the_checks_are_for_is_found(every, monkeypatch):
    """A signer that goes on after a failed fsync, and a log that is not whole, do not pass."""
    lives, faults = every
    failed = next(fault for fault in faults if (fault.call, fault.nth, fault.error) == ("fsync", 30, "EIO"))
    monkeypatch.setattr(crashes, "_require_whole", lambda *_: (_ for _ in ()).throw(crashes.LedgerError("torn")))
    monkeypatch.setattr(crashes, "STOPPED", 0)

    found = lives.suffer(failed)

    assert "the signer ended with 3: OSError: [Errno 5]" in found[0]
    assert found[1].endswith("afterwards: torn")
