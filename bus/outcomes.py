"""Outcomes: what a sender hears, built only from what is durable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from bus.envelope import EventEnvelope, Recorded, source_of

ACCEPTED = "command-accepted/1"
REFUSED = "command-refused/1"
PARKED = "command-parked/1"


class EventRef(msgspec.Struct, frozen=True):
    """One event that a command led to."""

    id: str
    type: str
    stream_seq: int


class AcceptedData(msgspec.Struct, frozen=True):
    """The events of an accepted command, in stream order."""

    events: Sequence[EventRef]


class RefusedData(msgspec.Struct, frozen=True):
    """Why a command was refused; `retry_after_ms` says when the same command with a new id may succeed."""

    code: str
    message: str
    retry_after_ms: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent that answers one command; the order of the fields is the order of the bytes."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    tenantid: str
    causationid: str
    data: AcceptedData | RefusedData


_encoder = msgspec.json.Encoder()


def accepted(tenant: str, time: str, subject: str, command_id: str, events: Sequence[EventRef]) -> bytes:
    """The body of `command-accepted/1`."""
    return _encode(tenant, time, subject, command_id, ACCEPTED, AcceptedData(events))


class AcceptedWriter:
    """Writes the bodies of the accepted commands of one batch: `accepted` without structs, on every command's path.

    Everything in them is of our own making, tokens, times and numbers, and needs no escaping. A test holds that the
    bytes are those of `accepted`.
    """

    def __init__(self, tenant: str, time: str) -> None:
        self._after_id = f'","source":"{source_of(tenant)}","type":"{ACCEPTED}","subject":"'
        self._after_subject = f'","time":"{time}","tenantid":"{tenant}","causationid":"'

    def body(self, subject: str, command_id: str, first_seq: int, events: Iterable[tuple[str, str]]) -> bytes:
        """The body for a command whose events (id, type) begin at a sequence."""
        refs = [
            f'{{"id":"{event_id}","type":"{name}","stream_seq":{stream_seq}}}'
            for stream_seq, (event_id, name) in enumerate(events, first_seq)
        ]
        return (
            f'{{"specversion":"1.0","id":"outcome.{command_id}{self._after_id}{subject}{self._after_subject}'
            f'{command_id}","data":{{"events":[{",".join(refs)}]}}}}'
        ).encode()


def refused(tenant: str, time: str, subject: str, command_id: str, code: str, message: str) -> bytes:
    """The body of `command-refused/1`."""
    return _encode(tenant, time, subject, command_id, REFUSED, RefusedData(code, message))


def parked(tenant: str, time: str, subject: str, command_id: str, message: str) -> bytes:
    """The body of `command-parked/1`: provisional, the final outcome follows once an operator has looked at it."""
    return _encode(tenant, time, subject, command_id, PARKED, RefusedData("parked", message))


def refs_of(records: Sequence[Recorded], command_id: str) -> list[EventRef]:
    """The events at the head of `records` that the command led to."""
    refs = []
    for record in records:
        event: EventEnvelope = record.stored
        if event.causationid != command_id:
            break
        refs.append(EventRef(event.id, event.type, record.stream_seq))
    return refs


def _encode(
    tenant: str, time: str, subject: str, command_id: str, kind: str, data: AcceptedData | RefusedData
) -> bytes:
    outcome = Outcome(
        specversion="1.0",
        id=f"outcome.{command_id}",
        source=source_of(tenant),
        type=kind,
        subject=subject,
        time=time,
        tenantid=tenant,
        causationid=command_id,
        data=data,
    )
    return _encoder.encode(outcome)
