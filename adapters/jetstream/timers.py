"""A tenant's timer stream: timers and position written in one transaction, what waits, what is due (NATS ADR-51).

    tally.timer.<tenant>.set.<key>    header `Nats-Schedule: @at <time>`; the body is the command to send
    tally.timer.<tenant>.due.<key>    where the server moves it at that time, or at once when the time has passed
    tally.timer.<tenant>.position     how far the events have been followed
A message that takes a timer's place without being scheduled ends it; it is empty and expires by itself.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.nuid import NUID

from adapters.jetstream.append import ACK_TIMEOUT_S
from adapters.jetstream.connection import API_TIMEOUT_S, answer_to, api
from adapters.jetstream.messages import DIRECT_GET_MESSAGES, direct_get, last_message
from adapters.jetstream.reader import PullReader
from bus import subjects
from bus.errors import AppendRefused, Conflict, StoreUnavailable
from bus.follower import Position
from projections.timers import Timer

#: A server takes 1,000 messages in a transaction; the position is one more.
TIMERS_AT_ONCE: Final = 900
ENDED_EXPIRES: Final = "1s"
CONFLICT_CODES: Final = frozenset({10071, 10164})

_position_decoder: Final = msgspec.json.Decoder(Position)


class _Due(msgspec.Struct):
    time: str


_due_decoder: Final = msgspec.json.Decoder(_Due)


class Waiting(NamedTuple):
    """A timer that the stream holds."""

    key: str
    timer: Timer


class JetStreamTimers:
    """The timers of one tenant."""

    def __init__(self, client: Client, tenant: str) -> None:
        self._client = client
        self._tenant = tenant
        self._stream = subjects.timers_stream(tenant)
        self._position_seq = 0
        self._nuid = NUID()

    async def position(self) -> Position | None:
        """How far the events have been followed, from the leader; the next `write` expects that nobody moved it."""
        found = await last_message(self._client, self._stream, subjects.timers_position(self._tenant))
        if found is None:
            self._position_seq = 0
            return None
        self._position_seq, body = found
        return _position_decoder.decode(body)

    async def waiting(self) -> AsyncIterator[Waiting]:
        """Every timer that is set and not yet due, or should have fired."""
        wanted = subjects.timer(self._tenant, ">")
        seq = 0
        while True:
            request = {"seq": seq + 1, "batch": DIRECT_GET_MESSAGES, "next_by_subj": wanted}
            page = await direct_get(self._client, self._stream, request)
            for seq, subject, body in page:  # noqa: B007 - the last one is where the next page begins
                if body:
                    timer = Timer(due_at=_due_decoder.decode(body).time, body=body)
                    yield Waiting(subjects.timer_key(self._tenant, subject), timer)
            if len(page) < DIRECT_GET_MESSAGES:
                return

    async def write(self, changes: Mapping[str, Timer | None], position: Position) -> None:
        """Set and end timers; what does not fit one transaction goes before it, and may be written again.

        Raises `Conflict` when somebody else moved the position, `StoreUnavailable` when no answer came.
        """
        every = list(changes.items())
        while len(every) > TIMERS_AT_ONCE:
            await self._publish([self._message(*one) for one in every[:TIMERS_AT_ONCE]])
            del every[:TIMERS_AT_ONCE]
        expected = {"Nats-Expected-Last-Subject-Sequence": str(self._position_seq)}
        moved = (subjects.timers_position(self._tenant), msgspec.json.encode(position), expected)
        self._position_seq = await self._publish([*(self._message(*one) for one in every), moved])

    def due(self) -> PullReader:
        """A reader of the timers that are due, from the oldest that was not forgotten."""
        return PullReader(self._client, self._stream, 0, subject_filter=subjects.timer_due(self._tenant, ">"))

    async def forget_due(self, up_to_seq: int) -> None:
        """Remove what was due up to and including a sequence."""
        body = {"filter": subjects.timer_due(self._tenant, ">"), "seq": up_to_seq + 1}
        await api(self._client, f"STREAM.PURGE.{self._stream}", body)

    def _message(self, key: str, timer: Timer | None) -> tuple[str, bytes, dict[str, str]]:
        subject = subjects.timer(self._tenant, key)
        if timer is None:
            return subject, b"", {"Nats-TTL": ENDED_EXPIRES}
        target = subjects.timer_due(self._tenant, key)
        return subject, timer.body, {"Nats-Schedule": f"@at {timer.due_at}", "Nats-Schedule-Target": target}

    async def _publish(self, messages: list[tuple[str, bytes, dict[str, str]]]) -> int:
        """Store all messages or none; returns the sequence of the last."""
        batch_id = self._nuid.next().decode()
        inbox = self._client.new_inbox()
        answers = await self._client.subscribe(inbox, max_msgs=1)
        try:
            for number, (subject, body, own) in enumerate(messages, 1):
                is_last = number == len(messages)
                headers = dict(own)
                if len(messages) > 1:
                    headers |= {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
                if len(messages) > 1 and is_last:
                    headers["Nats-Batch-Commit"] = "1"
                await self._client.publish(subject, body, headers=headers, reply=inbox if is_last else "")
            answer = await answer_to(self._client, answers.next_msg(timeout=API_TIMEOUT_S), ACK_TIMEOUT_S)
        except (nats.errors.Error, TimeoutError) as err:
            message = f"stream {self._stream} does not acknowledge {len(messages)} timers"
            raise StoreUnavailable(message) from err
        finally:
            with contextlib.suppress(nats.errors.Error):  # it is gone once it got its one answer
                await answers.unsubscribe()
        return self._acknowledged(answer.data)

    def _acknowledged(self, body: bytes) -> int:
        nobody = {"error": {"err_code": 0, "description": "no such stream"}}
        answer: dict[str, Any] = json.loads(body) if body else nobody
        error = answer.get("error")
        if error is None:
            return int(answer["seq"])
        code, words = error.get("err_code"), error.get("description")
        message = f"stream {self._stream} refused timers: {words} (code {code})"
        raise Conflict(message) if code in CONFLICT_CODES else AppendRefused(message)
