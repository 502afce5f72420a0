"""Reads that are larger than one answer of the server, and reads of what is not there."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from adapters.feed import RecordReader
from adapters.jetstream import connection, reader
from adapters.jetstream.connection import api, connect, first_answer_to
from adapters.jetstream.frames import Frame
from adapters.jetstream.messages import direct_get, history, last_message, message_at
from adapters.jetstream.past import find_event
from adapters.jetstream.reader import PullReader
from adapters.jetstream.streams import create_tenant
from bus.errors import WrongStream

BIG, SMALL = 130, 20


def delivered_frame(stream_seq, consumer_seq, *, names="S.C", pending=5, body=None):
    reply = f"$JS.ACK.{names}.1.{stream_seq}.{consumer_seq}.1763546400000000000.{pending}"
    return Frame(b"s.1", reply.encode(), b"", b"%d" % stream_seq if body is None else body)


def reading_consumer(names, subject_filter, kind=PullReader):
    """A reader whose consumer stands on the server, without one."""
    stream, _, consumer = names.partition(".")
    reader = kind(None, stream, 6, subject_filter=subject_filter)
    reader._consumer, reader._is_broken = consumer, False
    return reader


def test_an_answer_that_the_server_cuts_by_size_is_read_to_its_end(settings):
    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            await api(client, "STREAM.CREATE.BIG", {"name": "BIG", "subjects": ["big.*"], "allow_direct": True})
            for number in range(BIG + SMALL):
                body = b"x" * 600_000 if number < BIG else b"y"
                await client.jetstream().publish(f"big.{number}", body)
            names = [f"big.{number}" for number in range(BIG + SMALL)]
            last = await direct_get(client, "BIG", {"multi_last": names})
            first = await direct_get(client, "BIG", {"seq": 1, "batch": 140, "next_by_subj": "big.*"})
            every = await history(client, "BIG", "big.*")
            await api(client, "STREAM.DELETE.BIG", {})
            return [sorted(seq for seq, _, _ in found) for found in (last, first, every)]
        finally:
            await client.close()

    last, first, every = asyncio.run(story())

    assert last == every == list(range(1, BIG + SMALL + 1))
    assert first == list(range(1, 141))


def test_what_is_not_there_is_told_apart_from_what_cannot_be_read(settings, tenant):
    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            await create_tenant(client, tenant)
            stream = f"EVENTS_{tenant}"
            nothing = [
                await message_at(client, stream, 5),
                await last_message(client, stream, f"tally.evt.{tenant}.a.b"),
            ]
            with pytest.raises(WrongStream, match="cannot be read"):
                await message_at(client, "NOWHERE", 1)
            with pytest.raises(WrongStream, match=r"wanted <aggregate>"):
                await find_event(client, tenant, "nonsense")
            with pytest.raises(WrongStream, match=r"there is no player\.ada\.1"):
                await find_event(client, tenant, "player.ada.1")
            return nothing
        finally:
            await client.close()

    assert asyncio.run(story()) == [None, None]


def test_what_nobody_answers_is_asked_again_and_the_first_answer_counts(settings):
    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            asked = []

            async def answer_the_third(message):
                asked.append(message)
                if len(asked) == 3:
                    await asked[1].respond(b"to the second")

            subject = client.new_inbox()
            await client.subscribe(subject, cb=answer_the_third)
            answer = await first_answer_to(client, lambda: client.request(subject, b"", timeout=30), 30)
            return answer.data, len(asked)
        finally:
            await client.close()

    assert asyncio.run(story()) == (b"to the second", 3)


def test_what_is_coming_is_not_asked_for_again(monkeypatch):
    monkeypatch.setattr(connection, "ASK_AGAIN_S", 0.02)
    asked = []

    async def ask():
        asked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.5)
        return len(asked)

    async def story():
        began = asyncio.get_running_loop().time()
        client = SimpleNamespace(is_connected=True, stats={"reconnects": 0})
        return await first_answer_to(
            client, ask, 30, is_coming=lambda: bool(asked) and asyncio.get_running_loop().time() < began + 0.3
        )

    asyncio.run(story())

    assert len(asked) > 1
    assert asked[1] - asked[0] >= 0.3


def test_what_nobody_ever_answers_is_given_up(settings):
    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            subject = client.new_inbox()
            await client.subscribe(subject)
            with pytest.raises(TimeoutError):
                await first_answer_to(client, lambda: client.request(subject, b"", timeout=30), 0.3)
        finally:
            await client.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("pending", "body_bytes", "wanted"),
    [
        (0, 400, 2_000),
        (1_999, 400, 2_000),
        (8_000, 400, 8_000),
        (40_000, 400, 16_000),
        (1_000_000, 400, 16_000),
        (1_000_000, 4_000, 4_194),
        (1_000_000, 60_000, 2_000),
    ],
)
def test_who_is_behind_asks_for_all_that_is_pending_where_messages_are_small(pending, body_bytes, wanted):
    reader = PullReader(None, "S", 0, pull_messages_max=16_000)
    frames = [delivered_frame(at, at, pending=pending, body=b"x" * body_bytes) for at in (1, 2)]

    assert reader._wanted_at_once(frames) == wanted


def test_a_reader_of_records_holds_sequence_and_body_of_each_message():
    reader = reading_consumer("S.C", None, RecordReader)

    reader._on_frames([delivered_frame(*each) for each in [(7, 1), (8, 2), (9, 3)]])

    assert [(record.stream_seq, record.body) for record in reader._buffer] == [(7, b"7"), (8, b"8"), (9, b"9")]


@pytest.mark.parametrize("names", ["S.C", "S%d.C%s"])
@pytest.mark.parametrize("subject_filter", [None, "s.*"])
@pytest.mark.parametrize(
    ("came", "taken"),
    [
        ([(7, 1), (8, 2), (9, 3), (10, 4)], [7, 8, 9, 10]),
        (
            [(7, 1), (8, 2), (12, 3), (13, 4), (14, 5)],
            [7, 8, 12, 13, 14],
        ),  # the stream lost some: whoever follows says so
        ([(7, 1), (8, 2), (10, 4), (11, 5)], [7, 8]),
        ([(7, 1), (8, 2), (8, 2), (9, 3)], [7, 8]),
        ([(7, 1), (9, 3), (8, 2), (10, 4)], [7]),
        ([(8, 2), (9, 3)], []),
    ],
)
def test_messages_are_taken_up_to_one_that_was_lost_repeated_or_overtaken_on_the_way(
    came, taken, names, subject_filter
):
    for cut in range(1, len(came)):
        reader = reading_consumer(names, subject_filter)

        reader._on_frames([delivered_frame(*each, names=names) for each in came[:cut]])
        reader._on_frames([delivered_frame(*each, names=names) for each in came[cut:]])

        assert [(seq, frame.data) for seq, frame in reader._buffer] == [(seq, b"%d" % seq) for seq in taken]
        assert reader._is_broken == (len(taken) < len(came))


@pytest.mark.parametrize(("count", "is_more"), [(1_200, False), (20_000, True)])
def test_a_reader_of_many_small_messages_asks_the_server_for_more(settings, tenant, count, is_more):
    stream = f"{tenant}-sizes".upper()

    async def story():
        client, watcher = [await connect(settings.nats_url, name) for name in ("test", "watcher")]
        asked = []

        async def note(request):
            asked.append(json.loads(request.data)["batch"])

        try:
            await api(client, f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.*"]})
            await watcher.subscribe(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*", cb=note)
            await watcher.flush()
            for _ in range(count):
                await client.publish(f"{stream}.x", b"x" * 100)
            await client.flush()
            reader = PullReader(client, stream, 0, pull_messages_max=16_000)
            taken = 0
            while taken < count:
                taken += len(await reader.take(4_000, timeout_s=5))
            await reader.close()
            await client.flush()
            await watcher.flush()
            await api(client, f"STREAM.DELETE.{stream}", {})
            return asked
        finally:
            await client.close()
            await watcher.close()

    asked = asyncio.run(story())

    assert asked[0] == 2_000
    assert (max(asked) > 2_000) is is_more


def test_silence_is_doubted_however_short_each_wait_is(settings, monkeypatch):
    monkeypatch.setattr(reader, "BEHIND_AFTER_S", 0.2)
    looks = []

    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            await api(client, "STREAM.CREATE.QUIET", {"name": "QUIET", "subjects": ["quiet"], "allow_direct": True})
            quiet = PullReader(client, "QUIET", 0)
            is_behind = quiet._is_behind

            async def noted():
                looks.append(await is_behind())
                return looks[-1]

            quiet._is_behind = noted
            for _ in range(20):
                assert await quiet.take(10, timeout_s=0.05) == []
            await client.jetstream().publish("quiet", b"1")
            ((seq, _),) = await quiet.take(10, timeout_s=10)
            await quiet.close()
            await api(client, "STREAM.DELETE.QUIET", {})
            return seq
        finally:
            await client.close()

    assert asyncio.run(story()) == 1
    assert looks == [False]
