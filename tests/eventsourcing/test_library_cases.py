"""The library's own published test cases, unchanged, on a real server."""

import contextlib
import uuid

import pytest
from eventsourcing.tests import persistence as published
from eventsourcing.utils import Environment

from adapters.eventsourcing_jetstream import JetStreamFactory
from adapters.eventsourcing_recorders import (
    JetStreamAggregateRecorder,
    JetStreamApplicationRecorder,
    JetStreamProcessRecorder,
    JetStreamTrackingRecorder,
)


class OnServer:
    """Gives each case a factory whose streams no other test uses, and closes it."""

    @pytest.fixture(autouse=True)
    def _server(self, settings):
        names = {"JETSTREAM_URL": settings.nats_url, "JETSTREAM_PREFIX": f"ES-{uuid.uuid4().hex[:12]}"}
        self.env = Environment("", {"PERSISTENCE_MODULE": "adapters.eventsourcing_jetstream", **names})
        with contextlib.ExitStack() as self.stack:
            yield

    def new_factory(self):
        return self.stack.enter_context(contextlib.closing(JetStreamFactory(self.env)))


class TestAggregateRecorder(OnServer, published.AggregateRecorderTestCase):
    def create_recorder(self):
        return self.new_factory().aggregate_recorder()


class TestSnapshotRecorder(OnServer, published.AggregateRecorderTestCase):
    def create_recorder(self):
        return self.new_factory().aggregate_recorder(purpose="snapshots")


class TestApplicationRecorder(OnServer, published.ApplicationRecorderTestCase):
    def create_recorder(self):
        return self.new_factory().application_recorder()

    def test_insert_subscribe(self):
        self.optional_test_insert_subscribe()


class TestApplicationRecorderWithTextIds(TestApplicationRecorder):
    def new_originator_id(self):
        return f"dog.> * {uuid.uuid4()}"

    test_performance = test_concurrent_no_conflicts = test_concurrent_throughput = None  # the same with any id


class TestProcessRecorderAsApplicationRecorder(TestApplicationRecorder):
    def create_recorder(self):
        return self.new_factory().process_recorder()

    test_performance = test_concurrent_throughput = None  # timed above


class TestNonInterleavingNotificationIds(OnServer, published.NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self):
        return self.new_factory().application_recorder()


class TestTrackingRecorder(OnServer, published.TrackingRecorderTestCase):
    def create_recorder(self):
        return self.new_factory().tracking_recorder()


class TestProcessRecorderTracking(OnServer, published.TrackingRecorderTestCase):
    def create_recorder(self):
        return self.new_factory().process_recorder()


class TestProcessRecorder(OnServer, published.ProcessRecorderTestCase):
    def create_recorder(self):
        return self.new_factory().process_recorder()


class OwnTrackingRecorder(JetStreamTrackingRecorder):
    pass


class TestFactory(OnServer, published.InfrastructureFactoryTestCase[JetStreamFactory]):
    def expected_factory_class(self):
        return JetStreamFactory

    def expected_aggregate_recorder_class(self):
        return JetStreamAggregateRecorder

    def expected_application_recorder_class(self):
        return JetStreamApplicationRecorder

    def expected_tracking_recorder_class(self):
        return JetStreamTrackingRecorder

    def tracking_recorder_subclass(self):
        return OwnTrackingRecorder

    def expected_process_recorder_class(self):
        return JetStreamProcessRecorder
