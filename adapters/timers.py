"""The follower that sets timers from the events, and sends their commands when they are due.

Once: a command has the same id whenever it is sent, and the worker executes it once. Always: a timer that is due stays
in the stream until its command has an outcome; a command whose outcome does not come is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from adapters.ending import ended
from adapters.jetstream.connection import connect
from adapters.jetstream.dead_letters import REPLY_TO_HEADER
from adapters.jetstream.frames import Frame
from adapters.jetstream.messages import stream_info
from adapters.jetstream.timers import JetStreamTimers
from bus import subjects
from bus.envelope import Recorded, decode_command
from bus.errors import Conflict, Malformed
from bus.follower import Position, StreamIdentity
from domain.values import to_ms
from projections import timers
from projections.errors import Fenced
from projections.positions import advance, require_same_stream
from projections.timers import Changes

log = logging.getLogger(__name__)

#: Without a timer to set, the position is written so often: reading those events again costs little.
POSITION_EVERY_S: Final = 1.0
#: A timer that the server has kept so long beyond its time is set once more.
OVERDUE_MS: Final = 5_000
UNANSWERED_MAX: Final = 1_000
#: An outcome gets lost with a server, which we see, or when nobody decides: then patience grows.
SEND_AGAIN_FIRST_S: Final = 30.0
SEND_AGAIN_MAX_S: Final = 3_600.0
LOOK_EVERY_S: Final = 0.2


class NatsSettings(Protocol):
    """What the timers need to know of an installation."""

    @property
    def nats_url(self) -> str: ...


class TimersFollower:
    """Sets and ends the timers of one tenant, and forwards what is due."""

    name = timers.NAME
    apply_every_s = 0.05

    def __init__(self, settings: NatsSettings) -> None:
        self._settings = settings
        self._client: Client | None = None
        self._forwarding: asyncio.Task[None] | None = None
        self._set: set[str] = set()
        self._changes: Changes = {}

    async def open(self, tenant: str, stream: StreamIdentity) -> Position:
        """Learn which timers are set and where the events were left; begins to forward what is due.

        Raises `ForeignPosition` when the timers were set from another stream.
        """
        await self._let_go()
        self._client = client = await connect(self._settings.nats_url, "tally-timers")
        try:
            return await self._open(client, tenant, stream)
        except BaseException:
            await self._let_go()
            raise

    async def _open(self, client: Client, tenant: str, stream: StreamIdentity) -> Position:
        self._stream = JetStreamTimers(client, tenant)
        self._position = require_same_stream(self.name, await self._stream.position(), stream)
        self._written_seq = self._position.stream_seq
        self._written_at_s = time.monotonic()
        # What was set and ended meanwhile is never written: only from here on is every change worth a transaction.
        self._caught_up_seq = int((await stream_info(client, stream.name))["state"]["last_seq"])
        now_ms = time.time_ns() // 1_000_000
        async for key, timer in self._stream.waiting():
            self._set.add(key)
            if to_ms(timer.due_at) < now_ms - OVERDUE_MS:
                self._changes[key] = timer
        forwarder = Forwarder(client, tenant, self._stream, self._set)
        self._forwarding = asyncio.create_task(forwarder.run())
        return self._position

    async def apply(self, records: Sequence[Recorded]) -> None:
        """Take note of the timers that the records set and end. Raises `OutOfOrder`, `Fenced`, `StoreUnavailable`."""
        self._position = advance(self.name, self._position, records)
        for key, timer in timers.project(records).items():
            if timer is not None or key in self._set:
                self._changes[key] = timer
            else:
                self._changes.pop(key, None)

    async def idle(self) -> None:
        """Write what changed, and the position now and then."""
        self._require_forwarding()
        if self._position.stream_seq < self._caught_up_seq:
            return
        is_old = time.monotonic() - self._written_at_s >= POSITION_EVERY_S
        if self._changes or (is_old and self._position.stream_seq > self._written_seq):
            await self._write()

    async def close(self) -> None:
        """Write what waits and let go."""
        if self._position.stream_seq >= self._caught_up_seq and self._position.stream_seq > self._written_seq:
            await self._write()
        await self._let_go()

    async def _write(self) -> None:
        changes, self._changes = self._changes, {}
        try:
            await self._stream.write(changes, self._position)
        except Conflict as err:
            found = await self._stream.position()
            raise Fenced(self.name, self._written_seq, found.stream_seq if found else 0) from err
        self._set |= {key for key, timer in changes.items() if timer is not None}
        self._set -= {key for key, timer in changes.items() if timer is None}
        self._written_seq, self._written_at_s = self._position.stream_seq, time.monotonic()

    def _require_forwarding(self) -> None:
        """Fail with what the forwarding failed of: the runner opens everything anew."""
        if self._forwarding is not None and self._forwarding.done():
            self._forwarding.result()

    async def _let_go(self) -> None:
        forwarding, self._forwarding = self._forwarding, None
        if forwarding is not None:
            await ended(forwarding)
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        self._set.clear()
        self._changes.clear()


class _Answer(msgspec.Struct):
    type: str
    causationid: str


_answer_decoder: Final = msgspec.json.Decoder(_Answer)


class _Sent:
    """A command that waits for its outcome."""

    __slots__ = ("body", "due_seq", "patience_s", "sent_at_s", "subject")

    def __init__(self, due_seq: int, subject: str, body: bytes) -> None:
        self.due_seq = due_seq
        self.subject = subject
        self.body = body
        self.sent_at_s = 0.0
        self.patience_s = SEND_AGAIN_FIRST_S


class Forwarder:
    """Sends the commands of timers that are due, until each has an outcome; then the timer is forgotten."""

    def __init__(self, client: Client, tenant: str, stream: JetStreamTimers, is_set: set[str]) -> None:
        self._client = client
        self._tenant = tenant
        self._stream = stream
        self._set = is_set
        self._inbox = client.new_inbox()
        self._unanswered: dict[str, _Sent] = {}
        self._read_seq = 0
        self._forgotten_seq = 0
        self._reconnects = client.stats["reconnects"]

    async def run(self) -> None:
        """Forward for ever."""
        await self._client.subscribe(self._inbox, cb=self._on_outcome)
        reader = self._stream.due()
        try:
            while True:
                room = UNANSWERED_MAX - len(self._unanswered)
                if room:
                    for seq, message in await reader.take(room, timeout_s=LOOK_EVERY_S):
                        await self._take(seq, message)
                else:
                    await asyncio.sleep(LOOK_EVERY_S)
                await self._send_again()
                await self._forget()
        finally:
            with contextlib.suppress(Exception):
                await reader.close()

    async def _take(self, seq: int, message: Frame) -> None:
        self._read_seq = seq
        key = subjects.timer_key(self._tenant, message.subject)
        self._set.discard(key)
        address = timers.address_of(key)
        if address is None:
            log.warning("%s of %s is no timer and is passed over", message.subject, self._tenant)
            return
        try:
            request = decode_command(self._tenant, seq, address, message.data)
        except Malformed as err:
            log.warning("timer %s of %s is passed over: %s", key, self._tenant, err)
            return
        sent = _Sent(seq, subjects.command(self._tenant, *address), message.data)
        self._unanswered[request.id] = sent
        await self._send(sent)

    async def _send(self, sent: _Sent) -> None:
        sent.sent_at_s = time.monotonic()
        await self._client.publish(sent.subject, sent.body, headers={REPLY_TO_HEADER: self._inbox})

    async def _on_outcome(self, message: Msg) -> None:
        """Accepted, refused (the attempt was over) or parked for an operator: the timer has done its."""
        answer = _answer_decoder.decode(message.data)
        if self._unanswered.pop(answer.causationid, None) is not None:
            log.debug("timer %s of %s: %s", answer.causationid, self._tenant, answer.type)

    async def _send_again(self) -> None:
        """In fast intake a server that is killed forgets commands; while nobody decides, there is no hurry."""
        is_reconnected = self._client.stats["reconnects"] != self._reconnects
        self._reconnects = self._client.stats["reconnects"]
        now_s = time.monotonic()
        for sent in list(self._unanswered.values()):
            if is_reconnected:
                sent.patience_s = SEND_AGAIN_FIRST_S
                await self._send(sent)
            elif now_s - sent.sent_at_s > sent.patience_s:
                sent.patience_s = min(2 * sent.patience_s, SEND_AGAIN_MAX_S)
                await self._send(sent)

    async def _forget(self) -> None:
        """Remove what is due up to the first whose outcome is not known."""
        oldest_seq = min((sent.due_seq for sent in self._unanswered.values()), default=self._read_seq + 1)
        if oldest_seq - 1 > self._forgotten_seq:
            self._forgotten_seq = oldest_seq - 1
            await self._stream.forget_due(self._forgotten_seq)


async def read_position(settings: NatsSettings, tenant: str) -> Position | None:
    """Up to which event timers are set and ended, None before the first."""
    client = await connect(settings.nats_url, "tally-status", patience_s=1.0)
    try:
        return await JetStreamTimers(client, tenant).position()
    finally:
        await client.close()
