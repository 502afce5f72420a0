"""Timers on a real server: they fire once, in time, also after downtime, and never touch the event stream."""

import asyncio
import base64

import pytest
from timer_stories import Installation, eventually, now_ms

from adapters.jetstream import streams
from adapters.jetstream.connection import api, connect
from adapters.jetstream.messages import stream_info
from adapters.jetstream.timers import JetStreamTimers
from adapters.settings import Settings
from bus import subjects
from bus.errors import Conflict, WrongStream
from bus.follower import Position
from domain.values import to_time
from projections.timers import Timer


def quest(**more):
    return {"title": "Q", **more}


def run(story):
    return asyncio.run(story())


def test_a_quest_closes_by_itself_once_and_not_before_its_time(settings, tenant):
    async def story():
        async with Installation(settings, tenant).running() as here:
            closes_at_ms = now_ms() + 1_500
            await here.send("PublishQuest", "q", quest(closes_at=to_time(closes_at_ms)))
            await eventually(lambda: here.timer_subjects("set"))
            waiting = await here.timer_subjects("set")
            closed = await here.seen("quest-closed/1")
            late_ms = now_ms() - closes_at_ms
            await asyncio.sleep(0.6)
            left = await here.timer_subjects("set"), await here.timer_subjects("due")
            again = await here.send("RegisterPlayer", "p", {}), await here.send("AcceptQuest", "p", {"quest": "q"})
            return waiting, closed, late_ms, left, again, await here.seen("quest-closed/1")

    waiting, closed, late_ms, left, again, closed_later = run(story)

    assert waiting == ["quest.q"]
    assert [cause for _, cause, _ in closed] == ["timer-quest-q-1"]
    assert 0 <= late_ms < 2_000
    assert left == ([], [])
    assert again == ("accepted", "quest-closed")
    assert closed_later == closed


def test_an_attempt_expires_once_and_what_ended_in_time_never_fires(settings, tenant):
    async def story():
        async with Installation(settings, tenant).running() as here:
            await here.send("PublishQuest", "q", quest(attempt_deadline_ms=1_500))
            for player in ("late", "swift", "tired"):
                await here.send("RegisterPlayer", player, {})
                await here.send("AcceptQuest", player, {"quest": "q"})
            waiting = await eventually(lambda: here.timer_subjects("set"), lambda found: len(found) == 3)
            await here.send("CompleteQuest", "swift", {"quest": "q", "elapsed_ms": 9})
            await here.send("AbandonQuest", "tired", {"quest": "q", "reason": ""})
            await here.seen("attempt-expired/1")
            await asyncio.sleep(0.6)
            again = await here.send("AcceptQuest", "late", {"quest": "q"})
            second = await here.seen("attempt-expired/1", 2)
            return waiting, again, second, await here.refused()

    waiting, again, second, refused = run(story)

    assert waiting == ["player.late.q.1", "player.swift.q.1", "player.tired.q.1"]
    assert again == "accepted"
    assert [(cause, data["attempt"]) for _, cause, data in second] == [
        ("timer-player-late-2", 1),
        ("timer-player-late-4", 2),
    ]
    assert refused == []


def test_what_is_due_while_no_follower_runs_fires_when_it_comes_back(settings, tenant):
    async def story():
        async with Installation(settings, tenant).running() as here:
            await here.send("RegisterPlayer", "p", {})
            await here.send("PublishQuest", "set", quest(closes_at=to_time(now_ms() + 1_200)))
            await eventually(lambda: here.timer_subjects("set"))
            await here.unfollow()
            await here.send("PublishQuest", "unseen", quest(closes_at=to_time(now_ms() + 1_000)))
            await eventually(lambda: here.timer_subjects("due"))
            due, before = await here.timer_subjects("due"), await here.of("quest-closed/1")
            await asyncio.sleep(0.5)
            await here.follow()
            closed = await here.seen("quest-closed/1", 2)
            await asyncio.sleep(0.5)
            return due, before, closed, await here.seen("quest-closed/1", 2), await here.refused()

    due, before, closed, later, refused = run(story)

    assert (due, before) == (["quest.set"], [])
    assert sorted(cause for _, cause, _ in closed) == ["timer-quest-set-1", "timer-quest-unseen-1"]
    assert later == closed
    assert refused == []


