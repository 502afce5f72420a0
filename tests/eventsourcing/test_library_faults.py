"""A server that stops, hangs or stays away: what is reported is true, and nothing is stored twice."""

import os
import signal
import time

import pytest
from eventsourcing.persistence import OperationalError

from adapters import eventsourcing_patience
from adapters.eventsourcing_portal import _is_temporary
from tests.eventsourcing.recorders import InBackground, Workshop, events, stored


def test_inserts_reads_and_a_subscription_ride_out_a_restart_of_the_server(server):
    received = []
    with Workshop(server.url) as workshop:
        recorder = workshop.factory().application_recorder()
        recorder.insert_events(events("a", 1))
        subscription = recorder.subscribe(gt=0)
        follower = InBackground(lambda: received.extend(next(subscription).id for _ in range(41)))

        def restart():
            server.stop()
            time.sleep(0.3)
            server.restart()

        restarting = InBackground(restart)
        for version in range(2, 42):
            assert recorder.insert_events(events("a", version)) == [version]
            time.sleep(0.02)
        restarting.join(20)
        follower.join(20)

        assert restarting.raised is None
        assert stored(recorder, "a") == list(range(1, 42))
        assert received == list(range(1, 42))
        subscription.stop()


def test_a_server_that_stays_away_is_reported_within_the_patience(server, monkeypatch):
    monkeypatch.setattr(eventsourcing_patience, "PATIENCE_S", 0.5)
    with Workshop(server.url) as workshop:
        recorder = workshop.factory().application_recorder()
        recorder.insert_events(events("a", 1))
        server.stop()
        for _ in range(100):
            if not recorder._store.portal.client.is_connected:
                break
            time.sleep(0.05)

        with pytest.raises(OperationalError, match="these events are not stored"):
            recorder.insert_events(events("a", 2))


def test_an_insert_into_a_server_that_hangs_is_sent_again_and_stored_once(server):
    with Workshop(server.url) as workshop:
        recorder = workshop.factory().application_recorder()
        recorder.insert_events(events("a", 1))
        ids = []

        os.kill(server.child.pid, signal.SIGSTOP)
        writing = InBackground(lambda: ids.extend(recorder.insert_events(events("a", 2, 3))))
        time.sleep(eventsourcing_patience.ANSWER_WITHIN_S + 0.5)
        os.kill(server.child.pid, signal.SIGCONT)
        writing.join(20)

        assert (writing.raised, ids) == (None, [2, 3])
        assert stored(recorder, "a") == [1, 2, 3]
        assert recorder.max_notification_id() == 3


@pytest.mark.parametrize(
    ("answer", "is_temporary"),
    [
        (b"", True),
        (b'{"error":{"code":503,"err_code":10163,"description":"temporarily unavailable"},"stream":"S","seq":0}', True),
        (b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 4"},"stream":"S","seq":0}', False),
        (b'{"stream":"S","seq":503}', False),
    ],
)
def test_a_stream_without_a_leader_is_not_taken_for_one_that_refuses(answer, is_temporary):
    assert _is_temporary(answer) is is_temporary
