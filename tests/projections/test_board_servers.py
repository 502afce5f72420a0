"""Leaderboards on servers of their own: a node of a cluster, and one that was killed and lost the end of its log."""

import asyncio
import dataclasses
import os
import random
import socket
import subprocess
import time

import pytest
from board_fold import board_fold
from sinks import Leaderboards
from stories import random_story
from test_defined_boards import DEFINED, board_of, contents, make
from test_followers import feed, require_fold

from adapters.embedded_probe import redis_answers
from adapters.embedded_servers import find_valkey_server
from adapters.redis_keys import connect
from adapters.redis_ranks import Boards
from projections.errors import ProjectionError


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

    port, bus = free_port(), free_port()
    with Server(tmp_path, port, {"cluster-enabled": "yes", "cluster-port": bus}) as node:
        asyncio.run(scenario(node))


@pytest.mark.parametrize("lost", [1, 700, 5_000])
def test_a_killed_server_that_lost_the_end_of_its_log_goes_on_from_the_position_that_is_left(
    settings, tenant, tmp_path, lost
):
    options = {"appendonly": "yes", "appendfsync": "no", "aof-load-truncated": "yes"}
    port = free_port()
    there = dataclasses.replace(settings, redis_url=f"redis://127.0.0.1:{port}/0")
    story = random_story(tenant, seed=49, events=500)
    with Server(tmp_path, port, options):
        before = asyncio.run(feed(Leaderboards, there, story, random.Random(1), upto=300))
    (log,) = tmp_path.glob("appendonlydir/*.incr.aof")
    os.truncate(log, log.stat().st_size - lost)

    with Server(tmp_path, port, options):
        left = asyncio.run(Leaderboards.read_position(there, tenant))
        asyncio.run(feed(Leaderboards, there, story, random.Random(2)))
        asyncio.run(require_fold(Leaderboards, there, story))

    assert 0 < left.stream_seq < before.stream_seq


@pytest.mark.parametrize(("policy", "is_refused"), [("allkeys-lru", True), ("volatile-lru", False)])
def test_a_server_that_may_throw_boards_away_is_refused(settings, tenant, tmp_path, policy, is_refused):
    port = free_port()
    there = dataclasses.replace(settings, redis_url=f"redis://127.0.0.1:{port}/0")
    story = random_story(tenant, seed=50, events=100)

    with Server(tmp_path, port, {"maxmemory": "1gb", "maxmemory-policy": policy}):
        if not is_refused:
            asyncio.run(feed(Leaderboards, there, story, random.Random(1)))
            return
        with pytest.raises(ProjectionError, match=r"maxmemory-policy allkeys-lru.* set noeviction") as refused:
            asyncio.run(feed(Leaderboards, there, story, random.Random(1)))

    assert "\n" not in str(refused.value)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A Valkey of this test's own; it ends by SIGKILL."""

    def __init__(self, directory, port, options):
        self.port = port
        options = {"port": port, "bind": "127.0.0.1", "dir": directory, "save": "", **options}
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
