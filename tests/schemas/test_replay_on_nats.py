"""`tally replay` on the streams of a real server."""

import asyncio
import json
import re
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
import pytest

from adapters import cli
from adapters.jetstream import streams
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import connect
from adapters.jetstream.past import History
from adapters.worker import Worker
from bus import examples, subjects
from bus.envelope import encode_event
from bus.errors import StoreUnavailable
from bus.ports import Message
from bus.timetravel import Moment, Past
from domain import catalogue
from domain.catalogue import Key
from domain.values import to_ms, to_time

RECORDS = examples.records()
#: Events of one telling of the story, and of two.
ONE, BOTH = len(RECORDS), 2 * len(RECORDS)
B19, ACCOUNT, EARLY, INBOX = Key("player", "b19"), Key("token", "b19"), Key("quest", "early-bird"), Key("inbox", "0")


def past(key, up_to_seq):
    found = Past(key, up_to_seq, 9)
    found.apply(record for record in RECORDS if record.event.subject == f"{key.aggregate}/{key.id}")
    return found


HOUR_MS = 3_600_000
T0_MS = to_ms(examples.RECORDED)


def retimed(tenant, generation):
    """The story as the stream of a tenant; the second telling is of other owners, and recorded an hour later."""
    made = []
    for record in RECORDS:
        event = record.event
        aggregate, owner = event.subject.split("/")
        if generation:
            owner = f"{owner}-{generation}"
        changed = msgspec.structs.replace(
            event,
            tenantid=tenant,
            subject=f"{aggregate}/{owner}",
            recordedtime=to_time(T0_MS + generation * HOUR_MS),
        )
        made.append(Message(subjects.event(tenant, aggregate, owner), encode_event(changed), None, None))
    return made


@asynccontextmanager
async def told(settings, tenant, generations=2):
    client = await connect(settings.nats_url, "test")
    try:
        await streams.create_tenant(client, tenant)
        publisher = BatchPublisher(client)
        for generation in range(generations):
            await publisher.append(f"g{generation}", retimed(tenant, generation))
        yield client
    finally:
        await client.close()


@pytest.fixture
def story(settings, tenant, monkeypatch):
    """A tenant with two tellings of the story, one hour apart; commands of ours find it."""

    async def tell():
        async with told(settings, tenant):
            pass

    asyncio.run(tell())
    monkeypatch.setenv("TALLY_NATS_URL", settings.nats_url)
    return tenant


def replayed(capsys, tenant, *arguments, data="nowhere"):
    code = cli.main(["replay", *arguments, "--tenant", tenant, "--data", data])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_sequence_of_a_real_stream_gives_the_same_as_the_pure_fold(settings, tenant):
    keys = [B19, ACCOUNT, EARLY, INBOX]

    async def travel():
        async with told(settings, tenant) as client:
            looking = History(client, tenant)
            views = [await looking.view(seq, 0) for seq in range(1, 2 * len(RECORDS) + 1)]
            return [await looking.pasts(keys, view, 5) for view in views]

    found = asyncio.run(travel())

    for seq, pasts in enumerate(found, 1):
        assert [one.state for one in pasts] == [past(key, seq).state for key in keys]
    assert len(found) == BOTH


@pytest.mark.parametrize(
    ("at_ms", "seq"),
    [
        (T0_MS, ONE),
        (T0_MS + 1, ONE),
        (T0_MS + HOUR_MS - 1, ONE),
        (T0_MS + HOUR_MS, BOTH),
        (T0_MS + 9 * HOUR_MS, BOTH),
    ],
)
def test_a_moment_means_the_last_transaction_recorded_by_then(settings, story, at_ms, seq):
    async def look():
        client = await connect(settings.nats_url, "test")
        try:
            return await History(client, story).view(Moment("then", at_ms), at_ms)
        finally:
            await client.close()

    view = asyncio.run(look())

    assert (view.stream_seq, view.is_cut) == (seq, False)


