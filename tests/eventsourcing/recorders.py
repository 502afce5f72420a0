"""Recorders for tests: on streams of their own, closed when the test ends, with answers that can be lost."""

import contextlib
import threading
import uuid

from eventsourcing.persistence import StoredEvent
from eventsourcing.utils import Environment

from adapters.eventsourcing_jetstream import JetStreamFactory
from bus.errors import OutcomeUnknown


class Workshop(contextlib.ExitStack):
    """Makes factories over one set of streams."""

    def __init__(self, url):
        super().__init__()
        self.env = {"JETSTREAM_URL": url, "JETSTREAM_PREFIX": f"ES-{uuid.uuid4().hex[:12]}"}

    def factory(self, name="App", **more):
        return self.enter_context(contextlib.closing(JetStreamFactory(Environment(name, self.env | more))))


def events(originator_id, *versions, state=b"state"):
    return [StoredEvent(originator_id, version, f"topic{version % 2}", state) for version in versions]


def stored(recorder, originator_id):
    return [event.originator_version for event in recorder.select_events(originator_id)]


class LosesAnswers:
    """Stands before a recorder's publisher; loses the next answers, after or instead of the append."""

    def __init__(self, recorder):
        self._log = recorder._store.log
        self._publisher = self._log._publisher
        self._log._publisher = self
        self.after_append = 0
        self.instead_of_append = 0
        self.meanwhile = None
        self.appends = 0

    async def append(self, batch_id, messages):
        self.appends += 1
        if self.instead_of_append:
            self.instead_of_append -= 1
            raise OutcomeUnknown("no acknowledgement, the request was lost")
        first_seq = await self._publisher.append(batch_id, messages)
        if self.after_append:
            self.after_append -= 1
            if self.meanwhile is not None:
                await self.meanwhile()
            raise OutcomeUnknown("no acknowledgement, the answer was lost")
        return first_seq


class InBackground(threading.Thread):
    """Runs something until it ends; keeps what it raised."""

    def __init__(self, run):
        super().__init__()
        self.raised = None
        self._run_it = run
        self.start()

    def run(self):
        try:
            self._run_it()
        except Exception as err:  # noqa: BLE001 # kept, and looked at by the test
            self.raised = err
