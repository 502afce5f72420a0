"""A batch on the wire: what nats-py's own parser reads of it is what was to be stored."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.protocol.parser import Parser

from adapters.jetstream.append import frames
from bus.ports import Message

BATCH, REPLY = "Hs8vP0iQ3JrXkZ1a2b3c4d", "_INBOX.a.Hs8vP0iQ3JrXkZ1a2b3c4d"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
MESSAGES = st.builds(
    lambda owner, body, expectation: Message(f"tally.evt.t.player.{owner}", body, *expectation),
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    st.binary(max_size=2_000),
    st.sampled_from([(None, None), (0, None), (123_456, None), (7, "tally.evt.t.quest.marathon")]),
)


class Server:
    """What a parser calls: keeps subject, reply subject, headers in their order, and body."""

    def __init__(self):
        self.took = []

    async def _process_msg(self, sid, subject, reply, data, headers):
        first, *lines = headers.decode().removesuffix("\r\n\r\n").split("\r\n")
        assert first == "NATS/1.0"
        self.took.append((subject.decode(), reply.decode(), [tuple(line.split(": ")) for line in lines], data))


def read(wire):
    """The messages of a publisher's bytes; a parser for clients needs a subscription in each."""
    server, parsed = Server(), []
    parser = Parser(server)

    async def parse():
        at = 0
        while at < len(wire):
            end = wire.index(b"\r\n", at)
            verb, subject, *rest = wire[at:end].split(b" ")
            assert verb == b"HPUB"
            stop = end + 2 + int(rest[-1]) + 2
            parsed.append(b" ".join((b"HMSG", subject, b"1", *rest)) + wire[end:stop])
            at = stop
        await parser.parse(b"".join(parsed))

    asyncio.run(parse())
    return server.took


def expectation(message):
    """The headers that a message's expectation makes."""
    found = [] if message.expected is None else [(EXPECTED, str(message.expected))]
    return found if message.fence is None else [*found, (f"{EXPECTED}-Subject", message.fence)]


@given(st.lists(MESSAGES, min_size=2, max_size=30))
def test_each_message_of_a_batch_has_its_place_its_expectation_and_its_body_and_the_last_commits(messages):
    took = read(frames(BATCH, messages, REPLY))

    wanted = [
        (message.subject, "", [("Nats-Batch-Id", BATCH), ("Nats-Batch-Sequence", str(at)), *expectation(message)])
        for at, message in enumerate(messages, 1)
    ]
    subject, _, headers = wanted[-1]
    wanted[-1] = (subject, REPLY, [*headers, ("Nats-Batch-Commit", "1")])
    assert [one[:3] for one in took] == wanted
    assert [one[3] for one in took] == [message.body for message in messages]


@given(MESSAGES)
def test_a_single_message_is_no_batch(message):
    took = read(frames(BATCH, [message], REPLY))

    assert took == [(message.subject, REPLY, expectation(message), message.body)]


@pytest.mark.parametrize("count", [1_000, 1_001, 1_002])
def test_the_largest_batch_that_a_server_takes_and_larger_ones_are_counted_to_their_end(count):
    messages = [Message("tally.evt.t.player.ada", b"{}", None, None)] * count

    took = read(frames(BATCH, messages, REPLY))

    assert [headers[1][1] for _, _, headers, _ in took] == [str(place) for place in range(1, count + 1)]
