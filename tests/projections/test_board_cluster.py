"""Leaderboards on a node of a Redis Cluster."""

import asyncio
import dataclasses
import random
import socket
import subprocess
import time

from board_fold import board_fold
from sinks import Leaderboards
from stories import random_story
from test_defined_boards import DEFINED, board_of, contents, make
from test_followers import feed

from adapters.embedded_probe import redis_answers
from adapters.embedded_servers import find_valkey_server
from adapters.redis_keys import connect
from adapters.redis_ranks import Boards


def test_a_node_of_a_cluster_takes_every_script(settings, tenant, tmp_path):
    """All keys of a tenant are in one slot; keys that a script makes itself are no hindrance."""

    async def scenario(node):
        there = dataclasses.replace(settings, redis_url=f"redis://127.0.0.1:{node.port}/0")
        async with connect(there) as client:
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            async with asyncio.timeout(20):
                while True:
                    if "cluster_state:ok" in str(await client.execute_command("CLUSTER", "INFO")):
                        break
                    await asyncio.sleep(0.05)
            await make(there, tenant)
            story = random_story(tenant, seed=48, events=600)
            await feed(Leaderboards, there, story, random.Random(1))
            folded = board_fold([record.body for record in story.records], DEFINED)

            assert await contents(there, tenant) == folded
            async with Boards(there, tenant) as boards:
                board = board_of(await boards.settings(), "xp")
                first = folded["xp"][0][0]
                assert (await boards.rank(board, first)).line.place == 1
                assert len((await boards.friends(board, [first]))[0]) == 1
            slots = {await client.execute_command("CLUSTER", "KEYSLOT", key) async for key in client.scan_iter("*")}
            assert len(slots) == 1

    with Cluster(tmp_path) as node:
        asyncio.run(scenario(node))


class Cluster:
    """A cluster of one node."""

    def __init__(self, directory):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = {"port": self.port, "bind": "127.0.0.1", "dir": directory, "cluster-enabled": "yes", "save": ""}
        # The bus would be at port + 10,000, which need not be there.
        options |= {"cluster-port": self.port + 1 if self.port < 65_535 else self.port - 1}
        self._argv = [
            find_valkey_server(),
            *(str(part) for key, value in options.items() for part in (f"--{key}", value)),
        ]

    def __enter__(self):
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not redis_answers(self.port):
            assert time.monotonic() < deadline
            assert self._process.poll() is None
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
