"""One of several services that report completions at the same moment; plain nats-py and JSON, nothing of ours.

    python -m simulations.clients.burst --nats URL --tenant T --quest Q --first 0 --count 1000

It reads one JSON order per line from standard input, answers each with one JSON line, and ends with its input:

    {"do": "quest"}       publish the quest
    {"do": "register"}    register the players (a second time is answered like the first)
    {"do": "accept"}      accept the quest for each
    {"do": "prepare"}     compose all completions
    {"do": "complete", "at": 1763721000.5}   publish them all at that moment (seconds since 1970), as fast as possible
    {"do": "load"}        publish them for a backlog: each acknowledged by JetStream, no outcome waited for

Latencies count from the intended start, whatever a publish waited for. Every tenth publish asks for JetStream's own
acknowledgement (on one connection it covers the ones before it); every command waits for its outcome.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import nats
from nats.aio.msg import Msg

WINDOW: Final = 5_000
SILENCE_S: Final = 5.0
GIVE_UP_AFTER_S: Final = 60.0
CONNECT_WITHIN_S: Final = 5.0
YIELD_EVERY: Final = 64
ELAPSED_MS_MIN, ELAPSED_MS_STEP = 1_000, 10


class Command(NamedTuple):
    """A command, ready to be published."""

    subject: str
    body: bytes


class Outcomes:
    """Publishes a list of commands and takes their outcomes; which one an outcome is for stands in its subject."""

    def __init__(self, connection: Any, commands: Sequence[Command], *, start: float, ack_every: int) -> None:
        self._connection = connection
        self._commands = commands
        self._start = start
        self._ack_every = ack_every
        self._inbox = connection.new_inbox()
        self._acks = connection.new_inbox()
        self._at = len(self._inbox) + 1
        self._acks_at = len(self._acks) + 1
        self._progress = asyncio.Event()
        self._heard_at = time.monotonic()
        self.latencies_us: list[int] = [-1] * len(commands)
        self.acks: list[tuple[int, int]] = []
        self.answered = 0
        self.resent = 0
        self.refused: Counter[str] = Counter()
        self.example = ""

    async def run(self, window: int) -> None:
        """Publish with at most so many unanswered, until each has its outcome or nothing comes any more."""
        listening = [
            await self._connection.subscribe(f"{inbox}.*", cb=taking, pending_msgs_limit=-1, pending_bytes_limit=-1)
            for inbox, taking in ((self._inbox, self._on_outcome), (self._acks, self._on_ack))
        ]
        await self._connection.flush()
        await asyncio.sleep(max(0.0, self._start - time.time()))
        self._heard_at = time.monotonic()
        total = len(self._commands)
        for index in range(total):
            while index - self.answered >= window:
                await self._hear()
            await self._publish(index, ack=(index + 1) % self._ack_every == 0 or index + 1 == total)
            if index % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        while self.answered < total and await self._hear():
            pass
        for subscription in listening:
            await subscription.unsubscribe()

    async def _publish(self, index: int, *, ack: bool) -> None:
        command = self._commands[index]
        reply = f"{self._acks}.{index}" if ack else ""
        headers = {"Tally-Reply-To": f"{self._inbox}.{index}"}
        with suppress(nats.errors.OutboundBufferLimitError):
            await self._connection.publish(command.subject, command.body, reply=reply, headers=headers)

    async def _hear(self) -> bool:
        """Wait for an outcome; after some silence send again what has none, after much of it return False."""
        self._progress.clear()
        try:
            await asyncio.wait_for(self._progress.wait(), SILENCE_S)
        except TimeoutError:
            if time.monotonic() - self._heard_at > GIVE_UP_AFTER_S:
                return False
            for index, latency in enumerate(self.latencies_us):
                if latency < 0:
                    self.resent += 1
                    await self._publish(index, ack=False)
        return True

    async def _on_outcome(self, message: Msg) -> None:
        index = int(message.subject[self._at :])
        self._heard_at = time.monotonic()
        if self.latencies_us[index] >= 0:
            return
        self.latencies_us[index] = int((time.time() - self._start) * 1e6)
        self.answered += 1
        if b'"command-accepted/1"' not in message.data:
            refusal = json.loads(message.data)["data"]
            self.refused[refusal["code"]] += 1
            self.example = self.example or refusal["message"]
        self._progress.set()

    async def _on_ack(self, message: Msg) -> None:
        if b'"error"' not in message.data:
            count = int(message.subject[self._acks_at :]) + 1
            self.acks.append((int((time.time() - self._start) * 1e6), count))

    def result(self) -> dict[str, Any]:
        """What became of the commands."""
        return {
            "sent": len(self._commands),
            "answered": self.answered,
            "refused": dict(self.refused),
            "example": self.example,
            "resent": self.resent,
        }


class Service:
    """One client process: its slice of the players and its connection."""

    def __init__(self, connection: Any, arguments: argparse.Namespace) -> None:
        self._connection = connection
        self._tenant = arguments.tenant
        self._quest = arguments.quest
        self._ack_every = arguments.ack_every
        self._players = [f"u{number:06d}" for number in range(arguments.first, arguments.first + arguments.count)]
        self._encode = json.JSONEncoder(separators=(",", ":")).encode
        self._completions: list[Command] = []

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order."""
        data: dict[str, Any]
        match order["do"]:
            case "quest":
                return await self._run([self._publish_quest()])
            case "register":
                data = {}
                return await self._run(
                    [
                        self._of("RegisterPlayer", "register-player/1", player, "register", data)
                        for player in self._players
                    ]
                )
            case "accept":
                data = {"quest": self._quest}
                what = f"accept-{self._quest}"
                return await self._run(
                    [self._of("AcceptQuest", "accept-quest/1", player, what, data) for player in self._players]
                )
            case "prepare":
                self._completions = [self._completion(index, player) for index, player in enumerate(self._players)]
                return {"prepared": len(self._completions)}
            case "complete":
                return await self._complete(float(order["at"]))
            case "load":
                return await self._load()
            case other:
                return {"error": f"unknown order {other!r}"}

    async def _run(self, commands: list[Command]) -> dict[str, Any]:
        outcomes = Outcomes(self._connection, commands, start=time.time(), ack_every=len(commands))
        await outcomes.run(WINDOW)
        return outcomes.result()

    async def _complete(self, at: float) -> dict[str, Any]:
        outcomes = Outcomes(self._connection, self._completions, start=at, ack_every=self._ack_every)
        await outcomes.run(len(self._completions) + 1)
        return {**outcomes.result(), "latencies_us": outcomes.latencies_us, "acks": outcomes.acks}

    async def _load(self) -> dict[str, Any]:
        acknowledged = asyncio.Event()
        missing = len(self._completions)

        async def on_ack(message: Msg) -> None:
            nonlocal missing
            missing -= b'"error"' not in message.data
            if missing == 0:
                acknowledged.set()

        inbox = self._connection.new_inbox()
        await self._connection.subscribe(inbox, cb=on_ack, pending_msgs_limit=-1, pending_bytes_limit=-1)
        began = time.time()
        for index, command in enumerate(self._completions):
            await self._connection.publish(command.subject, command.body, reply=inbox)
            if index % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        await asyncio.wait_for(acknowledged.wait(), GIVE_UP_AFTER_S)
        return {"sent": len(self._completions), "began": began, "acknowledged": time.time()}

    def _publish_quest(self) -> Command:
        data: dict[str, Any] = {
            "title": f"Burst {self._quest}",
            "steps": [],
            "rewards": {"xp": 100, "tokens": 5, "badge": "burst"},
            "opens_at": None,
            "closes_at": None,
            "divisions": [],
            "supply": None,
        }
        return self._command("PublishQuest", "publish-quest/1", ("quest", self._quest), f"quest-{self._quest}", data)

    def _completion(self, index: int, player: str) -> Command:
        elapsed_ms = ELAPSED_MS_MIN + ELAPSED_MS_STEP * index
        data = {"quest": self._quest, "elapsed_ms": elapsed_ms}
        return self._of("CompleteQuest", "complete-quest/1", player, f"complete-{self._quest}", data)

    def _of(self, name: str, kind: str, player: str, what: str, data: dict[str, Any]) -> Command:
        return self._command(name, kind, ("player", player), f"{player}-{what}", data)

    def _command(self, name: str, kind: str, target: tuple[str, str], command_id: str, data: dict[str, Any]) -> Command:
        aggregate, owner = target
        body = {
            "specversion": "1.0",
            "id": command_id,
            "source": "//burst.example/service",
            "type": kind,
            "subject": f"{aggregate}/{owner}",
            "time": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
            "tenantid": self._tenant,
            "datacontenttype": "application/json",
            "data": data,
        }
        return Command(f"tally.cmd.{self._tenant}.{aggregate}.{owner}.{name}", self._encode(body).encode())


async def serve(arguments: argparse.Namespace) -> int:
    """Obey orders from standard input until it ends."""

    async def ignore(_: Exception) -> None:
        """Every loss shows as a missing outcome."""

    connecting = nats.connect(
        arguments.nats,
        name="burst",
        connect_timeout=2,
        max_reconnect_attempts=120,
        reconnect_time_wait=0.5,
        error_cb=ignore,
    )
    connection = await asyncio.wait_for(connecting, CONNECT_WITHIN_S)
    try:
        service = Service(connection, arguments)
        orders = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(orders)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        while line := await orders.readline():
            print(json.dumps(await service.obey(json.loads(line))), flush=True)
    finally:
        await connection.close()
    return 0


def main() -> int:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="burst", description="One client of a burst; orders come on standard input.")
    parser.add_argument("--nats", required=True, metavar="URL")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--quest", required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first player")
    parser.add_argument("--count", type=int, required=True, help="how many players")
    parser.add_argument("--ack-every", type=int, default=10, help="ask JetStream to acknowledge every N-th publish")
    try:
        return asyncio.run(serve(parser.parse_args()))
    except (OSError, nats.errors.Error) as err:
        print(f"burst: no NATS server answers ({str(err) or type(err).__name__})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
