"""docs/formats.md, Events and subjects: its bytes, numbers and tables are those of the code."""

import json
import re

import msgspec
import pytest

from adapters.jetstream import streams
from bus import examples, subjects
from bus.envelope import BODY_BYTES_MAX, EventEnvelope
from bus.follower import Position, leaf_hash
from bus.outcomes import Outcome
from domain.errors import Refused
from tests.platform.source_tree import ROOT

TEXT = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
SECTION = TEXT[TEXT.index("## Events and subjects") : TEXT.index("## The log of a tenant")]
STORY = examples.story()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)\n```$", SECTION, re.DOTALL | re.MULTILINE)


def joined(block):
    return block.replace("\n", "").encode()


def test_the_worked_example_is_what_the_code_reads_and_writes():
    (command,), (event,), (outcome,), (inbox,) = (blocks(kind) for kind in ("command", "event", "outcome", "inbox"))

    assert joined(command) == STORY.commands[6].body
    assert joined(event) == STORY.events[7].body
    assert joined(outcome) == STORY.outcomes[6].body
    assert joined(inbox) == STORY.events[-1].body
    assert f"`{STORY.commands[6].subject}`" in SECTION
    assert f"event 8 of the stream, on `{STORY.events[7].subject}`, {len(STORY.events[7].body)} bytes" in SECTION
    assert f"`{leaf_hash(STORY.events[7].body)}`" in SECTION


def rows(head):
    """The cells of the table whose first cell of the head is this, head included."""
    table = SECTION[SECTION.index(f"| {head} |") :].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_order_of_the_keys_is_the_order_of_the_bytes():
    for column, envelope in ((2, EventEnvelope), (3, Outcome)):
        named = [re.findall(r"`(\w+)`", row[0]) for row in rows("key")[2:] if row[column]]

        assert [key for keys in named for key in keys] == [field.name for field in msgspec.structs.fields(envelope)]


@pytest.mark.parametrize(
    "config",
    [
        streams.events_config("boston", 1),
        streams.commands_config("boston", 8, "fast", 1),
        streams.dead_config("boston", 1),
        streams.timers_config("boston", 1),
    ],
    ids=lambda config: config["name"],
)
def test_the_streams_are_configured_as_it_says(config):
    assert config in [json.loads(block) for block in blocks("json")]


def test_the_partition_of_the_example_is_right():
    assert f"`b19` is in {subjects.partition_of('b19', 8)}" in SECTION


def codes(kind):
    yield kind.code
    for inner in kind.__subclasses__():
        yield from codes(inner)


def test_every_code_is_in_the_table():
    listed = {code for row in rows("code")[2:] for code in re.findall(r"`([a-z-]+)`", row[0])}
    source = "".join((ROOT / "bus" / name).read_text("utf-8") for name in ("envelope.py", "batch.py", "reading.py"))
    wire = set(re.findall(r'(?:code = |_refuse\()"([a-z-]+)"', source))

    assert len(wire) >= 7
    assert (set(codes(Refused)) - {"refused"}) | wire | {"discarded"} == listed


def test_the_positions_and_limits_are_those_of_the_code():
    assert [field.name for field in msgspec.structs.fields(Position)] == re.findall(
        r"^\| `(\w+)` \|", SECTION[SECTION.index("### Positions") :], re.MULTILINE
    )
    assert f"{BODY_BYTES_MAX:,} bytes" in SECTION


ALL_BELOW = "".join(map(chr, range(0x21))) + '"\\/\x7f\u2028é😀'


def test_text_is_escaped_as_it_says():
    expected = "".join(
        {"\b": r"\b", "\t": r"\t", "\n": r"\n", "\f": r"\f", "\r": r"\r", '"': r"\"", "\\": r"\\"}.get(
            c, f"\\u{ord(c):04x}" if ord(c) < 0x20 else c
        )
        for c in ALL_BELOW
    )

    assert msgspec.json.encode(ALL_BELOW).decode() == f'"{expected}"'


def test_the_subjects_are_built_as_it_says():
    built = {
        subjects.command("<tenant>", "<aggregate>", "<id>", "<Command>"),
        subjects.event("<tenant>", "<aggregate>", "<id>"),
        subjects.event("<tenant>", "inbox", "<partition>"),
        subjects.outcome("<tenant>", "<command id>"),
        subjects.dead("<tenant>", "<aggregate>", "<id>"),
        subjects.timer("<tenant>", "<key>"),
        subjects.timer_due("<tenant>", "<key>"),
    }
    named = set(re.findall(r"`(tally\.[^`]+)`", "".join(row[1] for row in rows("what")[2:])))

    assert named == built
