"""A worker on a real server, spoken to as a service in any language would: plain NATS and JSON."""

import asyncio
import contextlib
import json
import time
import uuid

import pytest

from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.worker import Worker
from bus import subjects
from bus.errors import WrongStream

QUEST = {"title": "Q", "steps": [{"id": "s"}], "rewards": {"xp": 10, "tokens": 3, "badge": "b"}}
TYPES = {
    "PublishQuest": ("quest", "publish-quest/1"),
    "RegisterPlayer": ("player", "register-player/1"),
    "AcceptQuest": ("player", "accept-quest/1"),
    "ReachStep": ("player", "reach-step/1"),
    "CompleteQuest": ("player", "complete-quest/1"),
    "MintTokens": ("token", "mint-tokens/1"),
    "SpendTokens": ("token", "spend-tokens/1"),
}


class Service:
    def __init__(self, client, tenant):
        self.client, self.tenant = client, tenant
        self.outcomes: dict[str, list[dict]] = {}

    async def listen(self):
        self.inbox = self.client.new_inbox()
        await self.client.subscribe(self.inbox, cb=self._heard)
        await self.client.subscribe(f"tally.out.{self.tenant}.*", cb=self._heard)
        await self.client.flush()

    async def _heard(self, message):
        outcome = json.loads(message.data)
        self.outcomes.setdefault(outcome["causationid"], []).append(outcome)

    def command(self, name, owner, data, command_id=None, **changes):
        aggregate, kind = TYPES[name]
        return {
            "specversion": "1.0",
            "id": command_id or uuid.uuid4().hex,
            "source": "//test",
            "type": kind,
            "subject": f"{aggregate}/{owner}",
            "time": "2026-01-01T00:00:00.000Z",
            "tenantid": self.tenant,
            "data": data,
            **changes,
        }

    async def publish(self, name, owner, body, *, aggregate=None, headers=None):
        aggregate = aggregate or TYPES[name][0]
        subject = f"tally.cmd.{self.tenant}.{aggregate}.{owner}.{name}"
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Tally-Reply-To": self.inbox} if headers is None else headers
        ack = await self.client.request(subject, payload, headers=headers or None, timeout=5)
        return json.loads(ack.data)["seq"]

    async def ask(self, name, owner, data, **more):
        body = self.command(name, owner, data, **more)
        await self.publish(name, owner, body)
        return await self.outcome(body["id"])

    async def outcome(self, command_id, count=1):
        deadline = time.monotonic() + 10
        while len(self.outcomes.get(command_id, ())) < count:
            assert time.monotonic() < deadline, f"no outcome of {command_id}"
            await asyncio.sleep(0.005)
        return self.outcomes[command_id][-1]


@contextlib.asynccontextmanager
async def running(settings, tenant, *, workers=1, **options):
    client = await connect(settings.nats_url, "test-service")
    await streams.create_tenant(client, tenant)
    service = Service(client, tenant)
    await service.listen()
    stop = asyncio.Event()
    fleet = [Worker(settings.nats_url, only_tenants=frozenset({tenant}), **options) for _ in range(workers)]
    tasks = []
    for worker in fleet:
        ready = asyncio.Event()
        tasks.append(asyncio.create_task(worker.run(stop, ready)))
        await ready.wait()
    try:
        yield service, fleet
    finally:
        stop.set()
        await asyncio.gather(*tasks)
        await client.close()


def code_of(outcome):
    return outcome["data"].get("code", "accepted")


def test_a_story_from_publishing_to_spending(settings, tenant):
    async def story():
        async with running(settings, tenant) as (service, _):
            told = []
            for name, owner, data in [
                ("PublishQuest", "q", QUEST),
                ("RegisterPlayer", "p", {}),
                ("AcceptQuest", "p", {"quest": "q"}),
                ("ReachStep", "p", {"quest": "q", "step": "s", "elapsed_ms": 5}),
                ("ReachStep", "p", {"quest": "q", "step": "s", "elapsed_ms": 6}),
                ("CompleteQuest", "p", {"quest": "q", "elapsed_ms": 9}),
                ("SpendTokens", "p", {"amount": 3}),
                ("SpendTokens", "p", {"amount": 1}),
            ]:
                told.append(code_of(await service.ask(name, owner, data)))
            return told

    assert asyncio.run(story()) == [
        *["accepted"] * 4,
        "step-already-reached",
        "accepted",
        "accepted",
        "insufficient-tokens",
    ]


BAD = {
    "no JSON": ("RegisterPlayer", "p", b"{nonsense", "malformed"),
    "not UTF-8": ("RegisterPlayer", "p", b'{"id":"\xff\xfe"}', "malformed"),
    "nothing": ("RegisterPlayer", "p", b"", "malformed"),
    "too large": ("RegisterPlayer", "p", b'{"x":"' + b"y" * 70_000 + b'"}', "too-large"),
    "unknown command": ("Levitate", "p", b'{"id":"x1"}', "malformed"),
    "invalid id": ("RegisterPlayer", "p$", b'{"id":"x2"}', "malformed"),
}


