"""What an insert promises: all or nothing, each version once, and the truth about it when an answer is lost."""

import asyncio
import uuid

import pytest
from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    StoredEvent,
    Tracking,
)

from adapters import eventsourcing_patience
from tests.eventsourcing.recorders import LosesAnswers, Workshop, events, stored

SOME_ID = uuid.UUID("78d7886f-03b1-49fb-889a-e8151355bd26")


@pytest.fixture
def workshop(settings):
    with Workshop(settings.nats_url) as made:
        yield made


@pytest.fixture
def recorder(workshop):
    return workshop.factory().application_recorder()


def test_a_lost_answer_is_looked_up_and_nothing_is_stored_twice(recorder):
    answers = LosesAnswers(recorder)
    answers.after_append = 1

    ids = recorder.insert_events(events("a", 1, 2, 3))

    assert ids == [1, 2, 3]
    assert answers.appends == 1
    assert stored(recorder, "a") == [1, 2, 3]
    assert recorder.insert_events(events("a", 4)) == [4]


def test_a_lost_answer_is_found_when_others_have_written_since(workshop, recorder):
    other = workshop.factory().application_recorder()
    answers = LosesAnswers(recorder)
    answers.after_append = 1
    answers.meanwhile = lambda: asyncio.to_thread(other.insert_events, events("a", 3))

    assert recorder.insert_events(events("a", 1, 2)) == [1, 2]
    assert stored(recorder, "a") == [1, 2, 3]


def test_a_lost_request_is_sent_again(recorder):
    answers = LosesAnswers(recorder)
    answers.instead_of_append = 2

    assert recorder.insert_events(events("a", 1)) == [1]
    assert answers.appends == 3
    assert stored(recorder, "a") == [1]


def test_a_lost_answer_of_a_conflict_is_a_conflict(workshop, recorder):
    recorder.insert_events(events("a", 1))
    workshop.factory().application_recorder().insert_events(events("a", 2))
    LosesAnswers(recorder).instead_of_append = 1

    with pytest.raises(IntegrityError):
        recorder.insert_events(events("a", 2))


def test_an_answer_that_stays_out_is_reported_as_not_known(recorder, monkeypatch):
    monkeypatch.setattr(eventsourcing_patience, "PATIENCE_S", 0.2)
    LosesAnswers(recorder).instead_of_append = 1_000

    with pytest.raises(OperationalError, match="not known whether these events are stored"):
        recorder.insert_events(events("a", 1))
    assert stored(recorder, "a") == []


def test_more_events_than_one_batch_takes_are_refused_before_anything_is_sent(recorder):
    with pytest.raises(NotSupportedError, match="1001 records in one insert, 1000 at most"):
        recorder.insert_events(events("a", *range(1, 1002)))
    assert recorder.max_notification_id() is None
    assert recorder.insert_events(events("a", *range(1, 1001))) == list(range(1, 1001))


def test_a_position_counts_as_one_of_a_batch(workshop):
    recorder = workshop.factory().process_recorder()

    with pytest.raises(NotSupportedError):
        recorder.insert_events(events("a", *range(1, 1001)), tracking=Tracking("up", 1))
    assert len(recorder.insert_events(events("a", *range(1, 1000)), tracking=Tracking("up", 1))) == 999


def test_an_event_larger_than_the_server_takes_is_refused_and_the_connection_stays(recorder):
    with pytest.raises(DataError, match="bytes"):
        recorder.insert_events([*events("a", 1), *events("b", 1, state=b"x" * 1_048_576)])
    assert recorder.insert_events(events("c", 1, state=b"x" * 1_000_000)) == [1]


def test_events_of_one_originator_are_recorded_in_the_order_of_their_versions(recorder):
    recorder.insert_events(events("a", 1, 5))

    with pytest.raises(IntegrityError):
        recorder.insert_events(events("a", 3))
    with pytest.raises(IntegrityError):
        recorder.insert_events(events("b", 2, 1))
    assert recorder.insert_events(events("a", 9)) == [3]


