"""A service that keeps sending through crashes: plain nats-py and JSON, nothing of ours but the records it fills.

It publishes a command, waits for its outcome, and publishes it again with the same id when none came in time. Several
commands of one player are on their way at once; what it hears, and what the server acknowledges, is recorded.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import nats
from nats.aio.msg import Msg

from simulations.chaos_recording import Operation, Outcome, Publish

PATIENCE_S: Final = 2.0
LOOK_EVERY_S: Final = 0.25
#: Commands of one player that may be without an outcome at once.
IN_FLIGHT_MAX: Final = 4
GIVE_UP_AFTER_S: Final = 60.0
BADGES: Final = 50
QUEST_TOKENS: Final = 5
TYPES: Final = {
    "PublishQuest": ("quest", "publish-quest/1"),
    "RegisterPlayer": ("player", "register-player/1"),
    "AcceptQuest": ("player", "accept-quest/1"),
    "CompleteQuest": ("player", "complete-quest/1"),
    "MintTokens": ("token", "mint-tokens/1"),
    "SpendTokens": ("token", "spend-tokens/1"),
    "TransferTokens": ("token", "transfer-tokens/1"),
}


class _Sent:
    """One command on its way."""

    def __init__(self, operation: Operation, subject: str, body: bytes) -> None:
        self.operation = operation
        self.subject = subject
        self.body = body
        self.sent_at = 0.0


class Script(NamedTuple):
    """What a sender may choose from."""

    tenant: str
    players: Sequence[str]
    others: Sequence[str]


class Sender:
    """One connection of one service; its players are its own, so that the order of their commands is defined."""

    def __init__(self, number: int, script: Script, seed: str) -> None:
        self.number = number
        self._script = script
        self._random = random.Random(seed)
        self._connection: Any = None
        self._sent: list[_Sent] = []
        self._open: dict[int, _Sent] = {}
        self._in_flight: Counter[str] = Counter()
        self._published = 0
        self._heard_at = 0.0
        self._quests: Counter[str] = Counter()

    @property
    def operations(self) -> list[Operation]:
        """Everything that was sent, with what was heard of it."""
        return [sent.operation for sent in self._sent]

    @property
    def unanswered(self) -> int:
        """Commands without an outcome."""
        return len(self._open)

    async def connect(self, urls: list[str]) -> None:
        """Connect, for ever."""

        async def ignore(_: Exception) -> None:
            """Every loss shows as a missing outcome."""

        self._connection = await nats.connect(
            urls,
            name=f"chaos-sender-{self.number}",
            connect_timeout=2,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,
            ping_interval=2,
            max_outstanding_pings=2,
            error_cb=ignore,
        )
        self._inbox = self._connection.new_inbox()
        self._acks = self._connection.new_inbox()
        await self._connection.subscribe(f"{self._inbox}.*", cb=self._on_outcome)
        await self._connection.subscribe(f"{self._acks}.*.*", cb=self._on_ack)
        await self._connection.flush()

    async def close(self) -> None:
        """Leave."""
        if self._connection is not None:
            await self._connection.close()

    async def prepare(self) -> None:
        """Publish the quests (the first sender alone) and register the players."""
        if self.number == 0:
            for quest, supply in (("open", None), ("few", BADGES)):
                data: dict[str, Any] = {
                    "title": quest,
                    "steps": [],
                    "rewards": {"xp": 10, "tokens": QUEST_TOKENS, "badge": "b"},
                    "supply": supply,
                }
                await self._send("PublishQuest", quest, data)
        for player in self._script.players:
            await self._send("RegisterPlayer", player, {})
        await self.drain()

    async def run(self, rate: float, until: float) -> None:
        """Send at this rate, by a schedule that waits for nobody, until a moment of `time.monotonic`."""
        due = time.monotonic()
        looked_at = due
        while (now := time.monotonic()) < until:
            if now - looked_at > LOOK_EVERY_S:
                looked_at = now
                await self._send_again()
            while due <= now:
                due += 1 / rate
                await self._send_something()
            await asyncio.sleep(max(0.001, due - time.monotonic()))

    async def drain(self) -> None:
        """Send again what has no outcome, until each has one or nothing comes any more."""
        self._heard_at = time.monotonic()
        while self._open and time.monotonic() - self._heard_at < GIVE_UP_AFTER_S:
            await asyncio.sleep(0.05)
            await self._send_again()

    async def _send_something(self) -> None:
        chance = self._random
        player = chance.choice(self._script.players)
        kind, amount = chance.random(), chance.randint(1, 9)
        other = chance.choice(self._script.others)
        if self._in_flight[player] >= IN_FLIGHT_MAX:
            return
        if kind < 0.1 and self._quests[player] < 6:
            await self._go_on_with_a_quest(player)
        elif kind < 0.5:
            await self._send("MintTokens", player, {"amount": amount, "reason": "chaos"}, (player, amount))
        elif kind < 0.8:
            await self._send("SpendTokens", player, {"amount": amount, "reason": "chaos"}, (player, -amount))
        elif other != player:
            data = {"recipient": other, "amount": amount, "reason": "chaos"}
            await self._send("TransferTokens", player, data, (player, -amount), (other, amount))

    async def _go_on_with_a_quest(self, player: str) -> None:
        """Accept and complete each quest, and complete it once more, which is refused."""
        at = self._quests[player]
        self._quests[player] += 1
        quest, name = ("open", "few")[at // 3], ("AcceptQuest", "CompleteQuest", "CompleteQuest")[at % 3]
        data: dict[str, Any] = {"quest": quest}
        if name == "CompleteQuest":
            await self._send(name, player, {**data, "elapsed_ms": 1000}, (player, QUEST_TOKENS))
        else:
            await self._send(name, player, data)

    async def _send(self, name: str, owner: str, data: dict[str, Any], *moves: tuple[str, int]) -> None:
        aggregate, kind = TYPES[name]
        index = len(self._sent)
        command_id = f"s{self.number}-{index}"
        body = {
            "specversion": "1.0",
            "id": command_id,
            "source": "//chaos.example/service",
            "type": kind,
            "subject": f"{aggregate}/{owner}",
            "time": "2026-01-01T00:00:00.000Z",
            "tenantid": self._script.tenant,
            "data": data,
        }
        subject = f"tally.cmd.{self._script.tenant}.{aggregate}.{owner}.{name}"
        operation = Operation(command_id, owner, self.number, moves, [], [])
        sent = _Sent(operation, subject, json.dumps(body).encode())
        self._sent.append(sent)
        self._open[index] = sent
        self._in_flight[owner] += 1
        await self._publish(index, sent)

    async def _send_again(self) -> None:
        late = time.monotonic() - PATIENCE_S
        if not self._connection.is_connected:
            return
        for index, sent in list(self._open.items()):
            if sent.sent_at < late:
                await self._publish(index, sent)

    async def _publish(self, index: int, sent: _Sent) -> None:
        publishes: Any = sent.operation.publishes
        reply = f"{self._acks}.{index}.{len(publishes)}"
        self._published += 1
        publishes.append(Publish(self._published, time.time_ns() // 1_000_000, None))
        sent.sent_at = time.monotonic()
        headers = {"Tally-Reply-To": f"{self._inbox}.{index}"}
        await self._connection.publish(sent.subject, sent.body, reply=reply, headers=headers)

    async def _on_outcome(self, message: Msg) -> None:
        index = int(message.subject.rpartition(".")[2])
        told = json.loads(message.data)
        sent = self._sent[index]
        outcome = Outcome(told["type"], told["subject"], told["data"], time.time_ns() // 1_000_000)
        outcomes: Any = sent.operation.outcomes
        outcomes.append(outcome)
        self._heard_at = time.monotonic()
        if self._open.pop(index, None) is not None:
            self._in_flight[sent.operation.owner] -= 1

    async def _on_ack(self, message: Msg) -> None:
        _, index, number = message.subject.rsplit(".", 2)
        ack = json.loads(message.data) if message.data else {}
        if "seq" in ack:
            publishes: Any = self._sent[int(index)].operation.publishes
            publishes[int(number)] = publishes[int(number)]._replace(seq=int(ack["seq"]))
