"""The bare client: the fastest way that we know to append given messages to a stream in atomic batches.

One blocking socket, each batch one bytes object that was built before the clock starts, several batches on their way,
no library. It puts the same messages with the same expectations as the worker did: the expected last sequence on the
first message of each subject in a batch, and the fences that the worker's messages carry.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.nuid import NUID

from adapters.jetstream.connection import api
from adapters.jetstream.reader import PullReader
from adapters.jetstream.streams import events_config
from bus import subjects

BATCH_MESSAGES: Final = 999
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
FENCE: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
READ_AT_ONCE: Final = 2_000
DEADLINE_S: Final = 30.0


class BareFailed(Exception):
    """The server refused a batch of the bare client: the comparison would be worthless."""


class Copied(NamedTuple):
    """A message of the source stream: where it goes below the tenant, its bytes, and whom its fence names."""

    below: str
    body: bytes
    fence: str | None


async def read_messages(client: Client, tenant: str, after_seq: int, last_seq: int) -> list[Copied]:
    """The events of a tenant with the fences that they were published with."""
    reader = PullReader(client, subjects.events_stream(tenant), after_seq)
    prefix = subjects.event(tenant, "", "").rstrip(".") + "."
    found: list[Copied] = []
    try:
        while after_seq + len(found) < last_seq:
            for _, message in await reader.take(READ_AT_ONCE):
                fence = (message.headers or {}).get(FENCE)
                fenced = None if fence is None else fence.removeprefix(prefix)
                found.append(Copied(message.subject.removeprefix(prefix), message.data, fenced))
    finally:
        await reader.close()
    return found[: last_seq - after_seq]


class BareStream:
    """A stream of the same configuration as the event stream, filled by the bare client."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self.name = name
        self.last_seq = 0
        self._last_seqs: dict[str, int] = {}
        self._new_id = NUID()

    async def create(self, client: Client) -> None:
        """Make the stream on the server; its name does not begin like an event stream's, so no worker minds it."""
        config = {**events_config(self.name, 1), "name": f"BARE_{self.name}"}
        answer = await api(client, f"STREAM.CREATE.{config['name']}", config)
        if "error" in answer:
            raise BareFailed(str(answer["error"]))

    def append(
        self,
        messages: Sequence[Copied],
        depth: int,
        batch_messages: int = BATCH_MESSAGES,
        stored: Callable[[int], None] | None = None,
        per_second: float | None = None,
    ) -> float:
        """Append all, so many batches on their way at once; returns the seconds until the last answer.

        With `per_second`, a batch is sent when so many messages a second make it due, and not before.

        `stored` is called with 0 when all is built and the clock starts, then after each answer with the number of
        messages that are stored.
        """
        done = stored or (lambda _: None)
        batches = [
            self._frames(messages[start : start + batch_messages]) for start in range(0, len(messages), batch_messages)
        ]
        with _Connection(self._url) as connection:
            done(0)
            began = time.perf_counter()
            for number, batch in enumerate(batches):
                if number >= depth:
                    connection.wait_for_answer()
                    done((number - depth + 1) * batch_messages)
                if per_second is not None:
                    due = began + number * batch_messages / per_second
                    time.sleep(max(0.0, due - time.perf_counter()))
                connection.send(batch)
            for left in range(min(depth, len(batches)) - 1, -1, -1):
                connection.wait_for_answer()
                done(min((len(batches) - left) * batch_messages, len(messages)))
            return time.perf_counter() - began

    def _frames(self, messages: Sequence[Copied]) -> bytes:
        """One atomic batch; expectations count on all earlier batches being stored without a gap."""
        begin = f"NATS/1.0\r\nNats-Batch-Id: {self._new_id.next().decode()}\r\nNats-Batch-Sequence: "
        out: list[bytes] = []
        seen: set[str] = set()
        last = len(messages)
        for number, (below, body, fence) in enumerate(messages, 1):
            header = f"{begin}{number}"
            if below not in seen:
                header += f"\r\n{EXPECTED}: {self._last_seqs.get(below, 0)}"
            elif fence is not None and fence not in seen:
                fenced = subjects.event(self.name, *fence.split("."))
                header += f"\r\n{EXPECTED}: {self._last_seqs[fence]}\r\n{FENCE}: {fenced}"
                seen.add(fence)
            seen.add(below)
            self.last_seq += 1
            self._last_seqs[below] = self.last_seq
            reply = ""
            if number == last:
                header += "\r\nNats-Batch-Commit: 1"
                reply = f"{_Connection.INBOX} "
            header += "\r\n\r\n"
            subject = subjects.event(self.name, *below.split("."))
            out.append(f"HPUB {subject} {reply}{len(header)} {len(header) + len(body)}\r\n{header}".encode())
            out += (body, b"\r\n")
        return b"".join(out)


class _Connection:
    """The NATS protocol as far as a publisher of batches needs it."""

    INBOX: Final = "_INBOX.bare"

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port), DEADLINE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._line()  # INFO
        options = json.dumps(
            {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "name": "bare"}
        )
        self.send(f"CONNECT {options}\r\nSUB {self.INBOX} 1\r\nPING\r\n".encode())
        while self._line() != b"PONG":
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def wait_for_answer(self) -> None:
        """Wait for the next batch to be stored; raises `BareFailed`."""
        while True:
            line = self._line()
            if line == b"PING":
                self.send(b"PONG\r\n")
            elif line.startswith((b"MSG", b"HMSG")):
                body = self._take(int(line.rpartition(b" ")[2]) + 2)
                if b'"error"' in body or b'"seq"' not in body:
                    raise BareFailed(body.decode(errors="replace").strip())
                return
            elif line.startswith(b"-ERR"):
                raise BareFailed(line.decode(errors="replace"))

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _receive(self) -> None:
        received = self._socket.recv(65_536)
        if not received:
            message = "the server closed the connection"
            raise BareFailed(message)
        self._buffer += received


def chunks(messages: Sequence[Copied], parts: int) -> Iterable[Sequence[Copied]]:
    """The messages in so many consecutive parts of about the same length."""
    size = -(-len(messages) // parts)
    for start in range(0, len(messages), size):
        yield messages[start : start + size]
