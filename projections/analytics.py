"""Analytics: every event of the stream, inbox events included, as a row of facts.

A row holds everything that is in the event's body, so that the body can be built again and checked against the leaf
hash: whoever alters a row is found out by the row itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec

from bus.envelope import JSON, EventEnvelope, Recorded, encode_event, schema_of, source_of
from domain.player import XP_AWARDED
from domain.token import TOKENS_MINTED, TOKENS_SPENT
from projections.reconciliation import EventSums

NAME: Final = "analytics"
VERSION: Final = 1
SPEC_VERSION: Final = "1.0"
_SUMMED: Final = frozenset((XP_AWARDED, TOKENS_MINTED, TOKENS_SPENT))


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """Rows column by column; times as the events have them, `data` as JSON, `leaf_hash` 32 bytes."""

    tenant: list[str]
    event_type: list[str]
    time: list[str]
    recorded_time: list[str]
    stream_seq: list[int]
    event_id: list[str]
    aggregate: list[str]
    aggregate_id: list[str]
    version: list[int]
    causation_id: list[str]
    correlation_id: list[str | None]
    actor: list[str | None]
    traceparent: list[str | None]
    data: list[bytes]
    leaf_hash: list[bytes]


def project(records: Sequence[Recorded]) -> Rows:
    """The rows of the records, in their order."""
    events = [record.stored for record in records]
    subjects = [event.subject.partition("/") for event in events]
    return Rows(
        tenant=[event.tenantid for event in events],
        event_type=[event.type for event in events],
        time=[event.time for event in events],
        recorded_time=[event.recordedtime for event in events],
        stream_seq=[record.stream_seq for record in records],
        event_id=[event.id for event in events],
        aggregate=[subject[0] for subject in subjects],
        aggregate_id=[subject[2] for subject in subjects],
        version=[event.aggregateversion for event in events],
        causation_id=[event.causationid for event in events],
        correlation_id=[event.correlationid for event in events],
        actor=[event.actor for event in events],
        traceparent=[event.traceparent for event in events],
        data=[bytes(event.data) for event in events],
        leaf_hash=[sha256(b"\x00" + record.body).digest() for record in records],
    )


def body_of(row: Mapping[str, Any]) -> bytes:
    """The body of the event behind a row of `Rows`, as it was stored and signed."""
    data: bytes | str = row["data"]
    return encode_event(
        EventEnvelope(
            specversion=SPEC_VERSION,
            id=row["event_id"],
            source=source_of(row["tenant"]),
            type=row["event_type"],
            subject=f"{row['aggregate']}/{row['aggregate_id']}",
            time=row["time"],
            recordedtime=row["recorded_time"],
            datacontenttype=JSON,
            dataschema=schema_of(row["event_type"]),
            tenantid=row["tenant"],
            aggregateversion=row["version"],
            causationid=row["causation_id"],
            correlationid=row["correlation_id"],
            actor=row["actor"],
            traceparent=row["traceparent"],
            data=msgspec.Raw(data),
        )
    )


def is_faithful(row: Mapping[str, Any]) -> bool:
    """Whether a row still says what the event said."""
    return sha256(b"\x00" + body_of(row)).digest() == row["leaf_hash"]


class _Amount(msgspec.Struct):
    amount: int = 0


_amount_of: Final = msgspec.json.Decoder(_Amount)


def sums(portions: Iterable[tuple[int, Sequence[Mapping[str, Any]]]]) -> EventSums:
    """Sums over portions of rows, each with the position of the table; every row is checked against its leaf hash."""
    position, seen, altered = 0, set[int](), list[str]()
    types, amounts = Counter[str](), Counter[str]()
    for stream_seq, rows in portions:
        position = stream_seq
        seen.update(row["stream_seq"] for row in rows)
        for row in rows:
            kind = row["event_type"]
            types[kind] += 1
            if kind in _SUMMED:
                amounts[kind] += _amount_of.decode(row["data"]).amount
            if not is_faithful(row):
                altered.append(row["event_id"])
    return EventSums(
        stream_seq=position,
        rows=types.total(),
        distinct=len(seen),
        types=dict(types),
        xp=amounts[XP_AWARDED],
        minted=amounts[TOKENS_MINTED],
        spent=amounts[TOKENS_SPENT],
        altered=tuple(altered),
    )
