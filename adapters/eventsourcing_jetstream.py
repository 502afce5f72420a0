"""The persistence module for the `eventsourcing` library: `PERSISTENCE_MODULE=adapters.eventsourcing_jetstream`.

Settings, stored format and promises stand in docs/eventsourcing.md.
"""

from __future__ import annotations

import threading
from typing import TypeVar

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    InterfaceError,
    ProcessRecorder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic, strtobool

from adapters.eventsourcing_log import open_log
from adapters.eventsourcing_portal import Portal
from adapters.eventsourcing_recorders import (
    JetStreamAggregateRecorder,
    JetStreamApplicationRecorder,
    JetStreamProcessRecorder,
    JetStreamRecorder,
    JetStreamTrackingRecorder,
    Store,
)
from adapters.eventsourcing_records import EVENTS, TRACKING, checked_names

R = TypeVar("R", bound=JetStreamRecorder)


class JetStreamFactory(InfrastructureFactory[JetStreamTrackingRecorder]):
    """Recorders over one connection, which is made with the first of them and closed with the factory."""

    JETSTREAM_URL = "JETSTREAM_URL"
    NATS_URL = "NATS_URL"
    JETSTREAM_PREFIX = "JETSTREAM_PREFIX"
    JETSTREAM_REPLICAS = "JETSTREAM_REPLICAS"
    CREATE_TABLE = "CREATE_TABLE"

    aggregate_recorder_class = JetStreamAggregateRecorder
    application_recorder_class = JetStreamApplicationRecorder
    tracking_recorder_class = JetStreamTrackingRecorder
    process_recorder_class = JetStreamProcessRecorder

    def __init__(self, env: Environment | EnvType | None) -> None:
        """Read the settings; raises `OSError` when one is missing or unusable, as the library's own modules do."""
        super().__init__(env)
        url = self.env.get(self.JETSTREAM_URL) or self.env.get(self.NATS_URL)
        if not url:
            keys = ", ".join(self.env.create_keys(self.JETSTREAM_URL) + self.env.create_keys(self.NATS_URL))
            line = f"the URL of a NATS server is not in the environment: set one of {keys}"
            raise OSError(line)
        replicas = self.env.get(self.JETSTREAM_REPLICAS) or "1"
        if replicas not in {"1", "3", "5"}:
            line = f"{self.JETSTREAM_REPLICAS} is {replicas[:80]!r}, wanted 1, 3 or 5"
            raise OSError(line)
        self._url = url
        self._replicas = int(replicas)
        # The application's name may be anything; without one (a factory by itself) it is `stored`, as elsewhere.
        self._names = checked_names(self.env.get(self.JETSTREAM_PREFIX) or "ES", EVENTS, self.env.name or "stored")
        self._lock = threading.Lock()
        self._portal: Portal | None = None
        self._is_closed = False

    def aggregate_recorder(self, purpose: str = EVENTS) -> AggregateRecorder:
        """A recorder of events by originator; each purpose (the library knows `snapshots`) has its own stream."""
        return self.aggregate_recorder_class(self._store(purpose))

    def application_recorder(self) -> ApplicationRecorder:
        """The recorder of an application's events."""
        topic = self.env.get(self.APPLICATION_RECORDER_TOPIC)
        recorder_class = _resolved(topic, self.application_recorder_class, JetStreamApplicationRecorder)
        return recorder_class(self._store(EVENTS))

    def tracking_recorder(
        self, tracking_recorder_class: type[JetStreamTrackingRecorder] | None = None
    ) -> JetStreamTrackingRecorder:
        """A recorder of positions alone, on a stream that keeps the last of each upstream application."""
        topic = self.env.get(self.TRACKING_RECORDER_TOPIC)
        recorder_class = _resolved(topic, self.tracking_recorder_class, JetStreamTrackingRecorder)
        return (tracking_recorder_class or recorder_class)(self._store(TRACKING))

    def process_recorder(self) -> ProcessRecorder:
        """The recorder of a process application: events and positions in one stream."""
        topic = self.env.get(self.PROCESS_RECORDER_TOPIC)
        recorder_class = _resolved(topic, self.process_recorder_class, JetStreamProcessRecorder)
        return recorder_class(self._store(EVENTS))

    def close(self) -> None:
        """Close the connection and end the thread; recorders and subscriptions of this factory end with it."""
        with self._lock:
            self._is_closed = True
            portal, self._portal = self._portal, None
        if portal is not None:
            portal.close()

    def _store(self, purpose: str) -> Store:
        portal = self._opened()
        names = self._names._replace(purpose=purpose)
        is_created = strtobool(self.env.get(self.CREATE_TABLE) or "yes")
        work = open_log(portal.client, portal.publisher, names, replicas=self._replicas, is_created=is_created)
        return Store(portal, portal.call(work), names)

    def _opened(self) -> Portal:
        with self._lock:
            if self._is_closed:
                line = "this factory is closed: construct a new one"
                raise InterfaceError(line)
            if self._portal is None:
                self._portal = Portal(self._url, self._names.application)
            return self._portal


def _resolved(topic: str | None, default: type[R], base: type[R]) -> type[R]:
    if not topic:
        return default
    found = resolve_topic(topic)
    if not (isinstance(found, type) and issubclass(found, base)):
        line = f"{topic!r} names {found!r}, wanted a subclass of {base.__name__}"
        raise TypeError(line)
    return found


Factory = JetStreamFactory
