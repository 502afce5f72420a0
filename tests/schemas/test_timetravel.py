"""The state of any aggregate at any past sequence or moment."""

import asyncio
import json
import re
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import cli
from adapters.jetstream import streams
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import connect
from adapters.jetstream.past import History
from adapters.worker import Worker
from bus import examples, subjects
from bus.envelope import encode_event
from bus.errors import BusError, StoreUnavailable
from bus.ports import Message
from bus.timetravel import Moment, Past, TravelRefused, is_cut, parse_at, parse_keys, sequence_at
from domain import catalogue
from domain.catalogue import Key
from domain.values import to_ms, to_time

RECORDS = examples.records()
B19, ACCOUNT, EARLY, INBOX = Key("player", "b19"), Key("token", "b19"), Key("quest", "early-bird"), Key("inbox", "0")


def history(key):
    return [record for record in RECORDS if record.event.subject == f"{key.aggregate}/{key.id}"]


def past(key, up_to_seq, shown_max=99):
    found = Past(key, up_to_seq, shown_max)
    found.apply(history(key))
    return found


@pytest.mark.parametrize("key", sorted({Key(*record.event.subject.split("/")) for record in RECORDS} - {INBOX}))
def test_at_every_sequence_an_aggregate_is_the_fold_of_its_events_so_far(key):
    for up_to_seq in range(len(RECORDS) + 2):
        so_far = [record for record in history(key) if record.stream_seq <= up_to_seq]
        state = catalogue.initial(key.aggregate)
        for record in so_far:
            state = catalogue.evolve(key.aggregate, state, record.data, to_ms(record.event.time))

        found = past(key, up_to_seq)

        assert (found.state, found.version, list(found.shown)) == (state, len(so_far), so_far)


def test_an_inbox_adds_up_what_was_decided():
    state = past(INBOX, len(RECORDS)).state

    assert (state.batches, state.last_seq, state.accepted, state.refused, state.parked) == (1, 17, 15, 1, 1)


def test_only_the_newest_events_are_kept_to_be_shown():
    found = past(B19, len(RECORDS), shown_max=2)

    assert found.version == 9
    assert [record.event.aggregateversion for record in found.shown] == [8, 9]


@pytest.mark.parametrize("spoil", [lambda h: h[1:], lambda h: [h[0], *h[2:]], lambda h: [h[0], h[0], *h[1:]]])
def test_a_history_with_a_gap_or_a_repetition_is_refused(spoil):
    with pytest.raises(BusError, match="wanted version"):
        Past(B19, len(RECORDS), 9).apply(spoil(history(B19)))


def test_an_event_of_another_aggregate_is_refused():
    with pytest.raises(BusError, match="version 1 of token/b19, wanted version 1 of player/b19"):
        Past(B19, len(RECORDS), 9).apply(history(ACCOUNT))


def test_a_cut_between_two_events_of_one_command_is_seen():
    cuts = [one.stream_seq for one, other in pairwise(RECORDS) if is_cut(one, other)]

    assert cuts == [7, 8, 9, 12, 13, 19]
    assert not is_cut(RECORDS[-1], None)


def test_keys_are_read_strictly_and_each_once():
    assert parse_keys(["player/b19", "token/b19", "player/b19", "inbox/0"]) == [B19, ACCOUNT, INBOX]


@pytest.mark.parametrize(
    "text", ["", "player", "player/", "/b19", "person/b19", "player/b 19", "player/a/b", "player/*"]
)
def test_what_is_no_aggregate_is_refused_in_one_line(text):
    with pytest.raises(TravelRefused, match="wanted quest/ID or player/ID or token/ID or inbox/ID"):
        parse_keys([text])


def test_a_point_is_a_sequence_or_a_time_with_its_zone():
    assert parse_at("40213") == 40213
    assert parse_at("2026-11-21T10:00:00Z") == Moment("2026-11-21T10:00:00Z", 1795255200000)
    assert parse_at("2026-11-21T11:00:00+01:00").at_ms == 1795255200000


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "01", "1_0", " 1", "٣", "yesterday", "2026-11-21T10:00:00", "2026-13-01T00:00:00Z"]
)
def test_what_is_no_point_is_refused_in_one_line(text):
    with pytest.raises(TravelRefused, match="wanted a sequence from 1 or a time with its zone"):
        parse_at(text)


