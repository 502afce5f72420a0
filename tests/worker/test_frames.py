"""The bulk parser gives what nats-py's own parser gives, however the bytes are cut."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from adapters.jetstream.frames import Frame, FrameParser

TAKEN, OTHER = 7, 8
STATUS = b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 12\r\n\r\n"


class Connection:
    """What a parser calls on its client."""

    def __init__(self):
        self.heard = []
        self.calls = 0

    async def _process_msg(self, sid, subject, reply, data, headers):
        self.heard.append((sid, bytes(subject), bytes(reply), headers or b"", data))

    async def _process_ping(self):
        self.heard.append("ping")

    async def _process_pong(self):
        self.heard.append("pong")

    async def _process_err(self, words):
        self.heard.append(words)

    async def _process_info(self, info):
        self.heard.append(info)


def message(sid, subject, reply, header, body):
    words = [b"HMSG" if header else b"MSG", subject, str(sid).encode()]
    words += [reply] if reply else []
    words += [str(len(header)).encode()] if header else []
    words.append(str(len(header) + len(body)).encode())
    return b" ".join(words) + b"\r\n" + header + body + b"\r\n"


messages = st.builds(
    message,
    st.sampled_from([TAKEN, OTHER]),
    st.sampled_from([b"tally.evt.t.player.p1", b"a"]),
    st.sampled_from([b"", b"$JS.ACK.S.C.1.2.3.4.5"]),
    st.sampled_from([b"", b"NATS/1.0\r\nA: 1\r\n\r\n", STATUS]),
    st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"MSG a 7 3\r\n", b"\r\n\r\nPING\r\n"])),
)
others = st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b'INFO {"a":1}\r\n', b"-ERR 'no'\r\n"])


def heard_by(make, chunks):
    connection = Connection()
    parser = make(connection)

    async def feed():
        for chunk in chunks:
            await parser.parse(chunk)

    asyncio.run(feed())
    return connection.heard


def taking(connection):
    parser = FrameParser(connection)

    def take(frames: list[Frame]):
        connection.calls += 1
        connection.heard += [(TAKEN, each.raw_subject, each.reply, each.header, each.data) for each in frames]

    parser.takers[b"%d" % TAKEN] = take
    return parser


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(messages, others), max_size=12), st.data())
def test_every_cut_of_the_bytes_gives_the_same_messages_in_the_same_order(parts, data):
    sent = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    chunks = [sent[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True)]

    assert heard_by(taking, chunks) == heard_by(Parser, [sent])


def test_a_large_message_that_comes_in_many_parts_is_whole_in_the_end():
    body = bytes(range(256)) * 2_000
    sent = message(TAKEN, b"a", b"", b"", body) + b"PING\r\n"
    chunks = [sent[start : start + 1_000] for start in range(0, len(sent), 1_000)]

    assert heard_by(taking, chunks) == [(TAKEN, b"a", b"", b"", body), "ping"]


def test_what_one_read_brought_is_taken_in_one_call_up_to_a_message_for_somebody_else():
    connection = Connection()
    parts = [message(sid, b"a", b"r", b"", b"x") for sid in (TAKEN, TAKEN, TAKEN, OTHER, TAKEN, TAKEN)]

    asyncio.run(taking(connection).parse(b"".join(parts)))

    assert connection.calls == 2
    assert [sid for sid, *_ in connection.heard] == [TAKEN, TAKEN, TAKEN, OTHER, TAKEN, TAKEN]


def test_what_came_before_a_line_that_cannot_be_read_is_taken():
    connection = Connection()
    good = message(TAKEN, b"a", b"", b"", b"x")

    with pytest.raises(ProtocolError):
        asyncio.run(taking(connection).parse(good + b"MSG a 7 x\r\n"))

    assert connection.heard == [(TAKEN, b"a", b"", b"", b"x")]


def test_headers_are_read_as_their_sender_wrote_them_and_a_status_as_one():
    plain = Frame(b"a", b"", b"NATS/1.0\r\nTally-Reply-To: _INBOX.x.1\r\nB:  two : parts \r\n\r\n", b"")
    status = Frame(b"a", b"", STATUS, b"")

    assert plain.headers == {"Tally-Reply-To": "_INBOX.x.1", "B": "two : parts"}
    assert status.headers == {
        "Status": "408",
        "Description": "Request Timeout",
        "Nats-Pending-Messages": "12",
    }


def test_a_subject_or_header_that_is_no_utf_8_is_replaced_and_stops_nobody():
    frame = Frame(b"tally.cmd.\xff", b"", b"NATS/1.0\r\nTally-Reply-To: \xff\r\n\r\n", b"")

    assert frame.subject == "tally.cmd.\ufffd"
    assert frame.headers == {"Tally-Reply-To": "\ufffd"}


@pytest.mark.parametrize(
    "line", [b"MSG a x 3\r\n", b"MSG a 7\r\n", b"HMSG a 7\r\n", b"MSG\x20\r\n", b"MSG a 7 3 4 5 x\r\n"]
)
def test_a_message_line_that_cannot_be_read_ends_the_connection(line):
    with pytest.raises(ProtocolError):
        heard_by(taking, [line])


def test_what_came_in_part_is_forgotten_with_the_connection_that_it_came_over():
    connection = Connection()
    parser = taking(connection)

    async def feed():
        await parser.parse(b"MSG a 7 10\r\nabc")
        parser.reset()
        await parser.parse(message(TAKEN, b"b", b"", b"", b"whole"))

    asyncio.run(feed())

    assert connection.heard == [(TAKEN, b"b", b"", b"", b"whole")]
