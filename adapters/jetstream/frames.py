"""What a connection receives, taken apart in bulk: a parser for nats-py that gives whole frames to whom they are for.

nats-py matches two patterns for each message, builds a dict of its headers, queues it and wakes a task. Where messages
come by the hundred thousand that costs more than everything that is done with them, so a subscription may take its
frames here, in the order in which they came, all that one read brought in one plain call. Everything else goes the way
of nats-py. Private names of nats-py that are used here, and nowhere else: `_ps`, `_process_msg`, `Subscription._id`,
`client.DEFAULT_BUFFER_SIZE`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from nats.aio import client as nats_client
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

#: What nats-py reads at once, its own 32 KiB being 60 events: a seventh of the time that reading takes.
nats_client.DEFAULT_BUFFER_SIZE = 131_072
_HEADER_LINE: Final = b"NATS/1.0"
_CRLF: Final = b"\r\n"
_LF: Final = b"\n"
_MESSAGES: Final = (b"MSG ", b"HMSG ")
#: What is answered by itself is short; a line that grows beyond this is no protocol line (INFO names every server).
_LINE_BYTES_MAX: Final = 1_048_576


class Frame(msgspec.Struct, gc=False):
    """One message as it came: subject, reply subject and header as bytes, decoded for those who ask."""

    raw_subject: bytes
    reply: bytes
    header: bytes
    data: bytes

    @property
    def subject(self) -> str:
        """The subject; what is no UTF-8 in it is replaced, so that it is refused like any other wrong subject."""
        return self.raw_subject.decode("utf-8", "replace")

    @property
    def headers(self) -> dict[str, str]:
        """The headers, the last of each name; the status of a message without body under `Status`."""
        if not self.header:
            return {}
        first, *lines = self.header.split(_CRLF)
        found = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if colon:
                found[name.decode("utf-8", "replace").strip()] = value.decode("utf-8", "replace").strip()
        status = first[len(_HEADER_LINE) :].strip()
        if status:
            code, _, words = status.partition(b" ")
            found |= {"Status": code.decode("utf-8", "replace"), "Description": words.decode("utf-8", "replace")}
        return found


#: Takes frames that came one behind the other.
Taker = Callable[[list[Frame]], None]


class FrameParser(Parser):
    """The protocol parser of one connection; `takers` says by subscription id who takes frames at once."""

    def __init__(self, client: Client) -> None:
        self.takers: dict[bytes, Taker] = {}
        super().__init__(client)

    def reset(self) -> None:
        """Forget what has come in part: the connection is a new one."""
        super().reset()
        self._rest = bytearray()
        self._wanted = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take the whole frames that have come, keep the rest; raises `ProtocolError`."""
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._wanted:
                return
            data = bytes(rest)
        at, self._wanted = await self._frames(data)
        if rest is self._rest:  # else the connection was lost meanwhile
            rest[:] = data[at:]

    async def _frames(self, data: bytes) -> tuple[int, int]:
        """Give every whole frame away; returns where the rest begins and how long it will be at least."""
        at = 0
        while True:
            end = data.find(_CRLF, at)
            if end < 0:
                if len(data) - at > _LINE_BYTES_MAX:
                    raise ProtocolError
                return at, 0
            if not data.startswith(_MESSAGES, at):
                await super().parse(data[at : end + 2])
                at = end + 2
                continue
            words = data[at:end].split(maxsplit=3)
            if len(words) < 4 or not words[2].isdigit():
                raise ProtocolError
            frames, at, missing = _frames_of(words[2], data, at)
            if frames:
                await self._give(words[2], frames)
            elif not missing:
                raise ProtocolError
            if missing:
                return at, missing

    async def _give(self, sid: bytes, frames: list[Frame]) -> None:
        taker = self.takers.get(sid)
        if taker is not None:
            taker(frames)
            return
        for frame in frames:
            header: Any = frame.header or None
            await self.nc._process_msg(int(sid), frame.raw_subject, frame.reply, frame.data, header)  # noqa: SLF001


def _frames_of(sid: bytes, data: bytes, at: int) -> tuple[list[Frame], int, int]:
    """The frames of one subscription that stand one behind the other, where they end, and how long the next one is.

    0 unless the next one came in part. Every event comes this way: what is not needed to cut it out is not looked at.
    """
    frames: list[Frame] = []
    size = len(data)
    while (end := data.find(_LF, at)) >= 0:
        words = data[at:end].split()
        count = len(words)
        if count < 4 or words[2] != sid:
            break
        start = middle = end + 1
        try:
            stop = start + int(words[-1])
            if words[0] == b"HMSG":
                middle += int(words[-2])
                count -= 1
            elif words[0] != b"MSG":
                break
        except ValueError:  # who reads on from here says so
            break
        if stop + 2 > size:
            return frames, at, stop + 2 - at
        frames.append(Frame(words[1], words[3] if count == 5 else b"", data[start:middle], data[middle:stop]))
        at = stop + 2
    return frames, at, 0


def install(client: Client) -> None:
    """Let a connection that is not open yet parse in bulk."""
    client._ps = FrameParser(client)  # noqa: SLF001


async def subscribe_frames(client: Client, subject: str, taker: Taker) -> FrameSubscription:
    """Subscribe; every frame goes to the taker as soon as it is read. Only for connections made by `connect`."""
    parser = client._ps  # noqa: SLF001
    if not isinstance(parser, FrameParser):
        message = "this connection does not parse in bulk; make it with adapters.jetstream.connection.connect"
        raise TypeError(message)
    subscription = await client.subscribe(subject)
    parser.takers[b"%d" % subscription._id] = taker  # noqa: SLF001
    return FrameSubscription(parser, subscription)


class FrameSubscription:
    """A subscription whose frames go to a taker."""

    def __init__(self, parser: FrameParser, subscription: Subscription) -> None:
        self._parser = parser
        self._subscription = subscription

    async def unsubscribe(self) -> None:
        """Take no more frames."""
        self._parser.takers.pop(b"%d" % self._subscription._id, None)  # noqa: SLF001
        await self._subscription.unsubscribe()
