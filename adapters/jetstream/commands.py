"""`bus.ports.CommandStream` over JetStream: each partition's commands, of which a killed server may forget the last."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from nats.aio.client import Client

from adapters.jetstream.connection import api
from adapters.jetstream.dead_letters import DISCARD_HEADER, REDRIVE_HEADER, REPLY_TO_HEADER
from adapters.jetstream.frames import Frame
from adapters.jetstream.messages import first_seq, stream_info
from adapters.jetstream.reader import MessageReader
from adapters.jetstream.replies import received_ns
from bus import subjects
from bus.errors import StoreUnavailable
from bus.ports import CommandSource, Delivery, Redrive

log = logging.getLogger(__name__)

_REPLY_ONLY: Final = f"NATS/1.0\r\n{REPLY_TO_HEADER}:".encode()


class JetStreamCommands:
    """`bus.ports.CommandStream` over one tenant's command stream."""

    def __init__(self, client: Client, tenant: str) -> None:
        self._client = client
        self._tenant = tenant
        self._stream = subjects.commands_stream(tenant)

    async def open(self, partition: int, after_seq: int, after_ns: int) -> CommandSource:
        """The commands of a partition that come after the last decided one; see the port.

        Of a stream that is fsynced nothing may be passed over: a new leader has not caught up yet, and does.
        """
        wanted = subjects.partition_filter(self._tenant, partition)
        info = await stream_info(self._client, self._stream)
        last_seq = int(info["state"]["last_seq"])
        if _may_forget(info):
            again_seq = await _first_since(self._client, self._stream, wanted, after_ns)
            goes_on_at = min(after_seq, last_seq, again_seq - 1 if again_seq else after_seq)
            if goes_on_at < after_seq:
                line = "stream %s forgot commands: decided is up to %d, it goes on after %d"
                log.warning(line, self._stream, after_seq, goes_on_at)
            after_seq = goes_on_at
        elif last_seq < after_seq:
            raise StoreUnavailable(f"stream {self._stream} ends at {last_seq}, decided is up to {after_seq}")
        return _Commands(self._client, self._stream, after_seq, after_ns, wanted)

    async def purge(self, up_to_seq: int, partition: int | None = None) -> None:
        """Remove commands up to and including a sequence; of all partitions without a filter, which is cheaper."""
        body: dict[str, Any] = {"seq": up_to_seq + 1}
        if partition is not None:
            body["filter"] = subjects.partition_filter(self._tenant, partition)
        await api(self._client, f"STREAM.PURGE.{self._stream}", body)


class _Commands(MessageReader[Delivery]):
    """One partition's commands as deliveries; ends when sequences that it has read are given to other commands."""

    def __init__(self, client: Client, stream: str, after_seq: int, after_ns: int, wanted: str) -> None:
        super().__init__(client, stream, after_seq, subject_filter=wanted)
        self.after_seq = after_seq
        self._wanted = wanted
        self._read_ns = after_ns

    def _kept(self, first_seq: int, frames: Sequence[Frame]) -> list[Delivery]:
        deliveries = []
        for seq, frame in enumerate(frames, first_seq):
            reply_to, redrive = _reply_only(frame.header), None
            if reply_to is None and frame.header:
                headers = frame.headers
                reply_to, redrive = headers.get(REPLY_TO_HEADER), _redrive(headers)
            self._read_ns = received_ns(frame.reply)
            deliveries.append(Delivery(seq, frame.subject, frame.data, reply_to, redrive, self._read_ns))
        return deliveries

    async def _require_goes_on(self, info: dict[str, Any]) -> None:
        await super()._require_goes_on(info)
        if _may_forget(info):
            again_seq = await _first_since(self._client, self._stream, self._wanted, self._read_ns)
            if again_seq and again_seq <= self._last_seq:
                message = f"stream {self._stream} gave sequence {again_seq} again, read was up to {self._last_seq}"
                raise StoreUnavailable(message)


def _may_forget(info: dict[str, Any]) -> bool:
    """Whether a killed server may forget the last commands of a stream: it does not wait for the disk."""
    return bool(info["config"].get("persist_mode") == "async")


async def _first_since(client: Client, stream: str, subject_filter: str, after_ns: int) -> int:
    """The sequence of the first message under a filter that was received after a moment; 0 without one, or a moment."""
    if not after_ns:
        return 0
    seconds, nanoseconds = divmod(after_ns + 1, 1_000_000_000)
    start_time = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
    return await first_seq(client, stream, {"start_time": start_time, "next_by_subj": subject_filter})


def _reply_only(header: bytes) -> str | None:
    """The reply subject of a header that holds nothing else, as nearly every sender writes it."""
    if header.startswith(_REPLY_ONLY) and header.find(b"\r\n", len(_REPLY_ONLY)) == len(header) - 4:
        return header[len(_REPLY_ONLY) : -4].decode("utf-8", "replace").strip()
    return None


def _redrive(headers: dict[str, str]) -> Redrive | None:
    """An operator's word on a parked command; the partition checks that it is true."""
    for header, is_discard in ((REDRIVE_HEADER, False), (DISCARD_HEADER, True)):
        value = headers.get(header, "")
        if value.isascii() and value.isdecimal():
            return Redrive(int(value), is_discard)
    return None