def test_what_was_set_and_ended_while_no_follower_ran_is_never_set(settings, tenant):
    async def story():
        async with Installation(settings, tenant).running(follows=False) as here:
            await here.send("PublishQuest", "q", quest(attempt_deadline_ms=60_000))
            await here.send("RegisterPlayer", "p", {})
            for _ in range(3):
                await here.send("AcceptQuest", "p", {"quest": "q"})
                await here.send("AbandonQuest", "p", {"quest": "q", "reason": ""})
            await here.send("AcceptQuest", "p", {"quest": "q"})
            await here.follow()
            await eventually(lambda: here.timer_subjects("set"))
            info = await stream_info(here.client, subjects.timers_stream(tenant))
            return await here.timer_subjects("set"), info["state"]["last_seq"]

    waiting, written = run(story)

    assert waiting == ["player.p.q.4"]
    assert written == 2  # the timer and the position


def test_what_is_imported_from_long_ago_or_lies_beyond_the_servers_calendar_gets_no_timer(settings, tenant):
    async def story():
        async with Installation(settings, tenant).running() as here:
            past = {"opens_at": "2014-04-21T14:00:00.000Z", "closes_at": "2014-04-22T00:00:00.000Z"}
            await here.send("PublishQuest", "old", quest(attempt_deadline_ms=3_600_000, **past))
            await here.send("PublishQuest", "far", quest(closes_at="9000-01-01T00:00:00.000Z"))
            await here.send("PublishQuest", "next", quest(closes_at="2261-01-01T00:00:00.000Z"))
            await here.send("RegisterPlayer", "p", {})
            at_ms = 1_398_090_000_000
            told = [await here.send("AcceptQuest", "p", {"quest": "old"}, at_ms=at_ms)]
            await eventually(lambda: here.timer_subjects("set"))
            await asyncio.sleep(0.5)
            told.append(await here.send("CompleteQuest", "p", {"quest": "old", "elapsed_ms": 9}, at_ms=at_ms + 9))
            return told, await here.timer_subjects("set"), await here.refused()

    assert run(story) == (["accepted", "accepted"], ["quest.next"], [])


def test_timers_that_are_set_anew_from_the_first_event_fire_nothing_twice(settings, tenant):
    async def story():
        async with Installation(settings, tenant).running() as here:
            await here.send("PublishQuest", "done", quest(closes_at=to_time(now_ms() + 700)))
            await here.send("PublishQuest", "open", quest(closes_at=to_time(now_ms() + 3_000)))
            await here.seen("quest-closed/1")
            await here.unfollow()
            await api(here.client, f"STREAM.PURGE.{subjects.timers_stream(tenant)}", {})
            await here.follow()
            closed = await here.seen("quest-closed/1", 2)
            await asyncio.sleep(0.5)
            return closed, await here.events(), await here.refused()

    closed, events, refused = run(story)

    assert [cause for _, cause, _ in closed] == ["timer-quest-done-1", "timer-quest-open-1"]
    assert len(events) == 4
    assert refused == []


def test_a_timer_that_fires_twice_is_executed_once(settings, tenant):
    async def story():
        async with Installation(settings, tenant).running() as here:
            await here.send("PublishQuest", "q", quest(closes_at=to_time(now_ms() + 1_000)))
            await eventually(lambda: here.timer_subjects("set"))
            found = await api(
                here.client,
                f"STREAM.MSG.GET.{subjects.timers_stream(tenant)}",
                {"last_by_subj": subjects.timer(tenant, "quest.q")},
            )
            await here.seen("quest-closed/1")
            body = base64.b64decode(found["message"]["data"])
            for _ in range(3):
                await here.client.request(subjects.timer_due(tenant, "quest.q"), body, timeout=5)
                await asyncio.sleep(0.3)
            gone = await eventually(lambda: here.timer_subjects("due"), lambda left: left == [])
            return await here.events(), gone, await here.refused()

    events, gone, refused = run(story)

    assert [kind for kind, _, _ in events] == ["quest-published/1", "quest-closed/1"]
    assert (gone, refused) == ([], [])