def test_what_cannot_be_read_gets_an_outcome_and_stops_nothing(settings, tenant):
    async def story():
        async with running(settings, tenant) as (service, _):
            codes = {}
            for case, (name, owner, payload, _) in BAD.items():
                seq = await service.publish(name, owner, payload, aggregate="player")
                known = [f"seq-{seq}", "x1", "x2"]
                deadline = time.monotonic() + 10
                while not (found := [key for key in known if key in service.outcomes]):
                    assert time.monotonic() < deadline, case
                    await asyncio.sleep(0.005)
                outcome = service.outcomes.pop(found[0])[0]
                codes[case] = code_of(outcome)
                assert outcome["data"]["message"].isprintable()
            good = await service.ask("RegisterPlayer", "p", {})
            return codes, code_of(good), await events_of(service)

    codes, good, events = asyncio.run(story())

    assert codes == {case: code for case, (_, _, _, code) in BAD.items()}
    assert good == "accepted"
    assert [event["type"] for event in events if event["type"] != "commands-decided/1"] == ["player-registered/1"]


@pytest.mark.parametrize(
    ("name", "owner", "data", "changes", "code"),
    [
        ("MintTokens", "p", {"amount": 1}, {"tenantid": "elsewhere"}, "wrong-tenant"),
        ("MintTokens", "p", {"amount": 1}, {"type": "spend-tokens/1"}, "unknown-command"),
        ("MintTokens", "p", {}, {}, "invalid-data"),
        ("MintTokens", "p", {"amount": 1, "more": 1}, {}, "invalid-data"),
        ("MintTokens", "p", {"amount": "1"}, {}, "invalid-data"),
        ("MintTokens", "p", {"amount": -1}, {}, "invalid-data"),
        ("MintTokens", "nobody", {"amount": 1}, {}, "not-registered"),
        ("CompleteQuest", "p", {"quest": "never", "elapsed_ms": 1}, {}, "unknown-quest"),
        ("CompleteQuest", "p", {"quest": "q", "elapsed_ms": 1}, {}, "not-accepted"),
    ],
)
def test_a_command_that_must_not_be_is_refused_and_changes_nothing(settings, tenant, name, owner, data, changes, code):
    async def story():
        async with running(settings, tenant) as (service, _):
            await service.ask("PublishQuest", "q", QUEST)
            await service.ask("RegisterPlayer", "p", {})
            before = len([e for e in await events_of(service) if e["type"] != "commands-decided/1"])
            outcome = await service.ask(name, owner, data, **changes)
            after = len([e for e in await events_of(service) if e["type"] != "commands-decided/1"])
            return outcome, after - before

    outcome, added = asyncio.run(story())

    assert (outcome["type"], code_of(outcome), added) == ("command-refused/1", code, 0)


@pytest.mark.parametrize(
    "reply_to", ["tally.evt.other.player.p", "tally.out.other.x", "$JS.API.STREAM.DELETE.X", "_INBOX.>", "_INBOX.a b"]
)
def test_an_outcome_is_never_sent_where_it_could_forge_something(settings, tenant, reply_to):
    async def story():
        async with running(settings, tenant) as (service, _):
            body = service.command("RegisterPlayer", "p", {})
            await service.publish("RegisterPlayer", "p", body, headers={"Tally-Reply-To": reply_to})
            return await service.outcome(body["id"])

    assert code_of(asyncio.run(story())) == "forbidden-reply"


def test_an_outcome_without_a_reply_header_goes_to_the_commands_own_subject(settings, tenant):
    async def story():
        async with running(settings, tenant) as (service, _):
            body = service.command("RegisterPlayer", "p", {})
            await service.publish("RegisterPlayer", "p", body, headers={})
            return await service.outcome(body["id"])

    assert asyncio.run(story())["type"] == "command-accepted/1"


def test_the_same_id_is_executed_once_also_by_another_worker(settings, tenant):
    async def story():
        told = []
        for _ in range(2):
            async with running(settings, tenant) as (service, _):
                await service.ask("RegisterPlayer", "p", {}, command_id="r")
                for count in (1, 2):
                    await service.publish("MintTokens", "p", service.command("MintTokens", "p", {"amount": 5}, "once"))
                    told.append((await service.outcome("once", count))["data"])
                events = await events_of(service)
        return told, [event["type"] for event in events]

    told, types = asyncio.run(story())

    assert told == [told[0]] * 4
    assert types.count("tokens-minted/1") == types.count("player-registered/1") == 1


