"""Poison events: the aggregate of an event that cannot be projected is parked from there on, the rest goes on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec

from bus.envelope import Recorded
from bus.errors import WireError
from projections.errors import Unprojectable

REASON_MAX: Final = 300
Project = Callable[[Sequence[Recorded]], Any]


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """An event that waits, and why; those behind the first one of an aggregate wait for it."""

    stream_seq: int
    subject: str
    body: bytes
    reason: str


def project_or_park(
    name: str, project: Project, records: Sequence[Recorded], parked: Mapping[str, int], *, is_live: bool
) -> tuple[Any, list[Parked]]:
    """The writes of what can be projected, and the events that wait; `parked` is subject -> its first event that waits.

    Raises `Unprojectable` instead when the projection is not live, or when no single event is to blame.
    """
    waiting: list[Parked] = []
    first = dict(parked)
    kept = _without(records, first, waiting) if first else records
    try:
        return project(kept), waiting
    except Exception as err:  # noqa: BLE001 - a projector may fail in any way
        whole = err
    for record in kept:
        subject = _subject(record)
        if subject in first:
            continue
        try:
            project([record])
        except Exception as err:
            if not is_live:
                raise Unprojectable(name, record.stream_seq, subject, reason_of(err)) from err
            first[subject] = record.stream_seq
            waiting.append(_parked(record, subject, reason_of(err)))
    if first.keys() == parked.keys():
        raise Unprojectable(name, kept[0].stream_seq, "a whole batch", reason_of(whole)) from whole
    blamed = {one.stream_seq for one in waiting}
    kept = _without([record for record in kept if record.stream_seq not in blamed], first, waiting)
    return project(kept), sorted(waiting, key=lambda one: one.stream_seq)


def ready(project: Project, parked: Iterable[Parked]) -> list[tuple[str, Any]]:
    """Subject and writes of each aggregate whose parked events can all be projected now, in the order of the first."""
    found = []
    by_subject = sorted(parked, key=lambda one: (one.subject, one.stream_seq))
    for subject, events in groupby(by_subject, key=lambda one: one.subject):
        records = [Recorded(one.stream_seq, one.body) for one in events]
        try:
            found.append((records[0].stream_seq, subject, project(records)))
        except Exception:  # noqa: BLE001, S112 - they wait on; `tally status` tells why
            continue
    return [(subject, writes) for _, subject, writes in sorted(found, key=lambda one: one[0])]


def line_of(parked: Sequence[Parked]) -> str:
    """One line for people, empty when nothing is parked."""
    if not parked:
        return ""
    first = min(parked, key=lambda one: one.stream_seq)
    return (
        f"{len(parked):,} events of {len({one.subject for one in parked}):,} aggregates parked, the first is event "
        f"{first.stream_seq:,} ({first.subject}): {first.reason}"
    )


def reason_of(err: Exception) -> str:
    """A failure in one line."""
    return f"{type(err).__name__}: {' '.join(str(err).split())}"[:REASON_MAX]


def _without(records: Sequence[Recorded], first: Mapping[str, int], waiting: list[Parked]) -> list[Recorded]:
    kept = []
    for record in records:
        subject = _subject(record)
        if subject in first and record.stream_seq >= first[subject]:
            waiting.append(_parked(record, subject, f"behind event {first[subject]}"))
        else:
            kept.append(record)
    return kept


def _subject(record: Recorded) -> str:
    try:
        return record.event.subject
    except WireError:
        return f"event/{record.stream_seq}"  # nobody can tell whose it is


def _parked(record: Recorded, subject: str, reason: str) -> Parked:
    return Parked(stream_seq=record.stream_seq, subject=subject, body=record.body, reason=reason)