def test_snapshots_are_recorded_in_any_order_each_version_once(workshop):
    recorder = workshop.factory().aggregate_recorder("snapshots")
    recorder.insert_events(events("a", 8))
    recorder.insert_events(events("a", 2, 4))

    with pytest.raises(IntegrityError):
        recorder.insert_events(events("a", 4))
    assert stored(recorder, "a") == [2, 4, 8]
    assert [e.originator_version for e in recorder.select_events("a", desc=True, limit=1)] == [8]
    assert [e.originator_version for e in recorder.select_events("a", desc=True, limit=1, lte=7)] == [4]


def test_a_conflict_on_one_aggregate_leaves_nothing_of_the_others(workshop, recorder):
    other = workshop.factory().application_recorder()
    recorder.insert_events([*events("a", 1), *events("b", 1)])
    other.insert_events(events("b", 2))

    with pytest.raises(IntegrityError):
        recorder.insert_events([*events("a", 2), *events("b", 2), *events("c", 1)])
    assert [stored(recorder, name) for name in "abc"] == [[1], [1, 2], []]
    assert recorder.insert_events([*events("a", 2), *events("b", 3), *events("c", 1)]) == [4, 5, 6]


def test_an_originator_unknown_to_this_writer_is_looked_up(workshop, recorder):
    workshop.factory().application_recorder().insert_events([*events("a", 0, 1), *events("b", 1)])

    with pytest.raises(IntegrityError):
        recorder.insert_events(events("a", 1))
    assert recorder.insert_events([*events("a", 2), *events("b", 7)]) == [4, 5]


def test_of_two_processes_at_one_position_one_stores_all_and_the_other_nothing(workshop):
    first, second = (workshop.factory().process_recorder() for _ in range(2))
    first.insert_events(events("a", 1), tracking=Tracking("up", 1))
    assert second.max_tracking_id("up") == 1

    first.insert_events(events("a", 2), tracking=Tracking("up", 2))
    with pytest.raises(IntegrityError):
        second.insert_events(events("b", 1), tracking=Tracking("up", 2))

    assert stored(second, "b") == []
    assert second.max_tracking_id("up") == 2


def test_positions_lie_between_events_and_are_not_among_the_notifications(workshop):
    recorder = workshop.factory().process_recorder()
    recorder.insert_events(events("a", 1, 2), tracking=Tracking("up", 7))
    recorder.insert_events([], tracking=Tracking("up", 8))
    recorder.insert_events(events("a", 3), tracking=Tracking("down", 1))

    assert [notification.id for notification in recorder.select_notifications(None, 10)] == [1, 2, 5]
    assert recorder.max_notification_id() == 5
    assert stored(recorder, "a") == [1, 2, 3]
    assert recorder.max_tracking_id("up") == 8


def test_a_recorder_without_positions_does_not_drop_one_silently(recorder):
    with pytest.raises(ProgrammingError, match="a process recorder can"):
        recorder.insert_events(events("a", 1), tracking=Tracking("up", 1))
    assert recorder.max_notification_id() is None


@pytest.mark.parametrize(
    "originator_id",
    ["", "%", "a.b", "*", ">", "a b\r\n", "ünï/cødé", "=41", "-" * 900, str(SOME_ID), SOME_ID],
)
def test_any_id_is_stored_and_comes_back_as_it_was(recorder, originator_id):
    recorder.insert_events(events("bystander", 1))
    recorder.insert_events(events(originator_id, 1, 2))

    assert [event.originator_id for event in recorder.select_events(originator_id)] == [originator_id] * 2
    found = recorder.select_notifications(2, 10)
    assert [notification.originator_id for notification in found] == [originator_id] * 2
    assert stored(recorder, "bystander") == [1]


@pytest.mark.parametrize("originator_id", ["x" * 1_001, "ü" * 200, "\ud800"])
def test_an_id_that_fits_no_subject_is_refused(recorder, originator_id):
    with pytest.raises(DataError, match="id "):
        recorder.insert_events(events(originator_id, 1))


def test_states_are_bytes_of_any_kind(recorder):
    state = bytes(range(256))
    recorder.insert_events([StoredEvent("a", 1, "töpic:x", state)])

    assert recorder.select_events("a") == [StoredEvent("a", 1, "töpic:x", state)]
