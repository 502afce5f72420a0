"""Applications of the library run on it unchanged: its published examples, and one with everything switched on."""

import threading
import uuid
from uuid import UUID

import pytest
from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError, Tracking
from eventsourcing.popo import POPOTrackingRecorder
from eventsourcing.system import MultiThreadedRunner, ProcessApplication, System
from eventsourcing.tests import application as published
from eventsourcing.tests import projection as published_projections
from eventsourcing.tests.projection import EventCountersView

MODULE = "adapters.eventsourcing_jetstream"


@pytest.fixture(autouse=True)
def environment(settings, monkeypatch):
    """The settings as an operator gives them: in the environment, with streams that no other test uses."""
    monkeypatch.setenv("PERSISTENCE_MODULE", MODULE)
    monkeypatch.setenv("JETSTREAM_URL", settings.nats_url)
    monkeypatch.setenv("JETSTREAM_PREFIX", f"ES-{uuid.uuid4().hex[:12]}")


class TestPublishedExample(published.ExampleApplicationTestCase):
    expected_factory_topic = f"{MODULE}:JetStreamFactory"


# One of the cases counts the warnings of a deprecated name; here warnings are errors.
@pytest.mark.filterwarnings("always:'log' is deprecated:DeprecationWarning")
class TestPublishedApplicationCases(published.ApplicationTestCase):
    pass


class TestPublishedEventSourcedProjection(published_projections.EventSourcedProjectionTestCase):
    """A process application that follows another through a subscription; both are on JetStream."""


class CountersInMemory(POPOTrackingRecorder, EventCountersView):
    def __init__(self):
        super().__init__()
        self._created = self._subsequent = 0

    def get_created_event_counter(self):
        return self._created

    def get_subsequent_event_counter(self):
        return self._subsequent

    def incr_created_event_counter(self, tracking: Tracking):
        with self._database_lock:
            self._assert_tracking_uniqueness(tracking)
            self._insert_tracking(tracking)
            self._created += 1

    def incr_subsequent_event_counter(self, tracking: Tracking):
        with self._database_lock:
            self._assert_tracking_uniqueness(tracking)
            self._insert_tracking(tracking)
            self._subsequent += 1


class TestPublishedProjectionIntoAnotherStore(published_projections.AggregateEventCountersProjectionTestCase):
    view_class = CountersInMemory

    @pytest.fixture(autouse=True)
    def _view_in_memory(self, environment, monkeypatch):
        monkeypatch.setenv("EVENTCOUNTERS_PERSISTENCE_MODULE", "eventsourcing.popo")


class Stamps(Aggregate):
    def __init__(self, owner: str):
        self.owner = owner
        self.collected: list[str] = []

    @event("Collected")
    def collect(self, stamp: str):
        self.collected.append(stamp)


class Albums(Application[UUID]):
    snapshotting_intervals = {Stamps: 3}  # noqa: RUF012 # as the library's documentation writes it

    def open_album(self, owner: str) -> UUID:
        album = Stamps(owner)
        self.save(album)
        return album.id

    def collect(self, album_id: UUID, *stamps: str):
        album: Stamps = self.repository.get(album_id)
        for stamp in stamps:
            album.collect(stamp)
        return self.save(album)


def test_an_application_finds_everything_again_after_a_restart():
    with Albums() as albums:
        album_id = albums.open_album("ada")
        albums.collect(album_id, "a", "b", "c", "d")

    with Albums() as albums:
        album: Stamps = albums.repository.get(album_id)
        past: Stamps = albums.repository.get(album_id, version=3)
        snapshots = list(albums.snapshots.get(album_id))
        recordings = albums.collect(album_id, "e")
    assert (album.owner, album.collected, album.version) == ("ada", ["a", "b", "c", "d"], 5)
    assert past.collected == ["a", "b"]
    assert [snapshot.originator_version for snapshot in snapshots] == [3]
    assert [recording.notification.id for recording in recordings] == [6]