def test_several_aggregates_are_shown_at_one_sequence(story, capsys):
    code, text, err = replayed(capsys, story, "player/b19", "token/b19", "quest/early-bird", "token/b20", "--at", "17")

    assert (code, err) == (0, "")
    assert text.startswith(f"{story} at #17 of {BOTH}, recorded 2026-11-21T10:00:00.123Z\n")
    assert "player/b19: version 9, last event #13\n" in text
    assert "    xp: 1010\n" in text
    assert "      boston-2014\n        number: 1\n        status: completed\n" in text
    assert "    accepted_at: 2014-04-21T14:00:00.000Z\n" in text
    assert "    badges: finisher-2014, early-bird\n" in text
    assert "token/b19: version 2, last event #17\n" in text
    assert "    balance: 31\n" in text
    assert "    taken: 1\n" in text
    assert "token/b20: did not exist yet, its first event is #20\n" in text
    assert 'amount=5 balance=31 reason="prize draw"\n' in text
    assert "personal.name.ciphertext" not in text
    assert "personal.name=(ciphertext, 28 characters)" in text


def test_programs_get_the_same_with_the_stored_bodies(story, capsys):
    code, text, _ = replayed(capsys, story, "player/b19", "inbox/0", "--at", str(BOTH), "-n", "3", "--json")
    found = json.loads(text)

    assert code == 0
    assert (found["stream_seq"], found["stream_last_seq"], found["is_cut"]) == (BOTH, BOTH, False)
    player, inbox = found["aggregates"]
    assert (player["aggregate"], player["version"], player["state"]["xp"]) == ("player/b19", 11, 1010)
    assert [one["event"]["aggregateversion"] for one in player["events"]] == [9, 10, 11]
    assert inbox["state"] == msgspec.to_builtins(past(INBOX, ONE).state)
    assert (inbox["state"]["batches"], inbox["state"]["refused"], inbox["state"]["parked"]) == (1, 1, 1)


def test_a_moment_is_explained(story, capsys):
    _, text, _ = replayed(capsys, story, "player/b19", "--at", "2026-11-21T10:30:00Z", "-n", "1")

    assert text.startswith(
        f"{story} at #{ONE} of {BOTH}, recorded 2026-11-21T10:00:00.123Z\n"
        "the last event recorded by 2026-11-21T10:30:00Z; the next one 2026-11-21T11:00:00.123Z\n"
    )
    assert "  (10 earlier events; -n shows more)\n" in text


def test_a_cut_transaction_is_told(story, capsys):
    _, text, _ = replayed(capsys, story, "player/b19", "--at", "8")

    assert re.search(r"^note: command \S+ has more events behind #8: its transaction is cut here$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["player/nobody"], r"player/nobody has no events in \S+: check the id"),
        (["player/b19", "--at", str(BOTH + 1)], r"--at is \d+, \S+ has the events 1 to \d+: name one of them"),
        (["player/b19", "--at", "0"], rf"--at is 0, \S+ has the events 1 to {BOTH}: name one of them"),
        (["player/b19", "--at", "noon"], r"--at is 'noon', wanted a sequence from 1 or a time with its zone.*"),
        (["player/b19", "--at", "2014-04-21T14:00:00Z"], r"--at is 2014-\S+ the first event of .* was recorded at .*"),
        (["player/b19", "--at", "2999-01-01T00:00:00Z"], r"--at is 2999-\S+ which is still to come: .*"),
        (["player"], r"aggregate is 'player', wanted quest/ID .*"),
        (["player/b19", "-n", "-1"], r"-n is -1, wanted 0 to 1000000"),
        (["player/b19", "--tenant", "nowhere"], r"stream EVENTS_nowhere: stream not found: create the tenant .*"),
    ],
)
def test_what_cannot_be_answered_is_one_line(story, capsys, arguments, line):
    tenant = story if "--tenant" not in arguments else arguments[-1]
    code, out, err = replayed(capsys, tenant, *arguments)

    assert (code, out) == (2, "")
    assert re.fullmatch(f"tally: {line}\n", err)


def test_a_tenant_without_events_says_so(settings, tenant, monkeypatch, capsys):
    async def create():
        async with told(settings, tenant, generations=0):
            pass

    asyncio.run(create())
    monkeypatch.setenv("TALLY_NATS_URL", settings.nats_url)

    assert replayed(capsys, tenant, "player/b19")[2] == (
        f"tally: {tenant} has no events yet: send a command first (tally send)\n"
    )