def found_at(at_ms, times, last_seq=None):
    asked = []

    async def recorded_ms(seq):
        asked.append(seq)
        return times[seq - 1]

    found = asyncio.run(sequence_at(at_ms, len(times) if last_seq is None else last_seq, recorded_ms))
    assert len(asked) <= len(times).bit_length()
    return found


@given(st.lists(st.integers(0, 50)), st.integers(-1, 51))
def test_in_a_stream_whose_times_rise_it_is_the_last_event_recorded_by_then(times, at_ms):
    times = sorted(times)

    assert found_at(at_ms, times) == sum(1 for one in times if one <= at_ms)


@given(st.lists(st.integers(0, 50), max_size=70), st.integers(-1, 51))
def test_with_clocks_that_differ_it_is_a_point_where_the_log_passes_the_moment(times, at_ms):
    seq = found_at(at_ms, times)

    assert seq == 0 or times[seq - 1] <= at_ms
    assert seq == len(times) or times[seq] > at_ms


@given(st.lists(st.integers(0, 50), max_size=70), st.lists(st.integers(51, 99), max_size=70), st.integers(0, 50))
def test_the_same_moment_means_the_same_sequence_when_the_stream_has_grown(times, later, at_ms):
    assert found_at(at_ms, times + later) == found_at(at_ms, times)


# -- on a real server -------------------------------------------------------------------------------------------------

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
    assert len(found) == 44


@pytest.mark.parametrize(
    ("at_ms", "seq"),
    [
        (T0_MS, 22),
        (T0_MS + 1, 22),
        (T0_MS + HOUR_MS - 1, 22),
        (T0_MS + HOUR_MS, 44),
        (T0_MS + 9 * HOUR_MS, 44),
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
    assert text.startswith(f"{story} at #17 of 44, recorded 2026-11-21T10:00:00.123Z\n")
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
    code, text, _ = replayed(capsys, story, "player/b19", "inbox/0", "--at", "44", "-n", "3", "--json")
    found = json.loads(text)

    assert code == 0
    assert (found["stream_seq"], found["stream_last_seq"], found["is_cut"]) == (44, 44, False)
    player, inbox = found["aggregates"]
    assert (player["aggregate"], player["version"], player["state"]["xp"]) == ("player/b19", 9, 1010)
    assert [one["event"]["aggregateversion"] for one in player["events"]] == [7, 8, 9]
    assert inbox["state"] == {"batches": 1, "last_seq": 17, "accepted": 15, "refused": 1, "parked": 1}


def test_a_moment_is_explained(story, capsys):
    _, text, _ = replayed(capsys, story, "player/b19", "--at", "2026-11-21T10:30:00Z", "-n", "1")

    assert text.startswith(
        f"{story} at #22 of 44, recorded 2026-11-21T10:00:00.123Z\n"
        "the last event recorded by 2026-11-21T10:30:00Z; the next one 2026-11-21T11:00:00.123Z\n"
    )
    assert "  (8 earlier events; -n shows more)\n" in text


def test_a_cut_transaction_is_told(story, capsys):
    _, text, _ = replayed(capsys, story, "player/b19", "--at", "8")

    assert re.search(r"^note: command \S+ has more events behind #8: its transaction is cut here$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["player/nobody"], r"player/nobody has no events in \S+: check the id"),
        (["player/b19", "--at", "45"], r"--at is 45, \S+ has the events 1 to 44: name one of them"),
        (["player/b19", "--at", "0"], r"--at is 0, \S+ has the events 1 to 44: name one of them"),
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

    assert asyncio.run(travel()) == 9

    pages_missing = 10_000
    with pytest.raises(StoreUnavailable, match="without its newest events: is a replica behind"):
        asyncio.run(travel())