def test_snapshots_leave_the_ids_of_notifications_contiguous():
    with Albums() as albums:
        album_id = albums.open_album("ada")
        for stamp in "abcdefgh":
            albums.collect(album_id, stamp)

        notifications = albums.notification_log.select(1, 10)
        assert len(list(albums.snapshots.get(album_id))) == 3
    assert [notification.id for notification in notifications] == list(range(1, 10))


def test_a_snapshot_of_a_past_version_may_be_taken_late_and_the_latest_is_used():
    with Albums() as albums:
        album_id = albums.open_album("ada")
        albums.collect(album_id, *"abcdefgh")
        albums.take_snapshot(album_id, version=2)

        latest = list(albums.snapshots.get(album_id, desc=True, limit=1))
        every = list(albums.snapshots.get(album_id))
        with pytest.raises(IntegrityError):
            albums.take_snapshot(album_id, version=2)
    assert [snapshot.originator_version for snapshot in latest] == [9]
    assert [snapshot.originator_version for snapshot in every] == [2, 3, 6, 9]


def test_a_subscriber_on_another_connection_sees_each_event_once_and_in_order():
    received = []
    with Albums() as writer, Albums() as reader:
        first = writer.open_album("ada")

        def follow():
            with reader.recorder.subscribe(gt=0) as subscription:
                for notification in subscription:
                    received.append(notification.id)
                    if notification.id == 31:
                        return

        follower = threading.Thread(target=follow)
        follower.start()
        for number in range(10):
            writer.collect(first, str(number), "x", "y")
        follower.join(20)
    assert received == list(range(1, 32))


def test_two_writers_of_one_aggregate_never_both_succeed_at_one_version():
    with Albums() as one, Albums() as two:
        album_id = one.open_album("ada")
        theirs: Stamps = two.repository.get(album_id)
        theirs.collect("theirs")
        one.collect(album_id, "ours")

        with pytest.raises(IntegrityError):
            two.save(theirs)
        two.collect(album_id, "theirs, later")
        album: Stamps = one.repository.get(album_id)
    assert album.collected == ["ours", "theirs, later"]
    assert album.version == 3


def test_applications_with_any_name_have_stores_of_their_own():
    class Other(Albums):
        name = "Other albums, v.2 / *"

    with Albums() as albums, Other() as others:
        albums.open_album("ada")
        album_id = others.open_album("bea")

        assert others.recorder.max_notification_id() == 1
        owner = others.repository.get(album_id).owner
    assert owner == "bea"


class Tally(Aggregate):
    def __init__(self, name: str):
        self.count = 0

    @staticmethod
    def create_id(name: str) -> UUID:
        return uuid.uuid5(uuid.NAMESPACE_URL, f"/tallies/{name}")

    @event("Counted")
    def add(self):
        self.count += 1


class Tallies(ProcessApplication[UUID]):
    def policy(self, domain_event, processing_event):
        try:
            tally = self.repository.get(Tally.create_id(self.name))
        except AggregateNotFoundError:
            tally = Tally(self.name)
        tally.add()
        processing_event.collect_events(tally)

    def count(self):
        return self.repository.get(Tally.create_id(self.name)).count


class TalliesOfTallies(Tallies):
    pass


def test_a_system_of_applications_follows_one_that_tracks_positions_in_its_own_stream():
    with MultiThreadedRunner(System(pipes=[[Albums, Tallies, TalliesOfTallies]])) as runner:
        albums = runner.get(Albums)
        album_id = albums.open_album("ada")
        for number in range(20):
            albums.collect(album_id, str(number))
        runner.get(Tallies).recorder.wait("Albums", 21, timeout=20)
        last = runner.get(Tallies).recorder.max_notification_id()
        runner.get(TalliesOfTallies).recorder.wait("Tallies", last, timeout=20)

        # Each event of an album is one of a tally (the first two), and each of those is followed in turn.
        assert runner.get(Tallies).count() == 21
        assert runner.get(TalliesOfTallies).count() == 22
        assert len(runner.get(Tallies).recorder.select_notifications(None, 100)) == 22