def test_a_server_that_is_killed_and_down_when_a_timer_is_due_fires_it_once_afterwards(server, tmp_path, tenant):
    settings = Settings.load(tmp_path, {"TALLY_NATS_URL": server.url}, need=("nats_url",))

    async def story():
        async with Installation(settings, tenant).running() as here:
            await here.send("PublishQuest", "q", quest(closes_at=to_time(now_ms() + 1_000), attempt_deadline_ms=2_500))
            await here.send("RegisterPlayer", "p", {})
            await here.send("AcceptQuest", "p", {"quest": "q"})
            await eventually(lambda: here.timer_subjects("set"), lambda found: len(found) == 2)
            await asyncio.to_thread(server.child.kill)
            await asyncio.sleep(1.2)
            await asyncio.to_thread(server.restart)
            closed = await here.seen("quest-closed/1")
            await asyncio.to_thread(server.child.kill)
            await asyncio.to_thread(server.restart)
            await here.seen("attempt-expired/1")
            await asyncio.sleep(0.5)
            return closed, await here.events()

    closed, events = run(story)

    assert [cause for _, cause, _ in closed] == ["timer-quest-q-1"]
    assert sorted(kind for kind, _, _ in events) == [
        "attempt-expired/1",
        "player-registered/1",
        "quest-accepted/1",
        "quest-closed/1",
        "quest-published/1",
    ]


@pytest.mark.parametrize("setting", ["allow_msg_schedules", "allow_msg_ttl"])
def test_an_event_stream_with_schedules_is_refused(settings, tenant, setting):
    async def story():
        client = await connect(settings.nats_url, "test-timers")
        try:
            await streams.create_tenant(client, tenant)
            config = streams.events_config(tenant, 1)
            await api(client, f"STREAM.DELETE.{config['name']}", {})
            loose = {**config, setting: True, "discard": "old", "deny_purge": False}
            answer = await api(client, f"STREAM.CREATE.{config['name']}", loose)
            assert "error" not in answer, answer
            await streams.describe(client, tenant)
        finally:
            await client.close()

    with pytest.raises(WrongStream, match="restore the setting"):
        run(story)


def test_the_event_stream_has_no_schedules_and_the_timer_stream_is_as_it_must_be(settings, tenant):
    async def story():
        client = await connect(settings.nats_url, "test-timers")
        try:
            await streams.create_tenant(client, tenant)
            events = (await stream_info(client, subjects.events_stream(tenant)))["config"]
            config = {**streams.timers_config(tenant, 1), "max_msgs_per_subject": 2}
            await api(client, f"STREAM.UPDATE.{config['name']}", config)
            with pytest.raises(WrongStream, match="max_msgs_per_subject = 2, wanted 1"):
                await streams.describe(client, tenant)
            return {key: events.get(key, False) for key in streams.FORBIDDEN}
        finally:
            await client.close()

    assert set(run(story).values()) == {False}


def test_many_timers_take_several_transactions_and_a_second_follower_is_fenced(settings, tenant):
    async def story():
        client = await connect(settings.nats_url, "test-timers")
        try:
            await streams.create_tenant(client, tenant)
            first, second = JetStreamTimers(client, tenant), JetStreamTimers(client, tenant)
            nothing = await first.position(), await second.position()
            due_at = to_time(now_ms() + 3_600_000)
            body = f'{{"time":"{due_at}"}}'.encode()
            changes = {f"quest.q{at}": Timer(due_at=due_at, body=body) for at in range(2_001)}
            position = Position(stream_created="c", stream_seq=7, leaf_hash="h")
            await first.write(changes, position)
            with pytest.raises(Conflict):
                await second.write({}, position)
            waiting = {key: timer async for key, timer in first.waiting()}
            await first.write(dict.fromkeys(changes), position)
            return nothing, waiting == changes, [key async for key, _ in first.waiting()], await second.position()
        finally:
            await client.close()

    nothing, are_all_there, left, position = run(story)

    assert nothing == (None, None)
    assert are_all_there
    assert left == []
    assert position == Position(stream_created="c", stream_seq=7, leaf_hash="h")
