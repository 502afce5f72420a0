"""What senders may get wrong, or try: refused with a code and a line, nothing lost, and nobody else delayed."""

import asyncio
import json
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from nats.errors import NoRespondersError
from test_worker_on_nats import code_of, events_of, running

from adapters.jetstream.messages import stream_info


async def until_empty(service):
    """Wait until nothing is left in the command stream, whatever was sent."""
    deadline = time.monotonic() + 30
    while (await stream_info(service.client, f"COMMANDS_{service.tenant}"))["state"]["messages"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


#: Headers on a command -> what the server answers: an error code, or None when it takes the command.
FORGED = {
    "a roll-up of everything": ({"Nats-Rollup": "all"}, 10111),
    "a roll-up of a subject": ({"Nats-Rollup": "sub"}, 10111),
    "a lifetime": ({"Nats-TTL": "1s"}, 10166),
    "a schedule": (
        {"Nats-Schedule": "@at 2030-01-01T00:00:00Z", "Nats-Schedule-Target": "tally.evt.x.player.p"},
        10188,
    ),
    "a batch": ({"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"}, 10174),
    "a counter": ({"Nats-Incr": "5"}, 10168),
    "another stream": ({"Nats-Expected-Stream": "EVENTS_x"}, 10060),
    "an id of a message": ({"Nats-Msg-Id": "m1"}, None),
    "a mark of deletion": ({"Nats-Marker-Reason": "MaxAge"}, None),
    "the place of another message": (
        {"Nats-Sequence": "1", "Nats-Subject": "tally.evt.x", "Nats-Stream": "EVENTS"},
        None,
    ),
    "the status of a server": ({"Status": "503", "Description": "No Responders"}, None),
    "an operator's word": ({"Tally-Redrive": "1"}, None),
    "another operator's word": ({"Tally-Discard": "1"}, None),
    "no number": ({"Tally-Redrive": "\u0661", "Tally-Discard": "-1"}, None),
    "a parked command": ({"Tally-Command-Id": "x", "Tally-Command-Seq": "1", "Tally-Reason": "none"}, None),
    "very much": ({"X-Long": "y" * 60_000}, None),
}


def test_headers_that_look_like_ours_or_the_servers_do_nothing_but_get_an_answer(settings, tenant):
    async def story():
        async with running(settings, tenant) as (service, _):
            told = {}
            for number, (case, (headers, _)) in enumerate(FORGED.items()):
                player = f"p{number}"
                body = service.command("RegisterPlayer", player, {}, command_id=f"c{number}")
                subject = f"tally.cmd.{tenant}.player.{player}.RegisterPlayer"
                ack = await service.client.request(subject, json.dumps(body).encode(), headers=headers, timeout=5)
                error = json.loads(ack.data).get("error")
                told[case] = error["err_code"] if error else code_of(await service.outcome(f"c{number}"))
            left = (await stream_info(service.client, f"EVENTS_{tenant}"))["config"]
            return told, [event["subject"] for event in await events_of(service)], left["deny_purge"]

    told, subjects, denies_purge = asyncio.run(story())

    assert told == {case: code or "accepted" for case, (_, code) in FORGED.items()}
    taken = {f"player/p{number}" for number, (_, code) in enumerate(FORGED.values()) if code is None}
    assert {subject for subject in subjects if not subject.startswith("inbox/")} == taken
    assert denies_purge


RAW = {
    "bytes that are no UTF-8": b"NATS/1.0\r\nTally-Reply-To: \xff\xfe\r\nX-\xff: \x80\r\n\r\n",
    "a line without a colon": b"NATS/1.0\r\nnonsense\r\nTally-Redrive\r\n\r\n",
    "a status of its own": b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 5\r\n\r\n",
    "an idle heartbeat": b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    "the same header twice": b"NATS/1.0\r\nTally-Redrive: 1\r\nTally-Redrive: 2\r\nTally-Reply-To: a\r\n\r\n",
    "no header at all": b"NATS/1.0\r\n\r\n",
    "control characters": b"NATS/1.0\r\nTally-Reply-To: _INBOX.\x01\x02\r\n\r\n",
}


def test_header_bytes_that_no_client_would_write_stop_nobody(settings, tenant):
    async def story():
        async with running(settings, tenant) as (service, _):
            host, port = settings.nats_url.removeprefix("nats://").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
            codes = {}
            for number, (case, header) in enumerate(RAW.items()):
                body = json.dumps(service.command("RegisterPlayer", "p", {}, command_id=f"c{number}")).encode()
                subject = f"tally.cmd.{tenant}.player.p.RegisterPlayer"
                writer.write(f"HPUB {subject} {len(header)} {len(header) + len(body)}\r\n".encode())
                writer.write(header + body + b"\r\n")
                await writer.drain()
                codes[case] = code_of(await service.outcome(f"c{number}"))
            good = code_of(await service.ask("MintTokens", "p", {"amount": 1}))
            writer.close()
            await writer.wait_closed()
            return codes, good

    codes, good = asyncio.run(story())

    assert set(codes) == set(RAW)
    assert set(codes.values()) <= {"accepted", "already-registered", "forbidden-reply"}
    assert codes["a status of its own"] == "already-registered"
    assert codes["control characters"] == "forbidden-reply"
    assert good == "accepted"


@pytest.mark.parametrize("rest", ["player.p", "player.p.RegisterPlayer.more", "player", "player.>"])
def test_a_subject_of_another_form_is_not_taken_and_the_sender_hears_it_at_once(settings, tenant, rest):
    async def story():
        async with running(settings, tenant) as (service, _):
            with pytest.raises(NoRespondersError):
                await service.client.request(f"tally.cmd.{tenant}.{rest}", b"{}", timeout=5)
            return code_of(await service.ask("RegisterPlayer", "p", {}))

    assert asyncio.run(story()) == "accepted"


OWNERS = ["*", ">", "p*", "a" * 65, "ü", "$JS", "p$q", "p/q", "%2e"]


def test_wildcards_and_other_ids_that_are_none_are_refused_and_reach_nobody(settings, tenant):
    async def story():
        async with running(settings, tenant) as (service, _):
            await service.ask("RegisterPlayer", "p", {})
            bodies = [service.command("MintTokens", owner, {"amount": 1}) for owner in OWNERS]
            for owner, body in zip(OWNERS, bodies, strict=True):
                await service.publish("MintTokens", owner, body)
            codes = [code_of(await service.outcome(body["id"])) for body in bodies]
            balance = code_of(await service.ask("SpendTokens", "p", {"amount": 1}))
            other = service.command("RegisterPlayer", "0", {})
            await service.publish("RegisterPlayer", "0", other, aggregate="inbox")
            inbox = code_of(await service.outcome(other["id"]))
            await until_empty(service)
            return codes, balance, inbox, await events_of(service)

    codes, balance, inbox, events = asyncio.run(story())

    assert codes == ["invalid-id"] * len(OWNERS)
    assert (balance, inbox) == ("insufficient-tokens", "unknown-command")
    assert [event["type"] for event in events if event["type"] != "commands-decided/1"] == ["player-registered/1"]


def test_the_same_ids_in_two_tenants_are_two_commands_and_no_tenant_hears_of_the_other(settings, tenant):
    other = f"t-{uuid.uuid4().hex[:12]}"

    async def story():
        async with running(settings, tenant) as (here, _), running(settings, other) as (there, _):
            told = []
            for _ in range(2):
                for service in (here, there):
                    await service.publish("RegisterPlayer", "p", service.command("RegisterPlayer", "p", {}, "same"))
            for service in (here, there):
                await service.outcome("same", 2)
                told.append([each["source"] for each in service.outcomes["same"]])
            spent = code_of(await there.ask("SpendTokens", "p", {"amount": 1}, command_id="spend"))
            await here.ask("MintTokens", "p", {"amount": 1})
            return told, spent, code_of(await here.ask("SpendTokens", "p", {"amount": 1}, command_id="spend"))

    told, spent_there, spent_here = asyncio.run(story())

    assert told == [[f"//tallyroot/{tenant}"] * 2, [f"//tallyroot/{other}"] * 2]
    assert (spent_there, spent_here) == ("insufficient-tokens", "accepted")


def test_a_time_that_has_not_come_is_refused_and_one_long_ago_is_taken(settings, tenant):
    def at(**ahead):
        return (datetime.now(UTC) + timedelta(**ahead)).isoformat(timespec="milliseconds")

    async def story():
        async with running(settings, tenant) as (service, _):
            await service.ask("RegisterPlayer", "p", {}, time="1999-12-31T23:59:59Z")
            times = [at(days=-4000), at(minutes=1), at(minutes=20), at(days=400), "9998-12-31T23:59:59Z"]
            told = [await service.ask("MintTokens", "p", {"amount": 1}, time=each) for each in times]
            return [code_of(each) for each in told], told[-1]["data"]["message"]

    codes, line = asyncio.run(story())

    assert codes == ["accepted", "accepted", "time-ahead", "time-ahead", "time-ahead"]
    assert "9998-12-31" in line
    assert line.isprintable()


def test_a_flood_of_what_cannot_be_read_loses_nothing_and_the_good_between_it_is_decided(settings, tenant):
    bad = [b"", b"\xff" * 100, b"{", b"[" * 5_000, b'{"id":"\xff"}', b"x" * 70_000, b"null"]

    async def story():
        async with running(settings, tenant) as (service, _):
            seqs = []
            for number in range(60):
                seqs.append(await service.publish("RegisterPlayer", "p", bad[number % len(bad)]))
                body = service.command("RegisterPlayer", f"p{number}", {}, command_id=f"good{number}")
                await service.publish("RegisterPlayer", f"p{number}", body)
            good = [code_of(await service.outcome(f"good{number}")) for number in range(60)]
            refused = [code_of(await service.outcome(f"seq-{seq}")) for seq in seqs]
            await until_empty(service)
            return good, refused

    good, refused = asyncio.run(story())

    assert good == ["accepted"] * 60
    assert set(refused) == {"malformed", "too-large"}
