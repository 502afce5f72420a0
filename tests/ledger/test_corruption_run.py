"""A seeded sample of the corruption run, which `make chaos` does with 10,000 cases."""

import pytest

from simulations import corruption
from simulations.corruption import KINDS, Damage, is_named


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("corruption") / "whole"
    corruption.publish(base)
    return base


def test_every_damage_of_the_sample_is_found_and_its_object_named(base):
    found = corruption.try_cases(base, 2014, 0, 100)

    assert (found.missed, found.crashed, found.unnamed) == ([], [], [])
    assert set(found.tried) == set(KINDS)


def test_every_file_that_is_needed_is_missed_when_it_is_gone(base):
    log = corruption.load(base)

    for path in log.needed:
        found = log.audit_damaged(Damage(0, "removed", {path: None}))
        assert is_named(str(found), Damage(0, "removed", {path: None})), path
    assert len(log.needed) > 10


def test_the_log_is_whole_again_after_each_case(base):
    log = corruption.load(base)

    log.audit_damaged(corruption.damage(log, 1, 1))

    assert corruption.load(base).files == log.files


def test_a_damage_that_nobody_finds_is_told(base, monkeypatch):
    monkeypatch.setattr(corruption, "audit_log", lambda *_: None)
    log = object.__new__(corruption.Log)
    monkeypatch.setattr(corruption, "load", lambda _: log)
    whole = corruption.Folder(base / "log")
    log.folder, log.policy, log.needed = whole, None, ["checkpoint"]
    log.files = {path: whole.read(path) for path in whole.walk()}

    found = corruption.try_cases(base, 1, 0, 5)

    assert len(found.missed) == 5
    assert not found.ok


def test_a_case_is_the_same_each_time_and_its_number_makes_it_another(base):
    log = corruption.load(base)

    assert [corruption.damage(log, 7, number) for number in range(50)] == [
        corruption.damage(log, 7, number) for number in range(50)
    ]
    assert len({corruption.damage(log, 7, number).told for number in range(50)}) > 40
