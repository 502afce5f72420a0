"""Old versions are brought to the current one when they are read; a chain with a fault never starts."""

import subprocess
import sys

import msgspec
import pytest

from bus import envelope
from bus.envelope import CHAIN, Recorded, decode_command, encode_event
from bus.errors import BusError, Malformed, WireError
from bus.examples import records
from bus.gist import KINDS, gist_of
from bus.timetravel import Past
from bus.upcasting import UPCASTERS, BrokenChain, Chain, Upcaster, split_name
from domain.catalogue import Key
from tests.platform.source_tree import ROOT

CURRENT = {"tokens-minted/1", "xp-awarded/3", "spend-tokens/1"}
#: A coin of old, renamed and reshaped on its way, and three generations of one event.
STEPS = (
    Upcaster("coins-minted/1", "coins-minted/2", lambda data: {**data, "why": "unknown"}),
    Upcaster(
        "coins-minted/2",
        "tokens-minted/1",
        lambda data: {"amount": data["coins"], "balance": data["sum"], "reason": data["why"]},
    ),
    Upcaster("xp-awarded/1", "xp-awarded/2", lambda data: {**data, "two": 2}),
    Upcaster("xp-awarded/2", "xp-awarded/3", lambda data: {**data, "three": 3}),
    Upcaster("spend-coins/1", "spend-tokens/1", lambda data: {"amount": data["coins"]}),
)


@pytest.fixture
def chain(monkeypatch):
    current = {*envelope.EVENTS, *(stored for stored, _, _ in envelope.COMMANDS.values())}
    made = Chain([step for step in STEPS if not step.source.startswith("xp")], current)
    monkeypatch.setattr(envelope, "CHAIN", made)
    return made


def old_event(kind="coins-minted/1", data=b'{"coins":5,"sum":12}'):
    minted = next(record for record in records() if record.event.type == "tokens-minted/1").event
    urn = f"urn:tallyroot:schema:{kind.replace('/', ':')}"
    return encode_event(msgspec.structs.replace(minted, type=kind, dataschema=urn, data=msgspec.Raw(data)))


def test_the_gist_of_an_old_event_is_that_of_the_current_version(chain):
    record = Recorded(7, old_event())

    gist = gist_of(record)

    assert type(gist) is KINDS["tokens-minted/1"]
    assert (gist.subject, gist.data) == (record.event.subject, record.data)


def test_a_chain_leads_from_every_old_version_to_the_current_one():
    chain = Chain(STEPS, CURRENT)

    assert chain.upcast("xp-awarded/1", {"total": 1}) == ("xp-awarded/3", {"total": 1, "two": 2, "three": 3})
    assert chain.upcast("xp-awarded/2", {}) == ("xp-awarded/3", {"three": 3})
    assert chain.upcast("coins-minted/1", {"coins": 1, "sum": 2})[0] == "tokens-minted/1"
    assert chain.target("coins-minted/1") == "tokens-minted/1"
    assert chain.sources == {step.source for step in STEPS}


def test_what_is_current_is_left_alone():
    data = {"total": 1}

    name, same = Chain(STEPS, CURRENT).upcast("xp-awarded/3", data)

    assert name == "xp-awarded/3"
    assert same is data


def step(source, target):
    return Upcaster(source, target, dict)


