"""A killed server forgets commands that were not on its disk yet, and gives their sequences to others."""

import asyncio
import json
import shutil

import pytest

from adapters.jetstream.commands import JetStreamCommands
from adapters.jetstream.connection import connect
from adapters.jetstream.streams import create_tenant
from bus import subjects
from bus.errors import StoreUnavailable

TENANT = "t"


class Forgetful:
    """A server whose disk at the moment of its death is the one of the last `sync`."""

    def __init__(self, server, path):
        self._server = server
        self._disk = path

    def sync(self):
        self._server.stop()
        shutil.copytree(self._server.directory, self._disk, symlinks=True)
        self._server.restart()

    def kill(self):
        self._server.child.kill()
        shutil.rmtree(self._server.directory)
        shutil.copytree(self._disk, self._server.directory, symlinks=True)
        self._server.restart()


async def publish(client, *owners):
    for owner in owners:
        subject = subjects.command(TENANT, "player", owner, "RegisterPlayer")
        await client.jetstream().publish(subject, json.dumps({"id": owner}).encode(), timeout=20)


async def taken(source, count):
    found = []
    while len(found) < count:
        found += await source.take(99)
    return [(delivery.stream_seq, subjects.split_command(delivery.subject)[1]) for delivery in found], found[-1]


async def connected_again(client, reconnects):
    async with asyncio.timeout(20):
        while client.stats["reconnects"] == reconnects or not client.is_connected:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("decided", [3, 6], ids=["what it still has", "what it forgot"])
def test_who_reads_on_finds_out_that_sequences_were_given_again_and_passes_over_none(server, tmp_path, decided):
    forgetful = Forgetful(server, tmp_path / "disk")

    async def story():
        client = await connect(server.url, "test")
        try:
            await create_tenant(client, TENANT, partitions=1, intake="fast")
            commands = JetStreamCommands(client, TENANT)
            await publish(client, "a", "b", "c")
            before = client.stats["reconnects"]
            await asyncio.to_thread(forgetful.sync)
            await connected_again(client, before)
            source = await commands.open(0, 0, 0)
            _, third = await taken(source, 3)
            await publish(client, "d", "e", "f")
            _, sixth = await taken(source, 3)
            last = {3: third, 6: sixth}[decided]

            before = client.stats["reconnects"]
            await asyncio.to_thread(forgetful.kill)
            await connected_again(client, before)
            await publish(client, "u", "v", "w", "x")
            was_current = source.is_current
            with pytest.raises(StoreUnavailable, match="gave sequence 4 again, read was up to 6"):
                await source.take(99)
            await source.close()

            anew = await commands.open(0, last.stream_seq, last.received_ns)
            found, _ = await taken(anew, 4)
            is_current = anew.is_current
            await anew.close()
            return was_current, anew.after_seq, found, is_current
        finally:
            await client.close()

    was_current, after_seq, found, is_current = asyncio.run(story())

    assert after_seq == 3
    assert found == [(4, "u"), (5, "v"), (6, "w"), (7, "x")]
    assert (was_current, is_current) == (False, True)
