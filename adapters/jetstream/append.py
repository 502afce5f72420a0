"""Atomic batches: framing, publishing and the one acknowledgement of a batch (DESIGN.md 4, ADR-50 of NATS).

nats-py has no publisher for them and its headers cost most of a client's time, so the frames of a whole batch are
built here as one bytes object and handed to the connection's transport (`_write`, where its private names are used).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final

from nats.aio.client import Client
from nats.nuid import NUID

from adapters.jetstream.connection import answer_to
from adapters.jetstream.frames import Frame, subscribe_frames
from bus.errors import AppendRefused, Conflict, OutcomeUnknown, StoreUnavailable
from bus.ports import Message

#: Who waits longer for the leader that took a batch and died than a new one takes to be elected decides too late.
ACK_TIMEOUT_S: Final = 3.0
CONFLICT_CODES: Final = frozenset({10071, 10164})
#: Incomplete batch, or one that the server gave up: nothing is stored, the same may be tried again.
ABANDONED_CODES: Final = frozenset({10176, 10201})
#: As in HTTP: for a moment there is no leader, or no room.
UNAVAILABLE: Final = 503
#: The places in a batch as text, made once: to format a number takes as long as the rest of a header.
_NUMBERS: Final = tuple(map(str, range(1, 1_001)))


class BatchPublisher:
    """Publishes batches over one connection; several may be on their way at once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._subscribed = False
        self._nuid = NUID()

    def new_id(self) -> str:
        """An id for a batch."""
        return self._nuid.next().decode()

    async def append(self, batch_id: str, messages: Sequence[Message]) -> int:
        """Store all messages or none; returns the sequence of the first.

        Raises `Conflict`, `OutcomeUnknown` when no answer came, `AppendRefused` with the server's words.
        """
        if not self._subscribed:
            self._subscribed = True
            await subscribe_frames(self._client, f"{self._inbox}.*", self._on_answers)
        if not self._client.is_connected:
            message = "the connection to NATS is down; it comes back by itself"
            raise StoreUnavailable(message)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[batch_id] = answer
        try:
            await _write(self._client, frames(batch_id, messages, f"{self._inbox}.{batch_id}"))
            body = await answer_to(self._client, answer, ACK_TIMEOUT_S)
        except TimeoutError as err:
            message = f"no acknowledgement of batch {batch_id} came"
            raise OutcomeUnknown(message) from err
        finally:
            self._waiting.pop(batch_id, None)
        return _first_seq(body, len(messages))

    def _on_answers(self, frames: list[Frame]) -> None:
        for frame in frames:
            self._on_answer(frame)

    def _on_answer(self, frame: Frame) -> None:
        waiting = self._waiting.get(frame.subject.rpartition(".")[2])
        if waiting is not None and not waiting.done():
            waiting.set_result(frame.data)


async def publish_all(client: Client, messages: Sequence[tuple[str, bytes]]) -> None:
    """Publish (subject, body) pairs in one write; the subjects must have been checked."""
    out: list[bytes] = []
    for subject, body in messages:
        out += (f"PUB {subject} {len(body)}\r\n".encode(), body, b"\r\n")
    await _write(client, b"".join(out))


async def _write(client: Client, data: bytes) -> None:
    """Hand bytes to the socket at once, behind what the connection still holds.

    nats-py would leave that to a task of its own, which comes after everything that is ready to run: the server would
    wait while other partitions decide. A connection that is down keeps the bytes until it is up again.
    """
    await client._send_command(data)  # noqa: SLF001
    transport, waiting = client._transport, client._pending  # noqa: SLF001
    if transport is None or not client.is_connected:
        return
    client._pending, client._pending_data_size = [], 0  # noqa: SLF001
    transport.writelines(waiting)


def frames(batch_id: str, messages: Sequence[Message], reply: str) -> bytes:
    """The protocol bytes of a whole batch; the last message commits it and asks for the acknowledgement.

    A single message needs no batch: it is a plain publish, six times as fast.
    """
    if len(messages) == 1:
        return _frame(messages[0].subject, reply, f"NATS/1.0{_expects(messages[0])}", messages[0].body)
    begin = f"NATS/1.0\r\nNats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: "
    out: list[bytes] = []
    for number, message in zip(_numbers(len(messages)), messages[:-1], strict=False):
        body = message.body
        header = f"{begin}{number}{'' if message.expected is None else _expects(message)}\r\n\r\n"
        size = len(header)
        out += (f"HPUB {message.subject} {size} {size + len(body)}\r\n{header}".encode(), body, b"\r\n")
    last = messages[-1]
    out.append(
        _frame(last.subject, reply, f"{begin}{len(messages)}{_expects(last)}\r\nNats-Batch-Commit: 1", last.body)
    )
    return b"".join(out)


def _numbers(count: int) -> Sequence[str]:
    return _NUMBERS if count <= len(_NUMBERS) else tuple(map(str, range(1, count + 1)))


def _frame(subject: str, reply: str, headers: str, body: bytes) -> bytes:
    """One message that asks for an answer."""
    header = f"{headers}\r\n\r\n"
    size = len(header)
    return f"HPUB {subject} {reply} {size} {size + len(body)}\r\n{header}".encode() + body + b"\r\n"


def _expects(message: Message) -> str:
    """The headers that say which sequence is expected, and of whom."""
    if message.expected is None:
        return ""
    expected = f"\r\nNats-Expected-Last-Subject-Sequence: {message.expected}"
    if message.fence is None:
        return expected
    return f"{expected}\r\nNats-Expected-Last-Subject-Sequence-Subject: {message.fence}"


def _first_seq(body: bytes, count: int) -> int:
    if not body:  # no responders: no stream takes these subjects, or its leader is being elected
        raise OutcomeUnknown("no stream answers for these subjects")
    answer: dict[str, Any] = json.loads(body)
    error = answer.get("error")
    if error is None:
        return int(answer["seq"]) - count + 1
    code, words = error.get("err_code"), error.get("description")
    if code in CONFLICT_CODES:
        raise Conflict(words)
    if code in ABANDONED_CODES or error.get("code") == UNAVAILABLE:
        message = f"the server gave the batch up ({words}, code {code})"
        raise OutcomeUnknown(message)
    message = f"the event store refused a batch of {count}: {words} (code {code})"
    raise AppendRefused(message)