def test_a_long_history_is_read_in_pages(settings, tenant):
    minted = next(record for record in RECORDS if record.event.type == "tokens-minted/1").event
    count = 2_300

    def message(version):
        data = b'{"amount":1,"balance":%d,"reason":""}' % version
        event = msgspec.structs.replace(
            minted, tenantid=tenant, id=f"token.b19.{version}", aggregateversion=version, data=msgspec.Raw(data)
        )
        return Message(subjects.event(tenant, "token", "b19"), encode_event(event), None, None)

    async def travel():
        async with told(settings, tenant, generations=0) as client:
            publisher = BatchPublisher(client)
            for first in range(1, count + 1, 1_000):
                await publisher.append(f"b{first}", [message(n) for n in range(first, min(first + 1_000, count + 1))])
            looking = History(client, tenant)
            found = []
            for seq in (1, 999, 1_000, 1_001, 2_000, count):
                view = await looking.view(seq, 0)
                found += [(seq, past.version, past.state.balance) for past in await looking.pasts([ACCOUNT], view, 1)]
            return found

    assert all(seq == version == balance for seq, version, balance in asyncio.run(travel()))


def test_what_a_worker_writes_can_be_travelled_to(settings, tenant, monkeypatch, capsys):
    async def ask(client, replies, word, data):
        aggregate = catalogue.COMMANDS[word][1]
        body = {"specversion": "1.0", "id": uuid.uuid4().hex, "source": "//test", "subject": f"{aggregate}/p"}
        body |= {"type": catalogue.COMMANDS[word][0], "time": "2026-01-01T00:00:00Z", "data": data}
        headers = {"Tally-Reply-To": replies.subject}
        await client.publish(f"tally.cmd.{tenant}.{aggregate}.p.{word}", json.dumps(body).encode(), headers=headers)
        return json.loads((await replies.next_msg(timeout=10)).data)["type"]

    async def story():
        client = await connect(settings.nats_url, "test")
        await streams.create_tenant(client, tenant)
        replies = await client.subscribe(client.new_inbox())
        stop, ready = asyncio.Event(), asyncio.Event()
        working = asyncio.create_task(Worker(settings.nats_url, only_tenants=frozenset({tenant})).run(stop, ready))
        await ready.wait()
        heard = [await ask(client, replies, "RegisterPlayer", {})]
        heard.append(await ask(client, replies, "MintTokens", {"amount": 5}))
        await asyncio.sleep(0.05)
        between = datetime.now(UTC).isoformat()
        await asyncio.sleep(0.05)
        heard.append(await ask(client, replies, "MintTokens", {"amount": 7}))
        stop.set()
        await working
        await client.close()
        return heard, between

    heard, between = asyncio.run(story())
    monkeypatch.setenv("TALLY_NATS_URL", settings.nats_url)
    found = [
        json.loads(replayed(capsys, tenant, "token/p", "player/p", "--json", *more)[1])
        for more in ([], ["--at", between])
    ]

    assert heard == ["command-accepted/1"] * 3
    assert [one["aggregates"][0]["state"] for one in found] == [{"balance": 12}, {"balance": 5}]
    assert [(one["stream_seq"], one["is_cut"]) for one in found] == [(6, False), (4, False)]


def test_a_replica_that_stays_behind_is_one_line_and_one_that_catches_up_is_waited_for(settings, tenant, monkeypatch):
    from adapters.jetstream import past as reading

    real, empty = reading.direct_get, []

    async def behind(client, stream, request):
        if len(empty) < pages_missing:
            empty.append(request)
            return []
        return await real(client, stream, request)

    async def travel():
        async with told(settings, tenant, generations=1) as client:
            looking = History(client, tenant)
            view = await looking.view(None, 0)
            return (await looking.pasts([B19], view, 1))[0].version

    monkeypatch.setattr(reading, "direct_get", behind)
    monkeypatch.setattr(reading, "BEHIND_WAIT_S", 0)
    pages_missing = 3

    assert asyncio.run(travel()) == 11

    pages_missing = 10_000
    with pytest.raises(StoreUnavailable, match="without its newest events: is a replica behind"):
        asyncio.run(travel())
