"""Reading: whole histories whatever their size, subscriptions that wait, end and ride out a server that is away."""

import asyncio
import time
import uuid

import pytest
from eventsourcing.persistence import DataError, IntegrityError, InterfaceError, StoredEvent
from eventsourcing.popo import POPOApplicationRecorder
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from adapters import eventsourcing_log
from adapters.jetstream import messages
from bus.ports import Message
from tests.eventsourcing.recorders import InBackground, Workshop, events, stored


@pytest.fixture
def workshop(settings):
    with Workshop(settings.nats_url) as made:
        yield made


@pytest.fixture
def recorder(workshop):
    return workshop.factory().application_recorder()


def test_a_history_longer_than_a_page_is_read_whole(recorder):
    for first in range(1, 2_501, 500):
        recorder.insert_events([*events("a", *range(first, first + 500)), *events("b", first)])

    assert stored(recorder, "a") == list(range(1, 2_501))
    assert [event.originator_version for event in recorder.select_events("a", gt=2_400, limit=2)] == [2_401, 2_402]
    assert [e.originator_version for e in recorder.select_events("a", lte=2_400, desc=True, limit=2)] == [2_400, 2_399]
    assert [n.id for n in recorder.select_notifications(1_000, 1_200)] == list(range(1_000, 2_200))


def test_a_page_that_the_server_ends_for_its_size_is_not_taken_for_the_end(recorder):
    for version in range(1, 23):
        recorder.insert_events(events("a", version, state=b"x" * 900_000))

    assert stored(recorder, "a") == list(range(1, 23))


def test_a_replica_that_lags_does_not_hide_what_was_written(recorder, monkeypatch):
    recorder.insert_events(events("a", 1, 2, 3))
    recorder._store.log._replicas = 3
    lags = [1, 2, 0]

    async def lagging(*args):
        found = await messages.direct_get(*args)
        behind = lags.pop(0) if lags else 0
        return found[: max(0, len(found) - behind)]

    monkeypatch.setattr(eventsourcing_log, "direct_get", lagging)

    assert stored(recorder, "a") == [1, 2, 3]


def test_a_message_that_something_else_wrote_is_named(recorder):
    recorder.insert_events(events("a", 1))
    store = recorder._store
    foreign = Message(store.names.event("a"), b'{"not": "ours"}', None, None)
    store.portal.call(store.portal.publisher.append(uuid.uuid4().hex, [foreign]))

    with pytest.raises(DataError, match=r"message 2 of stream ES-.* is not a stored event"):
        recorder.select_events("a")
    with recorder.subscribe(gt=0) as subscription:
        assert next(subscription).id == 1
        for _ in range(2):
            with pytest.raises(DataError, match="message 2"):
                next(subscription)


@pytest.fixture
def ours(workshop):
    return workshop.factory().aggregate_recorder("snapshots")


versions = st.integers(min_value=1, max_value=12)
inserts = st.lists(st.lists(st.tuples(st.sampled_from("ab"), versions), max_size=4), max_size=8)
bounds = st.none() | versions
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@hypothesis_settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(inserts=inserts, gt=bounds, lte=bounds, desc=st.booleans(), limit=st.none() | st.integers(1, 5))
def test_a_recorder_of_snapshots_says_what_the_librarys_own_says(ours, inserts, gt, lte, desc, limit):
    theirs = POPOApplicationRecorder()
    example = uuid.uuid4().hex

    for insert in inserts:
        batch = [StoredEvent(example + name, version, "topic", b"") for name, version in insert]
        assert outcome_of(ours, batch) == outcome_of(theirs, batch)

    for name in "ab":
        every = sorted(theirs.select_events(example + name, gt=gt, lte=lte), key=lambda event: event.originator_version)
        wanted = (every[::-1] if desc else every)[:limit]
        assert list(ours.select_events(example + name, gt=gt, lte=lte, desc=desc, limit=limit)) == wanted


def outcome_of(recorder, batch):
    try:
        recorder.insert_events(batch)
    except IntegrityError as err:
        return type(err)
    return None


def test_a_subscription_that_waits_is_ended_from_another_thread(recorder):
    received = []
    subscription = recorder.subscribe(gt=0)
    follower = InBackground(lambda: received.extend(notification.id for notification in subscription))
    recorder.insert_events(events("a", 1))
    while not received and subscription._last_notification_id != 1:
        time.sleep(0.01)

    subscription.stop()
    subscription.stop()
    follower.join(5)

    assert not follower.is_alive()
    assert (follower.raised, received) == (None, [1])


def test_a_subscription_whose_factory_is_closed_says_so(workshop):
    factory = workshop.factory()
    subscription = factory.application_recorder().subscribe(gt=0)
    follower = InBackground(lambda: next(subscription))
    time.sleep(0.2)

    factory.close()
    follower.join(5)
    subscription.stop()

    assert isinstance(follower.raised, InterfaceError)


def test_a_subscription_begins_after_the_given_id_and_keeps_to_its_topics(recorder):
    recorder.insert_events(events("a", *range(1, 601)))
    recorder.insert_events(events("a", *range(601, 1_101)))

    with recorder.subscribe(gt=90, topics=["topic0"]) as subscription:
        received = [next(subscription).id for _ in range(500)]
    with recorder.subscribe(gt=-5) as subscription:
        first = next(subscription).id

    assert received == list(range(92, 1_092, 2))
    assert first == 1


def test_work_of_many_threads_shares_one_connection(recorder):
    def write(name):
        for version in range(1, 21):
            recorder.insert_events(events(name, version))

    async def at_once():
        await asyncio.gather(*(asyncio.to_thread(write, f"a{number}") for number in range(8)))

    asyncio.run(at_once())

    assert [n.id for n in recorder.select_notifications(None, 200)] == list(range(1, 161))
    assert all(stored(recorder, f"a{number}") == list(range(1, 21)) for number in range(8))
