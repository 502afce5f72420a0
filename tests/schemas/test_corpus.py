"""Every stored version is still read: whole bodies as they lie in streams, through decode and evolve."""

import json

import pytest

from bus.envelope import CHAIN, COMMANDS_DECIDED, Recorded, encode_event
from bus.examples import records
from bus.schemas import file_name
from domain.catalogue import EVENTS
from tests.schemas.freeze import CORPUS, frozen_schemas, generations, states
from tests.schemas.validator import faults

GENERATIONS = generations()
BODIES = [body for bodies in GENERATIONS for body in bodies]


def test_every_stored_version_is_in_the_corpus():
    current = {*EVENTS, COMMANDS_DECIDED}
    old = {name for name in CHAIN.sources if CHAIN.target(name) in current}

    assert {json.loads(body)["type"] for body in BODIES} == current | old


@pytest.mark.parametrize("number", range(1, len(GENERATIONS) + 1))
def test_a_generation_comes_to_what_it_came_to(number):
    expected = json.loads((CORPUS / f"{number}.states.json").read_bytes())

    found = states(GENERATIONS[number - 1])

    assert _of(expected, found) == expected


def _of(expected, found):
    """The part of what was found that was known when the generation was frozen; a state may have grown since."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return {name: _of(inner, found[name]) for name, inner in expected.items() if name in found}
    return found


def test_every_body_is_read_and_is_in_its_one_form():
    for seq, body in enumerate(BODIES, 1):
        record = Recorded(seq, body)

        assert record.data is not None
        assert encode_event(record.stored) == body


def test_every_body_fits_the_frozen_schemas():
    frozen = frozen_schemas()
    for body in BODIES:
        event = json.loads(body)

        assert list(faults(event, frozen["envelope-event.json"])) == []
        assert list(faults(event["data"], frozen[file_name(event["type"])])) == []


def test_the_code_of_today_writes_the_bytes_of_the_newest_generation():
    assert [record.body for record in records()] == GENERATIONS[-1]


def test_an_altered_body_is_not_read_as_if_nothing_were():
    body = next(body for body in BODIES if b'"xp-awarded/1"' in body)

    for old, new in [(b'"total"', b'"totel"'), (b'"total":1010', b'"total":"1010"'), (b"/1", b"/7"), (b"}}", b"}")]:
        with pytest.raises(Exception, match=r"event|type|data") as caught:
            _ = Recorded(1, body.replace(old, new)).data
        assert type(caught.value).__name__ == "WireError"
