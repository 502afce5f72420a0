"""Who sent a command and did not wait asks for its outcome later, by its id alone or with the aggregate."""

import asyncio
import json
import time
import uuid

from asking import answering
from nats.aio.client import Client

from adapters.worker import Worker

QUEST = {"title": "Q", "steps": [{"id": "s"}], "rewards": {"xp": 10, "tokens": 3, "badge": "b"}}


async def send(client: Client, tenant, aggregate, owner, name, data, command_id):
    kebab = "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")
    body = {
        "specversion": "1.0",
        "id": command_id,
        "source": "//test",
        "type": f"{kebab}/1",
        "subject": f"{aggregate}/{owner}",
        "time": "2026-01-01T00:00:00.000Z",
        "data": data,
    }
    heard = await client.subscribe(f"tally.out.{tenant}.{command_id}")
    await client.publish(f"tally.cmd.{tenant}.{aggregate}.{owner}.{name}", json.dumps(body).encode())
    outcome = json.loads((await heard.next_msg(timeout=15)).data)
    await heard.unsubscribe()
    return outcome


def uuid7(ms):
    return str(uuid.UUID(int=(ms << 80) | (7 << 76) | (2 << 62) | 12345))


def test_the_outcome_that_was_sent_is_answered_again(settings, tenant):
    async def scenario():
        async with answering(settings, tenant) as asker:
            stop, ready = asyncio.Event(), asyncio.Event()
            worker = asyncio.create_task(Worker(settings.nats_url, only_tenants=frozenset({tenant})).run(stop, ready))
            await ready.wait()
            dated = uuid7(time.time_ns() // 1_000_000)
            told = {
                "one": await send(asker.client, tenant, "quest", "q", "PublishQuest", QUEST, "one"),
                dated: await send(asker.client, tenant, "player", "p", "RegisterPlayer", {}, dated),
                "three": await send(asker.client, tenant, "player", "p", "RegisterPlayer", {}, "three"),
                "four": await send(
                    asker.client, tenant, "token", "p", "MintTokens", {"amount": 5, "reason": "r"}, "four"
                ),
            }
            stop.set()
            await worker

            for command_id, outcome in told.items():
                for request in ({}, {"subject": outcome["subject"]}, {"since": "2026-01-01T00:00:00Z"}):
                    code, answer = await asker.ask(f"outcome.{command_id}", request)
                    assert code == "", answer
                    same = ("type", "data", "id", "subject")
                    assert [answer[key] for key in same] == [outcome[key] for key in same]
            assert [outcome["type"] for outcome in told.values()].count("command-refused/1") == 1

            for request, code, words in (
                ({}, "404", "no outcome of command five among the newest 100,000 events"),
                ({"subject": "player/p"}, "404", "no outcome of command five to player/p yet"),
                ({"subject": "horse/p"}, "400", "wanted quest, player, token"),
                ({"subject": "player/a b"}, "400", "like player/ada"),
            ):
                found, line = await asker.ask("outcome.five", request)
                assert found == code
                assert words in line

    asyncio.run(scenario())
