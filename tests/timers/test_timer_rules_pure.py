"""Which events set and end timers, and what a timer sends: pure, without a server."""

import json

import pytest

from bus.envelope import Recorded, decode_command
from domain.values import to_time
from projections import timers

NOW_MS = 1_795_255_200_000
LONG = "x" * 64


def recorded(kind, subject, data, *, version=1, **more):
    body = {
        "specversion": "1.0",
        "id": f"{subject.replace('/', '.')}.{version}",
        "source": "//tallyroot/t",
        "type": kind,
        "subject": subject,
        "time": to_time(NOW_MS - 5),
        "recordedtime": to_time(NOW_MS),
        "datacontenttype": "application/json",
        "dataschema": "urn:x",
        "tenantid": "t",
        "aggregateversion": version,
        "causationid": "c",
        **more,
        "data": data,
    }
    return Recorded(1, json.dumps(body).encode())


def published(closes_at, quest="q", **more):
    data = {"title": "Q", "steps": [], "rewards": {}, "opens_at": None, "divisions": [], "supply": None}
    return recorded("quest-published/1", f"quest/{quest}", {**data, "closes_at": closes_at}, **more)


def accepted(deadline_at, player="p", quest="q", attempt=1, version=2):
    data = {"quest": quest, "attempt": attempt, "divisions": [], "deadline_at": deadline_at}
    return recorded("quest-accepted/1", f"player/{player}", data, version=version)


def ended(kind, attempt=1):
    data = {"quest": "q", "attempt": attempt, "steps_reached": 0, "steps_total": 0, "elapsed_ms": 1, "divisions": []}
    return recorded(kind, "player/p", {**data, "reason": ""}, version=3)


@pytest.mark.parametrize(
    ("closes_at", "is_set"),
    [
        (None, False),
        (to_time(NOW_MS - 1), False),
        (to_time(NOW_MS), False),
        (to_time(NOW_MS + 1), True),
        ("2014-04-22T00:00:00.000Z", False),
        (to_time(timers.HORIZON_MS - 1), True),
        (to_time(timers.HORIZON_MS), False),
        ("9999-12-31T23:59:59.999Z", False),
    ],
)
def test_only_what_lies_ahead_when_it_is_recorded_gets_a_timer(closes_at, is_set):
    assert list(timers.project([published(closes_at)])) == (["quest.q"] if is_set else [])
    assert list(timers.project([accepted(closes_at)])) == (["player.p.q.1"] if is_set else [])


@pytest.mark.parametrize(
    ("record", "key"),
    [
        (published(to_time(NOW_MS + 9), correlationid="wave"), "quest.q"),
        (published(to_time(NOW_MS + 9), quest=LONG), f"quest.{LONG}"),
        (accepted(to_time(NOW_MS + 9)), "player.p.q.1"),
        (accepted(to_time(NOW_MS + 9), player=LONG, quest=LONG, attempt=12, version=31), f"player.{LONG}.{LONG}.12"),
    ],
)
def test_a_timer_sends_a_command_that_a_worker_can_read_the_same_each_time(record, key):
    ((found, timer),) = timers.project([record]).items()

    request = decode_command("t", 1, timers.address_of(found), timer.body)

    assert found == key
    assert (request.time, request.at_ms) == (timer.due_at, NOW_MS + 9)
    assert request.id == timers.command_id(record.event.id)
    assert request.correlationid == record.event.correlationid
    assert timers.project([Recorded(7, record.body)]) == {key: timer}


def test_ids_of_commands_are_tokens_and_differ_where_events_differ():
    events = ["quest.a.1", "quest.a-1.1", "quest.a.11", "player.a.1", f"player.{LONG}.1", f"player.{LONG}.2"]
    ids = [timers.command_id(event) for event in events]

    assert ids[0] == "timer-quest-a-1"
    assert len(set(ids)) == len(events)
    assert max(map(len, ids)) <= 64
    assert all(set(one) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for one in ids)


@pytest.mark.parametrize("kind", ["quest-completed/1", "quest-abandoned/1", "attempt-expired/1"])
def test_an_attempt_that_ended_ends_its_timer_and_no_other(kind):
    due_at = to_time(NOW_MS + 9)

    changes = timers.project([accepted(due_at), accepted(due_at, attempt=2, version=5), ended(kind)])

    assert changes["player.p.q.1"] is None
    assert changes["player.p.q.2"] is not None


@pytest.mark.parametrize(
    ("kind", "data"), [("quest-retired/1", {"reason": ""}), ("quest-closed/1", {"closes_at": to_time(NOW_MS + 9)})]
)
def test_a_quest_that_is_retired_or_closed_ends_its_timer(kind, data):
    changes = timers.project([published(to_time(NOW_MS + 9)), recorded(kind, "quest/q", data, version=2)])

    assert changes == {"quest.q": None}


def test_events_of_others_change_no_timer():
    assert timers.project([recorded("commands-decided/1", "inbox/0", {}), recorded("new/1", "x/y", {})]) == {}


@pytest.mark.parametrize("key", ["", "quest", "quest.a.b", "player.a", "player.a.b", "player.a.b.1.2", "token.a", "."])
def test_what_is_no_key_has_no_address(key):
    assert timers.address_of(key) is None