@pytest.mark.parametrize(
    ("steps", "current", "line"),
    [
        ([step("a/1", "a/2"), step("a/1", "b/1")], {"a/2", "b/1"}, "two upcasters start from a/1, to a/2 and to b/1"),
        ([step("a/1", "b/1"), step("b/1", "a/1")], {"c/1"}, "go round in a circle: a/1 -> b/1 -> a/1"),
        ([step("a/1", "a/1")], {"b/1"}, r"leads to a/1, wanted a/2"),
        ([step("a/1", "a/2")], {"b/1"}, "leads to a/2, which is neither current nor upcast further"),
        ([step("a/1", "a/2")], {"a/3"}, "leads to a/2, which is neither current"),
        ([step("a/1", "a/3")], {"a/3"}, "from a/1 leads to a/3, wanted a/2: one by one"),
        ([step("a/2", "a/3")], {"a/3"}, "a/2 is known, but nothing upcasts a/1"),
        ([], {"a/2"}, "a/2 is known, but nothing upcasts a/1"),
        ([step("a/3", "b/1"), step("a/1", "a/2")], {"b/1"}, "a/2, which is neither current nor upcast further"),
        ([step("a/1", "a/2")], {"a/1", "a/2"}, "a/1 is a current version and has an upcaster"),
        ([], {"a/1", "a/2"}, "a/1 and a/2 are both current"),
        ([step("a/2", "a/1")], {"a/1"}, "from a/2 leads to a/1, wanted a/3"),
    ],
)
def test_a_chain_with_a_fault_is_refused_in_one_line(steps, current, line):
    with pytest.raises(BrokenChain, match=line) as caught:
        Chain(steps, current)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "a", "a/0", "a/01", "a/+1", "a/1 ", "a/1\n", "A/1", "a.b/1", "/1", "a/1/2", "a/٣"]
)
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(BusError, match="wanted a name and a version"):
        split_name(name)
    with pytest.raises(BusError, match="wanted a name and a version"):
        Chain([step(name, "b/1")], {"b/1"})


def test_a_stored_old_event_is_read_as_the_current_one_and_stays_what_it_is(chain):
    body = old_event()
    record = Recorded(7, body)

    assert (record.event.type, record.event.dataschema) == ("tokens-minted/1", "urn:tallyroot:schema:tokens-minted:1")
    assert (record.data.amount, record.data.balance, record.data.reason) == (5, 12, "unknown")
    assert record.stored.type == "coins-minted/1"
    assert encode_event(record.stored) == record.body == body


def test_an_old_event_evolves_the_state_as_a_current_one_does(chain):
    past = Past(Key("token", "b19"), 9, 9)

    past.apply([Recorded(1, old_event())])

    assert past.state.balance == 12


def test_a_current_event_does_not_pass_through_the_chain(chain, monkeypatch):
    monkeypatch.setattr(Chain, "upcast", None)

    assert [record.data for record in records()]


@pytest.mark.parametrize("data", [b'{"sum":12}', b"[]", b"null", b'"x"', b"1"])
def test_an_old_event_that_does_not_fit_its_upcaster_is_named(chain, data):
    with pytest.raises(WireError, match=r"token\.b19\.1 of type coins-minted/1 cannot be upcast to tokens-minted/1"):
        _ = Recorded(7, old_event(data=data)).event


def test_an_old_command_is_taken_and_one_that_does_not_fit_is_refused(chain):
    def decode(data, kind="spend-coins/1"):
        body = {"specversion": "1.0", "id": "c", "source": "s", "type": kind, "subject": "token/p"}
        body |= {"time": "2026-01-01T00:00:00Z", "data": data}
        return decode_command("t", 1, ("token", "p", "SpendTokens"), msgspec.json.encode(body))

    assert decode({"coins": 5}).command.amount == 5
    for data in ({}, {"coins": "5"}, [], None, {"coins": 0}):
        with pytest.raises(Malformed) as caught:
            decode(data)
        assert caught.value.code == "invalid-data"
    with pytest.raises(Malformed, match="wanted spend-tokens/1"):
        decode({"coins": 5}, "spend-coins/2")


def test_the_real_chain_was_validated_and_knows_no_old_version_yet():
    assert UPCASTERS == ()
    assert CHAIN.sources == frozenset()


def test_nothing_starts_with_a_broken_chain():
    code = (
        "import bus.upcasting as u\n"
        "u.UPCASTERS = (u.Upcaster('xp-awarded/0', 'xp-awarded/1', dict),)\n"
        "from adapters.cli import main\n"
        "raise SystemExit(main(['run', 'worker']))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert answer.returncode == 2
    assert answer.stderr == (
        "tally: stored name is 'xp-awarded/0', wanted a name and a version from 1, like xp-awarded/1\n"
    )
