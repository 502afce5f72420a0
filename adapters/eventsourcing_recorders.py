"""The recorders of the `eventsourcing` library over JetStream; the factory (eventsourcing_jetstream.py) makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    Notification,
    ProcessRecorder,
    ProgrammingError,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
)

from adapters.eventsourcing_log import Entry, Found, RecordLog
from adapters.eventsourcing_portal import Portal
from adapters.eventsourcing_records import Names, text_of
from adapters.eventsourcing_subscription import JetStreamSubscription

POSITION_TOPIC: Final = "tracking"


class Store(NamedTuple):
    """What a recorder works on: one stream, its names, and the way to it."""

    portal: Portal
    log: RecordLog
    names: Names


class JetStreamRecorder:
    """What all recorders share: they are made over one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _append(self, entries: Sequence[Entry]) -> int:
        return self._store.portal.call(self._store.log.append(entries))


class JetStreamAggregateRecorder(JetStreamRecorder, AggregateRecorder):
    """Stored events by originator; the library keeps snapshots in one."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Store all events or none; raises `IntegrityError` when one of the versions is recorded already."""
        self._insert(stored_events, **kwargs)
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """The events of one originator with `gt < version <= lte`, by version."""
        subject = self._store.names.event(originator_id)
        work = self._store.log.select(subject, gt=gt, lte=lte, is_desc=desc, limit=limit)
        return [
            StoredEvent(
                originator_id=_originator_id(subject, is_uuid=record.is_uuid),
                originator_version=record.version,
                topic=record.topic,
                state=record.state,
            )
            for record in self._store.portal.call(work)
        ]

    def _insert(
        self, stored_events: Sequence[StoredEvent], *, tracking: Tracking | None = None, **_: Any
    ) -> Sequence[int]:
        """Sequences of the stored events; what other options `Application.save` was given is not ours to know."""
        entries = [
            Entry(
                subject=self._store.names.event(event.originator_id),
                version=event.originator_version,
                is_uuid=isinstance(event.originator_id, UUID),
                topic=event.topic,
                state=event.state,
            )
            for event in stored_events
        ]
        if tracking is not None:
            entries.append(self._position(tracking))
        if not entries:
            return []
        first_seq = self._append(entries)
        return range(first_seq, first_seq + len(stored_events))

    def _position(self, tracking: Tracking) -> Entry:
        line = f"{type(self).__name__} cannot record {tracking}: a process recorder can"
        raise ProgrammingError(line)


class JetStreamApplicationRecorder(JetStreamAggregateRecorder, ApplicationRecorder):
    """Stored events by originator, and all of them in stream order: a notification's id is its stream sequence."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Store all events or none; returns their notification ids. Raises `IntegrityError`, see `select_events`."""
        return list(self._insert(stored_events, **kwargs))

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Events in stream order from `start` to `stop`, both included."""
        first = 1 if start is None else start if inclusive_of_start else start + 1
        work = self._store.log.records(self._store.names.all_events, max(first, 1), stop, limit, topics)
        return [notification(found) for found in self._store.portal.call(work)]

    def max_notification_id(self) -> int | None:
        """The sequence of the last event, None before the first."""
        last = self._store.portal.call(self._store.log.last(self._store.names.all_events))
        return None if last is None else last[0]

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        """An iterator over the events after a notification id, which waits for those to come."""
        reader = self._store.log.reader(self._store.names.all_events, gt or 0)
        return JetStreamSubscription(
            self, portal=self._store.portal, reader=reader, convert=notification, gt=gt, topics=topics
        )


class JetStreamTrackingRecorder(JetStreamRecorder, TrackingRecorder):
    """The last position in each upstream application."""

    def insert_tracking(self, tracking: Tracking) -> None:
        """Record a position; raises `IntegrityError` when this or a later one is recorded already."""
        self._append([self._position(tracking)])

    def max_tracking_id(self, application_name: str) -> int | None:
        """The last recorded position, None before the first."""
        last = self._store.portal.call(self._store.log.last(self._store.names.position(application_name)))
        return None if last is None else last[2].version

    def _position(self, tracking: Tracking) -> Entry:
        subject = self._store.names.position(tracking.application_name)
        return Entry(subject, tracking.notification_id, is_uuid=False, topic=POSITION_TOPIC, state=b"")


class JetStreamProcessRecorder(JetStreamTrackingRecorder, JetStreamApplicationRecorder, ProcessRecorder):
    """Events and the position that they follow from, in one atomic batch on one stream."""


def notification(found: Found) -> Notification:
    """A record as the library's notification."""
    seq, subject, record = found
    return Notification(
        originator_id=_originator_id(subject, is_uuid=record.is_uuid),
        originator_version=record.version,
        topic=record.topic,
        state=record.state,
        id=seq,
    )


def _originator_id(subject: str, *, is_uuid: bool) -> UUID | str:
    text = text_of(subject)
    return UUID(text) if is_uuid else text
