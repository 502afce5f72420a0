"""The keys of a log as an aggregate: each comes once and goes once, approved by others."""

import msgspec
import pytest

from domain.errors import InvalidData, KeyExists, KeyIsRetired
from domain.logkeys import INITIAL, AddKey, Approval, KeyAdded, KeyRetired, RetireKey, decide, evolve

OLD, NEW = "log.example/a+00000001", "log.example/a+00000002"
OLD_KEY, NEW_KEY = f"{OLD}+AYqI", f"{NEW}+Adda"


def approved(*labels):
    return tuple(Approval(key=label, signature="AAAA") for label in labels)


def add(*labels, vkey=NEW_KEY):
    return AddKey(role="log", vkey=vkey, approvals=approved(*labels))


def retire(*labels, vkey=OLD_KEY):
    return RetireKey(role="log", vkey=vkey, approvals=approved(*labels))


def after(*commands):
    state = INITIAL
    for command in commands:
        for event in decide(command, state, "keys"):
            state = evolve(state, event)
    return state


def test_a_key_is_added_with_its_approvals():
    assert decide(add(OLD, NEW), INITIAL, "keys") == (KeyAdded(role="log", vkey=NEW_KEY, approvals=approved(OLD, NEW)),)


def test_a_key_from_the_beginning_of_the_log_is_retired_though_it_was_never_added():
    assert decide(retire(NEW), INITIAL, "keys") == (KeyRetired(role="log", vkey=OLD_KEY, approvals=approved(NEW)),)


def test_a_key_comes_once():
    with pytest.raises(KeyExists, match="a key comes once"):
        decide(add(OLD, NEW), after(add(OLD, NEW)), "keys")


def test_a_retired_key_does_not_come_back_and_is_not_retired_again():
    state = after(add(OLD, NEW), retire(NEW))

    with pytest.raises(KeyIsRetired):
        decide(add(NEW, OLD, vkey=OLD_KEY), state, "keys")
    with pytest.raises(KeyIsRetired):
        decide(retire(NEW), state, "keys")


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (add(NEW), "no other key"),
        (add(NEW, NEW), "no other key"),
        (add(OLD), "not approved by that key itself"),
        (retire(OLD), "no other key"),
    ],
)
def test_a_change_needs_the_approval_of_another_key_and_an_addition_of_the_new_one_too(command, problem):
    with pytest.raises(InvalidData, match=problem):
        decide(command, INITIAL, "keys")


def test_the_keys_of_a_log_have_one_id():
    with pytest.raises(InvalidData, match="have the id keys"):
        decide(add(OLD, NEW), INITIAL, "others")


@pytest.mark.parametrize(
    "change",
    [
        {"vkey": "a b+00000001+AA=="},
        {"vkey": "a+0000000G+AA=="},
        {"vkey": "a+00000001+"},
        {"role": "witness"},
        {"approvals": []},
        {"approvals": [{"key": NEW, "signature": "A-_A"}]},
        {"approvals": [{"key": NEW, "signature": "AAAA"}] * 9},
    ],
)
def test_what_is_no_key_role_or_approval_is_refused_when_it_is_read(change):
    data = {"role": "log", "vkey": NEW_KEY, "approvals": [{"key": NEW, "signature": "AAAA"}]} | change

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(data, AddKey)
