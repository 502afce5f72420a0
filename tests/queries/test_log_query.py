"""Who wants to know asks when an event is under a checkpoint, and how the log stands."""

import asyncio
import dataclasses

from asking import answering

from adapters.signer import Signer
from bus import subjects
from bus.follower import StreamIdentity
from tests.projections.stories import Story as Told
from tests.projections.stories import finish, publish


def told(tenant):
    story = Told(tenant)
    publish(story)
    finish(story, "ada", 9_000_000)
    return story.records


async def sign(installed, tenant, records):
    signer = Signer(installed)
    position = await signer.open(tenant, StreamIdentity(subjects.events_stream(tenant), "2026-01-01T00:00:00Z"))
    await signer.apply([record for record in records if record.stream_seq > position.stream_seq])
    await signer.close()


def test_an_answer_comes_when_the_event_is_under_a_checkpoint(settings, tenant, tmp_path):
    installed = dataclasses.replace(settings, log_dir=tmp_path / "log", keys_dir=tmp_path / "keys")
    records = told(tenant)

    async def scenario():
        async with answering(installed, tenant) as asker:
            assert (await asker.ask("log.signed.1", {"wait_ms": 0}))[0] == "404"
            assert (await asker.ask("log.checkpoint"))[0] == "404"
            await sign(installed, tenant, records[:3])
            waiting = asyncio.create_task(asker.ask(f"log.signed.{len(records)}"))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            await sign(installed, tenant, records)
            return await waiting, await asker.ask("log.checkpoint")

    signed, checkpoint = asyncio.run(scenario())

    assert signed[0] == checkpoint[0] == ""
    assert signed[1]["leaf_index"] == len(records) - 1
    assert signed[1]["tree_size"] == checkpoint[1]["tree_size"] == len(records)
    assert signed[1]["root"] == checkpoint[1]["root"]
    assert (checkpoint[1]["behind_events"], checkpoint[1]["age_ms"] >= 0) == (0, True)


def test_what_cannot_be_asked_or_read_is_one_line(settings, tenant, tmp_path):
    installed = dataclasses.replace(settings, log_dir=tmp_path / "log", keys_dir=tmp_path / "keys")

    async def scenario():
        async with answering(installed, tenant) as asker:
            asked = [
                await asker.ask(path) for path in ("log.signed.0", "log.signed.x1", "log.signed.99999999999999999999")
            ]
            late = await asker.ask("log.signed.1", {"wait_ms": 4_001})
            folder = installed.log_dir / tenant
            folder.mkdir(parents=True)
            (folder / "checkpoint").write_bytes(b"damaged")
            return asked, late, await asker.ask("log.checkpoint")

    asked, late, damaged = asyncio.run(scenario())

    assert [code for code, _ in asked] == ["400"] * 3
    assert late[0] == "400"
    assert damaged[0] == "503"
    assert "checkpoint" in damaged[1]
