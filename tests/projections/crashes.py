"""Projector processes that are killed at random points while events flow into a real stream.

A process is what `tally run NAME` runs, forked from one that has imported everything: so a kill hits its work, not the
start of an interpreter. Everything that is random comes from the seed; where exactly a kill hits is up to the machine.
"""

import asyncio
import ctypes
import dataclasses
import logging
import multiprocessing
import os
import random
import signal
import sys
from typing import NamedTuple

from stories import fold, random_story

from adapters import cli
from adapters.embedded_launch import PR_SET_PDEATHSIG
from adapters.jetstream import streams
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import connect
from adapters.settings import SOURCES
from bus import subjects
from bus.ports import Message
from domain.token import TOKENS_SENT
from projections.errors import ProjectionError

PRELOADED = [
    "adapters.commands.run", "adapters.iceberg", "adapters.postgres_readmodels", "adapters.redis_boards"
]  # fmt: skip
#: Every so many kills, one does not wait until the process has written something: it may hit the opening.
OPENING_EVERY = 4
READY_WITHIN_S = 60.0
CATCHES_UP_WITHIN_S = 60.0
BATCH_MAX = 10
#: Two copies that both follow meet sooner or later: so many portions more, one by one, until one has been refused.
CHANCES = 6


class Crashed(NamedTuple):
    """What a run came to; of its kills, `in_work` came while events flowed, or found the projector behind them."""

    seed: int
    kills: int
    in_work: int
    events: int
    refused: int  # writes of one copy that came after another's


class Projectors:
    """Processes of one projector of one tenant; `close` leaves none behind."""

    def __init__(self, name, settings, tenant, folder, environ):
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._argv = ["run", name, "--only-tenants", tenant, "--data", str(folder)]
        fields = dataclasses.asdict(settings)
        self._environ = {variable: str(fields[field]) for field, (variable, _) in SOURCES.items()} | environ
        self._log = folder / f"{name}.log"
        self.running = {}

    def start(self, copy):
        process = self._context.Process(target=serve, args=(self._argv, self._environ, self._log), daemon=True)
        process.start()
        self.running[copy] = process

    async def are_ready(self):
        """Wait until all of them follow."""
        deadline = asyncio.get_running_loop().time() + READY_WITHIN_S
        while not all(self._ready_file(process.pid).exists() for process in self.running.values()):
            assert asyncio.get_running_loop().time() < deadline, self.said()[-3000:]
            await asyncio.sleep(0.01)

    def kill(self, copy):
        """SIGKILL, and wait until it is gone."""
        process = self.running.pop(copy)
        assert process.is_alive(), f"a projector ended by itself: {self.said()[-2000:]}"
        process.kill()
        process.join()

    def _ready_file(self, pid):
        return self._log.with_suffix(f".{pid}")

    def said(self):
        return self._log.read_text("utf-8", errors="replace") if self._log.exists() else ""

    def close(self):
        for process in self.running.values():
            process.kill()
            process.join()


def serve(argv, environ, log_path):
    """Be `tally run` from here on."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(environ, TALLY_READY_FILE=str(log_path.with_suffix(f".{os.getpid()}")))
    logging.getLogger().handlers.clear()
    sys.exit(cli.main(argv))


class Flow:
    """A story that is published in portions, each in batches of random size with pauses between."""

    def __init__(self, client, story, dice, portions, pause_s):
        self._publisher = BatchPublisher(client)
        self._story, self._dice, self._portions, self._pause_s = story, dice, portions, pause_s
        self._portion = 0
        self.told = 0

    async def portion(self):
        self._portion += 1
        upto = len(self._story.records) * self._portion // self._portions
        while self.told < upto:
            last = min(self.told + self._dice.randrange(1, BATCH_MAX), upto)
            while self._story.records[last - 1].event.type == TOKENS_SENT:
                last += 1  # both halves of a transfer are in one batch, as a worker commits them
            batch = [
                Message(subjects.event(self._story.tenant, *one.event.subject.split("/")), one.body, None, None)
                for one in self._story.batch(self.told + 1, last)
            ]
            await self._publisher.append(f"b{self.told}", batch)
            self.told = last
            await asyncio.sleep(self._pause_s)


async def crash(sink, settings, tenant, folder, *, kills, seed, copies=1):
    """Kill, start again, kill; then let it catch up. The sink must hold the fold of the stream, row for row."""
    dice = random.Random(seed)
    story = random_story(tenant, seed, events=sink.events_per_kill * (kills + 1), players=25 + 2 * kills, minutes=50)
    client = await connect(settings.nats_url, "crashes")
    projectors = Projectors(sink.follower(settings).name, settings, tenant, folder, sink.environ)
    in_work = 0
    try:
        await streams.create_tenant(client, tenant)
        chances = CHANCES if copies > 1 else 0
        flow = Flow(client, story, dice, 2 * kills + 2 + chances, sink.write_s / 10)
        for copy in range(copies):
            projectors.start(copy)
        for number in range(kills):
            before = await seq_of(sink, settings, tenant)
            await flow.portion()
            if number % OPENING_EVERY != OPENING_EVERY - 1:
                await moved(sink, settings, tenant, before, projectors)
            flowing = asyncio.create_task(flow.portion())
            await asyncio.sleep(dice.uniform(0, sink.write_s))
            told, is_flowing = flow.told, not flowing.done()
            victim = dice.randrange(copies)
            projectors.kill(victim)
            in_work += is_flowing or await seq_of(sink, settings, tenant) < told
            await flowing
            projectors.start(victim)
        await projectors.are_ready()
        while flow.told < len(story.records):
            await flow.portion()
            if copies == 1 or sink.refusal not in projectors.said():
                await caught_up(sink, settings, tenant, flow.told, projectors)
        await caught_up(sink, settings, tenant, flow.told, projectors)
        await require_fold(sink, settings, story, seed)
    finally:
        projectors.close()
        await client.close()
    return Crashed(seed, kills, in_work, flow.told, projectors.said().count(sink.refusal))


async def moved(sink, settings, tenant, before, projectors):
    """Wait until the projector has written something more."""
    await caught_up(sink, settings, tenant, before + 1, projectors)


async def caught_up(sink, settings, tenant, wanted, projectors):
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CATCHES_UP_WITHIN_S
    while (reached := await seq_of(sink, settings, tenant)) < wanted:
        assert loop.time() < deadline, f"came to {reached}, wanted {wanted}: {projectors.said()[-3000:]}"
        await asyncio.sleep(sink.write_s / 2)


async def seq_of(sink, settings, tenant):
    try:
        position = await sink.read_position(settings, tenant)
    except ProjectionError:  # tables that are being made
        return 0
    return position.stream_seq if position else 0


async def require_fold(sink, settings, story, seed):
    wanted = fold([record.body for record in story.records])
    found = await sink.found(settings, story.tenant, wanted)
    assert found == sink.wanted(wanted), f"seed {seed}: what it holds is not the fold of the stream"
