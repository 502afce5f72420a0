"""Queries over NATS: found by service tools, refused with a code and a line, bounded, there for new tenants."""

import asyncio
import contextlib
import dataclasses

import msgspec
import pytest
from asking import answering

from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.queries import catalogue, service
from adapters.queries.catalogue import queries
from adapters.queries.endpoint import Asked, endpoint
from bus.queries import Request
from tests.platform.source_tree import ROOT


class Wait(Request, frozen=True, kw_only=True):
    seconds: float = 0.0


class Waited(msgspec.Struct, frozen=True):
    name: str


@endpoint("wait.{name}", example=(Wait(), Waited("x")))
async def wait(asked: Asked[Wait]) -> Waited:
    """Answers after a while."""
    if asked.request.seconds < 0:
        raise KeyError(asked.request.seconds)
    await asyncio.sleep(asked.request.seconds)
    return Waited(asked.named["name"])


def test_a_service_tool_finds_the_queries_of_a_tenant_with_their_subjects(settings, tenant):
    async def scenario():
        async with answering(settings, tenant) as asker:
            ping, info = await asker.control("PING"), await asker.control("INFO")

        assert ping["type"] == "io.nats.micro.v1.ping_response"
        assert (ping["name"], ping["metadata"]) == (f"tally-{tenant}", {"tenant": tenant})
        found = {one["name"]: one for one in info["endpoints"]}
        assert found.keys() == {one.name for one in queries()}
        assert found["leaderboard-top"]["subject"] == f"tally.q.{tenant}.leaderboard.top"
        assert found["outcome"]["subject"] == f"tally.q.{tenant}.outcome.*"
        assert all(one["metadata"]["summary"] for one in found.values())

    asyncio.run(scenario())


def test_the_figures_of_a_service_count_refusals_and_the_time_until_the_answer(settings, tenant):
    async def scenario():
        async with answering(settings, tenant, served=[wait]) as asker:
            assert await asker.ask("wait.b", {"seconds": 0.05}) == ("", {"name": "b"})
            code, _ = await asker.ask("wait.b", {"seconds": "x"})
            (figures,) = (await asker.control("STATS"))["endpoints"]

        assert code == "400"
        assert (figures["num_requests"], figures["num_errors"]) == (2, 1)
        assert figures["last_error"].startswith("400: ")
        assert figures["processing_time"] >= 50_000_000

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"{", "no JSON object"),
        (b"\xff", "no JSON object"),
        ([], "Expected `object`"),
        ({"lines": "ten"}, r"Expected `int`.* - at `\$.lines`"),
        ({"lines": 0}, r">= 1 - at `\$.lines`"),
        ({"line": 1}, "unknown field `line`"),
        ({"quest": "a b"}, r"\$.quest"),
    ],
)
def test_what_is_no_query_is_refused_in_one_line(settings, tenant, payload, said):
    async def scenario():
        async with answering(settings, tenant) as asker:
            code, line = await asker.ask("leaderboard.top", payload)

        assert code == "400"
        assert "\n" not in line
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(line)

    asyncio.run(scenario())


def test_a_token_that_may_not_stand_in_a_subject_is_refused(settings, tenant):
    async def scenario():
        async with answering(settings, tenant, served=[wait]) as asker:
            assert (await asker.ask("wait.a+b"))[0] == "400"

    asyncio.run(scenario())


def test_a_server_behind_it_that_is_away_is_said(settings, tenant):
    async def scenario():
        away = dataclasses.replace(settings, redis_url="redis://127.0.0.1:1/0")
        async with answering(away, tenant) as asker:
            code, line = await asker.ask("leaderboard.top", {})

        assert code == "503"
        assert "Redis does not answer" in line

    asyncio.run(scenario())


def test_a_failure_of_our_own_is_answered_and_logged(settings, tenant, caplog):
    async def scenario():
        async with answering(settings, tenant, served=[wait]) as asker:
            code, line = await asker.ask("wait.x", {"seconds": -1})
            assert await asker.ask("wait.x") == ("", {"name": "x"})

        assert (code, line) == ("500", "KeyError; the process's log says more")
        assert "KeyError: -1" in caplog.text

    asyncio.run(scenario())


def test_slow_queries_do_not_hold_up_others_and_too_many_are_refused(settings, tenant, monkeypatch):
    async def scenario():
        monkeypatch.setattr(service, "AT_ONCE_MAX", 2)
        monkeypatch.setattr(service, "WAITING_MAX", 1)
        async with answering(settings, tenant, served=[wait], deadline_s=0.5) as asker:
            slow = [asyncio.create_task(asker.ask("wait.slow", {"seconds": 30})) for _ in range(2)]
            await asyncio.sleep(0.1)
            third = asyncio.create_task(asker.ask("wait.third"))
            await asyncio.sleep(0.1)
            code, line = await asker.ask("wait.fourth")
            answers = await asyncio.gather(*slow, third)
            again = await asker.ask("wait.again")

        assert code == "429"
        assert "ask again" in line
        assert [code for code, _ in answers] == ["504", "504", ""]
        assert again == ("", {"name": "again"})

    asyncio.run(scenario())


def test_one_slow_query_leaves_room_for_the_others(settings, tenant):
    async def scenario():
        async with answering(settings, tenant, served=[wait], deadline_s=1) as asker:
            slow = asyncio.create_task(asker.ask("wait.slow", {"seconds": 30}))
            await asyncio.sleep(0)
            assert await asker.ask("wait.quick") == ("", {"name": "quick"})
            assert not slow.done()
            slow.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await slow

    asyncio.run(scenario())


def test_a_tenant_that_is_created_later_is_answered_without_a_restart(settings, tenant):
    async def scenario():
        async with answering(settings, tenant, is_known=False) as asker:
            admin = await connect(settings.nats_url, "admin")
            await streams.create_tenant(admin, tenant)
            await admin.close()
            async with asyncio.timeout(15):
                while True:
                    with contextlib.suppress(Exception):
                        code, answer = await asker.ask("leaderboard.top")
                        break
                    await asyncio.sleep(0.05)

        assert (code, answer) == ("", {"board": "xp", "size": 0, "lines": []})

    asyncio.run(scenario())


def test_the_page_s_new_query_is_one_file_and_one_line(settings, tenant, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "queries.md").read_text(encoding="utf-8")
    example = next(part for part in page.split("```python\n") if part.startswith("# adapters/queries/badges.py"))
    (tmp_path / "badges_of_the_page.py").write_text(example.partition("```")[0], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(catalogue.MODULES, "badges_of_the_page", ("postgres_dsn",))

    async def scenario():
        async with answering(settings, tenant) as asker:
            code, line = await asker.ask("player.b19.badges")

        assert code == "503"
        assert "holds no read models of this tenant yet" in line

    asyncio.run(scenario())
    assert {one.name: one.parameters for one in queries()}["player-badges"] == ("player",)