def test_two_workers_share_the_partitions_and_one_that_leaves_hands_over_at_once(settings, tenant):
    async def story():
        async with running(settings, tenant) as (service, (first,)):
            async with running(settings, tenant) as (_, (second,)):
                deadline = time.monotonic() + 10
                while {len(first.of(tenant)), len(second.of(tenant))} != {4}:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
                shared = first.of(tenant) | second.of(tenant)
                both = [code_of(await service.ask("RegisterPlayer", f"p{n}", {})) for n in range(20)]
            left_at = time.monotonic()
            alone = [code_of(await service.ask("MintTokens", f"p{n}", {"amount": 1})) for n in range(20)]
            return shared, both, alone, time.monotonic() - left_at

    shared, both, alone, seconds = asyncio.run(story())

    assert shared == set(range(8))
    assert set(both) == set(alone) == {"accepted"}
    assert seconds < 8


def test_a_stream_that_is_not_configured_as_it_must_be_is_refused_and_the_setting_named(settings, tenant):
    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            await streams.create_tenant(client, tenant)
            config = {**streams.events_config(tenant, 1), "max_msgs": 10}
            await client.request(f"$JS.API.STREAM.UPDATE.EVENTS_{tenant}", json.dumps(config).encode())
            await streams.describe(client, tenant)
        finally:  # other tests look at every stream of the server
            config["max_msgs"] = -1
            await client.request(f"$JS.API.STREAM.UPDATE.EVENTS_{tenant}", json.dumps(config).encode())
            await client.close()

    with pytest.raises(WrongStream, match="max_msgs = 10, wanted -1"):
        asyncio.run(story())


def test_nobody_can_delete_or_purge_an_event(settings, tenant):
    async def story():
        async with running(settings, tenant) as (service, _):
            await service.ask("RegisterPlayer", "p", {})
            answers = []
            for request, body in [("PURGE", {}), ("MSG.DELETE", {"seq": 1})]:
                reply = await service.client.request(
                    f"$JS.API.STREAM.{request}.EVENTS_{tenant}", json.dumps(body).encode()
                )
                answers.append("error" in json.loads(reply.data))
            return answers, len(await events_of(service))

    assert asyncio.run(story()) == ([True, True], 2)


def test_a_server_that_is_not_there_is_one_line():
    from adapters.errors import NotConfigured

    with pytest.raises(NotConfigured, match=r"no NATS server answers at nats://127.0.0.1:1 .*tally up"):
        asyncio.run(connect("nats://127.0.0.1:1", "test", patience_s=0.1))


def test_an_operator_redrives_what_was_parked_and_its_sender_hears_of_it(settings, tenant, monkeypatch, capsys):
    from adapters import cli
    from domain import catalogue

    real = catalogue.decide
    curse = {"on": True}

    def decide(needed, command, states, at_ms):
        if needed.writes[0].aggregate == "token" and curse["on"]:
            raise ZeroDivisionError("made up")
        return real(needed, command, states, at_ms)

    monkeypatch.setattr(catalogue, "decide", decide)
    monkeypatch.setenv("TALLY_NATS_URL", settings.nats_url)

    def tally(*words):
        code = cli.main(["dead-letters", *words, "--tenant", tenant])
        return code, capsys.readouterr().out

    async def story():
        async with running(settings, tenant) as (service, _):
            await service.ask("RegisterPlayer", "p", {})
            parked = [(await service.ask("MintTokens", "p", {"amount": n}, command_id=f"m{n}"))["type"] for n in (1, 2)]
            told = [await asyncio.to_thread(tally, *words) for words in (("list",), ("redrive", "token/p"))]
            curse["on"] = False
            told.append(await asyncio.to_thread(tally, "redrive", "token/p", "--first"))
            told.append(await asyncio.to_thread(tally, "discard", "token/p"))
            told.append(await asyncio.to_thread(tally, "list"))
            last = [(await service.outcome(f"m{n}", 2))["type"] for n in (1, 2)]
            return parked, told, last, code_of(await service.ask("SpendTokens", "p", {"amount": 1}))

    parked, told, last, then = asyncio.run(story())

    assert parked == ["command-parked/1"] * 2
    assert [code for code, _ in told] == [0, 1, 0, 0, 0]
    assert "m1" in told[0][1]
    assert "ZeroDivisionError: made up" in told[0][1]
    assert told[4][1] == "nothing is parked\n"
    assert last == ["command-accepted/1", "command-refused/1"]
    assert then == "accepted"


async def events_of(service) -> list[dict]:
    from adapters.jetstream.messages import history

    found = await history(service.client, subjects.events_stream(service.tenant), subjects.all_events(service.tenant))
    return [json.loads(body) for _, _, body in found]


def test_of_many_players_no_more_are_live_than_a_worker_may_keep(settings, tenant):
    players = [f"p{number}" for number in range(100)]

    async def story():
        async with running(settings, tenant, owners_max=16) as (service, (worker,)):
            await asyncio.gather(*(service.ask("RegisterPlayer", player, {}) for player in players))
            async with asyncio.timeout(20):
                while True:
                    if worker.room.live_owners <= 16:  # the last of each partition go when no more commands come
                        break
                    await asyncio.sleep(0.05)
            again = await asyncio.gather(*(service.ask("RegisterPlayer", player, {}) for player in players))
            return {code_of(outcome) for outcome in again}

    assert asyncio.run(story()) == {"already-registered"}
