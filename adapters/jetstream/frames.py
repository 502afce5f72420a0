"""What a connection receives, taken apart in bulk: a parser for nats-py that gives whole frames to whom they are for.

nats-py matches two patterns for each message, builds a dict of its headers, queues it and wakes a task. Where messages
come by the hundred thousand that costs more than everything that is done with them, so a subscription may take its
frames here, in the order in which they came, in a plain call. Everything else goes the way of nats-py. Private names of
nats-py that are used here, and nowhere else: `_ps`, `_process_msg`, `Subscription._id`, `client.DEFAULT_BUFFER_SIZE`.
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


Taker = Callable[[Frame], None]


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
            words = data[at:end].split()
            start = middle = end + 2
            try:
                stop = start + int(words[-1])
                if len(words[0]) == 4:
                    middle += int(words[-2])
                    reply = words[3] if len(words) == 6 else b""
                else:
                    reply = words[3] if len(words) == 5 else b""
                sid = words[2]
                taker = self.takers.get(sid) or int(sid)
            except (IndexError, ValueError) as err:
                raise ProtocolError from err
            if len(data) < stop + 2:
                return at, stop + 2 - at
            if isinstance(taker, int):
                header: Any = data[start:middle] if middle > start else None
                await self.nc._process_msg(taker, words[1], reply, data[middle:stop], header)  # noqa: SLF001
            else:
                taker(Frame(words[1], reply, data[start:middle], data[middle:stop]))
            at = stop + 2


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
