"""The baseline of the benchmarks stores what the worker stored, and cannot cheat: a refused batch ends it."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from adapters.jetstream.connection import connect
from adapters.jetstream.reader import PullReader
from benchmarks.bare import BareFailed, BareStream, Copied

MESSAGES = [Copied(f"player.u{at % 7}", f'{{"at":{at}}}'.encode(), "quest.q" if at else None) for at in range(50)]
MESSAGES = [Copied("quest.q", b'{"quest":true}', None), *MESSAGES]


async def stored(url: str, stream: str, count: int) -> list[tuple[int, str, bytes, dict[str, str]]]:
    client = await connect(url, "test")
    reader = PullReader(client, stream, 0)
    found = []
    while len(found) < count:
        taken = await reader.take(count, timeout_s=5.0)
        assert taken
        found += [(seq, message.subject, message.data, message.headers or {}) for seq, message in taken]
    await reader.close()
    await client.close()
    return found


async def create(url: str, stream: BareStream) -> None:
    client = await connect(url, "test")
    await stream.create(client)
    await client.close()


@pytest.fixture
def stream(settings):
    made = BareStream(settings.nats_url, f"b{uuid.uuid4().hex[:8]}")
    asyncio.run(create(settings.nats_url, made))
    return made


def test_the_bare_client_stores_every_message_in_order(settings, stream):
    stream.append(MESSAGES[:20], depth=2, batch_messages=6)
    seconds = stream.append(MESSAGES[20:], depth=4, batch_messages=6)

    found = asyncio.run(stored(settings.nats_url, f"BARE_{stream.name}", len(MESSAGES)))
    assert seconds > 0
    assert [seq for seq, *_ in found] == list(range(1, len(MESSAGES) + 1))
    assert [subject.split(".", 3)[3] for _, subject, _, _ in found] == [message.below for message in MESSAGES]
    assert [body for _, _, body, _ in found] == [message.body for message in MESSAGES]


def test_the_bare_client_tells_when_its_clock_starts_and_what_is_stored_since(stream):
    told = []

    stream.append(MESSAGES, depth=2, batch_messages=20, stored=told.append)

    assert told == [0, 20, 40, len(MESSAGES)]


def test_the_bare_client_asks_for_the_same_checks_as_the_worker(settings, stream):
    stream.append(MESSAGES, depth=1, batch_messages=10)

    found = asyncio.run(stored(settings.nats_url, f"BARE_{stream.name}", len(MESSAGES)))
    expected = [headers for *_, headers in found if "Nats-Expected-Last-Subject-Sequence" in headers]
    fences = [headers for headers in expected if "Nats-Expected-Last-Subject-Sequence-Subject" in headers]
    batches = {headers["Nats-Batch-Id"] for *_, headers in found if "Nats-Batch-Id" in headers}
    assert len(batches) == 6
    assert len(expected) - len(fences) >= 7
    assert len(fences) >= 4


def test_a_refused_batch_ends_the_bare_client(stream):
    stream.append(MESSAGES, depth=1)
    stream.last_seq += 5
    stream._last_seqs["player.u1"] += 5

    with pytest.raises(BareFailed):
        stream.append([Copied("player.u1", b"{}", None), Copied("player.u1", b"{}", None)], depth=1)
