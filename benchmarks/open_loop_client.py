"""An open loop: publishes on a schedule that was fixed before, whatever the answers do. Plain nats-py and JSON.

    python -m benchmarks.open_loop_client --nats URL --tenant T --quest Q --players N --rate 2000 --seed 7

It reads one JSON order per line from standard input, answers each with one JSON line, and ends with its input:

    {"do": "commands"}               publish a completion for each player, wait for each outcome
    {"do": "bare", "subject": "s"}   publish the same bodies below a subject, wait for each acknowledgement of JetStream

Both go by the same schedule: independent arrivals (exponential gaps, from the seed) at the rate. A latency counts from
the moment that the schedule says, so what the client itself is late with is in it; that share is reported apart.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import nats
from nats.aio.msg import Msg

START_IN_S: Final = 0.5
GIVE_UP_AFTER_S: Final = 30.0
YIELD_EVERY: Final = 16
CONNECT_WITHIN_S: Final = 5.0
ACCEPTED: Final = b'"command-accepted/1"'


class Planned(NamedTuple):
    """What is published for a player."""

    player: str
    body: bytes


def schedule(count: int, rate: float, seed: int) -> list[float]:
    """Seconds after the start at which each of `count` publishes is due; the last one about count / rate."""
    source = random.Random(seed)
    at = 0.0
    due: list[float] = []
    for _ in range(count):
        at += source.expovariate(rate)
        due.append(at)
    return due


class Loop:
    """One run of the schedule; what an answer is for stands in its subject."""

    def __init__(self, connection: Any, due: Sequence[float], is_good: bytes) -> None:
        self._connection = connection
        self._due = due
        self._is_good = is_good
        self._inbox = connection.new_inbox()
        self._start = 0.0
        self._all_came = asyncio.Event()
        self._latencies_us = [-1] * len(due)
        self._late_us: list[int] = []
        self._answered_at: list[float] = []
        self._bad = 0
        self._example = ""

    async def run(self, planned: Sequence[Planned], subject: str, *, is_bare: bool) -> dict[str, Any]:
        """Publish all when they are due; returns what became of them when all have answers or none comes any more."""
        inbox = self._inbox
        taking = await self._connection.subscribe(
            f"{inbox}.*", cb=self._on_answer, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        await self._connection.flush()
        self._start = time.perf_counter() + START_IN_S
        for index, (due, plan) in enumerate(zip(self._due, planned, strict=True)):
            await self._until(index, self._start + due)
            self._late_us.append(int((time.perf_counter() - self._start - due) * 1e6))
            reply = f"{inbox}.{index}"
            if is_bare:
                await self._connection.publish(f"{subject}.{plan.player}", plan.body, reply=reply)
            else:
                target = f"{subject}.player.{plan.player}.CompleteQuest"
                await self._connection.publish(target, plan.body, headers={"Tally-Reply-To": reply})
        await self._drained()
        await taking.unsubscribe()
        return self._result()

    async def _until(self, index: int, at: float) -> None:
        if index % YIELD_EVERY == 0:
            await asyncio.sleep(0)
        if (wait_s := at - time.perf_counter()) > 0:
            await asyncio.sleep(wait_s)  # never returns early by more than the clock's resolution

    async def _drained(self) -> None:
        try:
            await asyncio.wait_for(self._all_came.wait(), GIVE_UP_AFTER_S)
        except TimeoutError:
            return

    async def _on_answer(self, message: Msg) -> None:
        index = int(message.subject[len(self._inbox) + 1 :])
        if self._latencies_us[index] >= 0:
            return
        after_s = time.perf_counter() - self._start
        self._latencies_us[index] = int((after_s - self._due[index]) * 1e6)
        self._answered_at.append(after_s)
        if self._is_good not in message.data:
            self._bad += 1
            self._example = self._example or message.data.decode(errors="replace")[:300]
        if len(self._answered_at) == len(self._due):
            self._all_came.set()

    def _result(self) -> dict[str, Any]:
        return {
            "sent": len(self._due),
            "answered": len(self._answered_at),
            "refused": self._bad,
            "example": self._example,
            "offered_s": self._due[-1],
            "answered_s": max(self._answered_at, default=0.0),
            "latencies_us": self._latencies_us,
            "late_us": self._late_us,
            "answered_at_s": [round(at, 4) for at in self._answered_at],
        }


def completion(tenant: str, quest: str, player: str) -> Planned:
    """The command as any service would write it."""
    body = {
        "specversion": "1.0",
        "id": f"{player}-open-loop-{quest}",
        "source": "//open-loop.example/service",
        "type": "complete-quest/1",
        "subject": f"player/{player}",
        "time": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        "tenantid": tenant,
        "datacontenttype": "application/json",
        "data": {"quest": quest, "elapsed_ms": 1_000},
    }
    return Planned(player, json.dumps(body, separators=(",", ":")).encode())


async def obey(connection: Any, order: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Carry out one order; what is published is composed, and the schedule made, before anything is sent."""
    players = [f"u{number:06d}" for number in range(arguments.players)]
    random.Random(arguments.seed).shuffle(players)
    planned = [completion(arguments.tenant, arguments.quest, player) for player in players]
    due = schedule(len(planned), arguments.rate, arguments.seed)
    gc.collect()
    gc.disable()  # a pause of ours is no latency of theirs
    try:
        match order["do"]:
            case "commands":
                return await Loop(connection, due, ACCEPTED).run(
                    planned, f"tally.cmd.{arguments.tenant}", is_bare=False
                )
            case "bare":
                return await Loop(connection, due, b'"seq"').run(planned, order["subject"], is_bare=True)
            case other:
                return {"error": f"unknown order {other!r}"}
    finally:
        gc.enable()


async def serve(arguments: argparse.Namespace) -> int:
    """Obey orders from standard input until it ends."""
    connecting = nats.connect(arguments.nats, name="open-loop", connect_timeout=2)
    connection = await asyncio.wait_for(connecting, CONNECT_WITHIN_S)
    try:
        orders = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(orders)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        while line := await orders.readline():
            print(json.dumps(await obey(connection, json.loads(line), arguments)), flush=True)
    finally:
        await connection.close()
    return 0


def main() -> int:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="open-loop", description="Publish on a fixed schedule; orders on stdin.")
    parser.add_argument("--nats", required=True, metavar="URL")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--quest", required=True)
    parser.add_argument("--players", type=int, required=True, help="how many; each completes once")
    parser.add_argument("--rate", type=float, default=2_000.0, help="publishes per second (default 2,000)")
    parser.add_argument("--seed", type=int, default=7, help="of the schedule and the order of players (default 7)")
    try:
        return asyncio.run(serve(parser.parse_args()))
    except (OSError, nats.errors.Error) as err:
        print(f"open-loop: no NATS server answers ({str(err) or type(err).__name__})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
