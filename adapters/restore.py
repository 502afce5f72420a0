"""Rebuilding a tenant's event stream from its published log, for the day on which the event store is lost.

The log is audited before; every event goes back to the sequence that it had (leaf index + 1), in fsynced batches that
the server takes only where the last one ended. Until the stream is whole it carries a mark, and nothing runs on it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from nats.aio.client import Client

from adapters.errors import TallyError
from adapters.jetstream import streams
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import api, connect
from adapters.jetstream.messages import stream_info, stream_names
from adapters.log_copies import compare_stream
from adapters.settings import Settings
from adapters.signer import bind_log
from bus import subjects
from bus.envelope import COMMANDS_DECIDED
from bus.errors import Conflict, OutcomeUnknown, WrongStream
from bus.ports import Message
from ledger.events import subject_of, type_of
from ledger.files import Source
from ledger.policy import OpenedCheckpoint
from ledger.reader import LogReader

BATCH_MESSAGES: Final = 999


@dataclass(kw_only=True)
class Restored:
    """What a restore did: events that were there before and that came, the command sequences that are decided."""

    tenant: str
    stream_created: str
    events: int
    already: int
    commands_decided: int
    signer: str


@dataclass
class _Seen:
    """What the log says of the tenant: how far its commands are decided, and how many partitions it had at least."""

    decided: int = 0
    partitions: int = 0

    def note(self, entry: bytes) -> None:
        if type_of(entry) == COMMANDS_DECIDED:
            data = json.loads(entry)["data"]
            self.decided = max(self.decided, int(data["last_seq"]))
            self.partitions = max(self.partitions, int(data["partition"]) + 1)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How the tenant is provisioned when its other streams are gone too."""

    partitions: int
    intake: streams.Intake
    replicas: int


async def restore(
    settings: Settings,
    tenant: str,
    source: Source,
    opened: OpenedCheckpoint,
    shape: Shape,
    progress: Callable[[int, int], None],
) -> Restored:
    """Put every event of an audited log back; raises `CopyDiffers` when the stream holds anything else already."""
    client = await connect(settings.nats_url, "tally-restore")
    reader = LogReader(source, opened.checkpoint.tree_size)
    try:
        already = await _claim(client, tenant, shape.replicas)
        await _require_prefix(client, tenant, reader, opened, already)
        seen = await asyncio.to_thread(_look, reader, opened.checkpoint.tree_size)
        if seen.partitions > shape.partitions:
            raise TallyError(
                f"the log has inbox events of partition {seen.partitions - 1}, wanted at most {shape.partitions - 1}: "
                "give --partitions as the tenant had it"
            )
        await _append(client, tenant, reader, already, progress)
        await compare_stream(client, tenant, reader, opened)
        await _provision(client, tenant, shape, seen)
        described = await streams.describe(client, tenant)
    finally:
        await client.close()
    signer = await asyncio.to_thread(bind_log, settings, tenant, described.events, opened.checkpoint)
    return Restored(
        tenant=tenant,
        stream_created=described.events.created,
        events=opened.checkpoint.tree_size,
        already=already,
        commands_decided=seen.decided,
        signer=signer,
    )


async def _claim(client: Client, tenant: str, replicas: int) -> int:
    """The event stream, marked as being restored; returns how many events it holds."""
    stream = subjects.events_stream(tenant)
    config = streams.events_config(tenant, replicas)
    if stream not in await stream_names(client):
        await _call(client, f"STREAM.CREATE.{stream}", config | {"metadata": {streams.RESTORING_KEY: "true"}})
        return 0
    info = await stream_info(client, stream)
    first, last = int(info["state"]["first_seq"]), int(info["state"]["last_seq"])
    if last and first != 1:
        raise WrongStream(f"stream {stream} begins at sequence {first}, wanted 1: remove that stream, then restore")
    await _mark(client, stream, info["config"], is_restoring=True)
    return last


async def _mark(client: Client, stream: str, config: dict[str, Any], *, is_restoring: bool) -> None:
    metadata = {key: value for key, value in (config.get("metadata") or {}).items() if not key.startswith("_nats.")}
    metadata.pop(streams.RESTORING_KEY, None)
    if is_restoring:
        metadata[streams.RESTORING_KEY] = "true"
    await _call(client, f"STREAM.UPDATE.{stream}", config | {"metadata": metadata})


async def _call(client: Client, subject: str, body: dict[str, Any]) -> None:
    answer = await api(client, subject, body)
    if "error" in answer:
        raise WrongStream(f"{subject} was refused: {answer['error'].get('description')}")


async def _require_prefix(
    client: Client, tenant: str, reader: LogReader, opened: OpenedCheckpoint, already: int
) -> None:
    stream = subjects.events_stream(tenant)
    if already > opened.checkpoint.tree_size:
        raise WrongStream(
            f"stream {stream} holds {already} events, the log {opened.checkpoint.tree_size}: nothing is lost that this "
            "log has (tally audit --events compares them)"
        )
    if already:
        await compare_stream(client, tenant, reader, opened, end=already)


def _look(reader: LogReader, tree_size: int) -> _Seen:
    seen = _Seen()
    for _, entry in reader.entries(0, tree_size):
        seen.note(entry)
    return seen


async def _append(
    client: Client, tenant: str, reader: LogReader, already: int, progress: Callable[[int, int], None]
) -> None:
    size = reader.tree_size
    publisher = BatchPublisher(client)
    everything = subjects.all_events(tenant)
    progress(already, size)
    for start in range(already, size, BATCH_MESSAGES):
        end = min(start + BATCH_MESSAGES, size)
        entries = await asyncio.to_thread(list, reader.entries(start, end))
        # Only where the last batch ended: whatever came in between, from a worker or another restore, stops us.
        messages = [Message(_subject(tenant, at, entry), entry, None, None) for at, entry in entries]
        messages[0].expected, messages[0].fence = start, everything
        try:
            first_seq = await publisher.append(publisher.new_id(), messages)
        except Conflict as err:
            raise WrongStream(
                f"stream {subjects.events_stream(tenant)} does not end at {start} any more ({err}): something else "
                "writes to it; stop the workers and begin again on an empty stream"
            ) from err
        except OutcomeUnknown as err:
            raise TallyError(f"events {start + 1} to {end}: {err}; run tally restore again, it goes on") from err
        if first_seq != start + 1:
            raise WrongStream(f"event of entry {start} got sequence {first_seq}, wanted {start + 1}")
        progress(end, size)


def _subject(tenant: str, leaf_index: int, entry: bytes) -> str:
    """Where an event stood: its subject is in its body."""
    aggregate, _, owner = subject_of(entry).partition("/")
    if not (subjects.is_token(aggregate) and subjects.is_token(owner)):
        raise TallyError(f"entry {leaf_index} has subject {subject_of(entry)[:80]!r}, wanted <aggregate>/<id>")
    return subjects.event(tenant, aggregate, owner)


async def _provision(client: Client, tenant: str, shape: Shape, seen: _Seen) -> None:
    """The other streams, and the event stream freed of its mark; commands go on behind those that are decided."""
    await streams.create_others(
        client, tenant, partitions=shape.partitions, intake=shape.intake, replicas=shape.replicas
    )
    commands = subjects.commands_stream(tenant)
    last_seq = int((await stream_info(client, commands))["state"]["last_seq"])
    if last_seq < seen.decided:  # a sequence is never given twice: inbox events name commands by it
        await _call(client, f"STREAM.PURGE.{commands}", {"seq": seen.decided + 1})
    stream = subjects.events_stream(tenant)
    await _mark(client, stream, (await stream_info(client, stream))["config"], is_restoring=False)
