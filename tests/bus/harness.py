"""A partition over the ports in memory, and commands as a sender writes them."""

import asyncio
import itertools
import json

from bus import poison
from bus.joining import GroupCommit
from bus.memory import MemoryCommands, MemoryDeadLetters, MemoryEventStore, MemoryOutbox, MemorySnapshots, MemoryTurns
from bus.neighbours import Neighbours
from bus.owners import Room
from bus.partition import Partition
from bus.restoring import Restorer
from domain import catalogue

TENANT = "t"
PARTITIONS = 4
AGGREGATES = {
    "PublishQuest": "quest",
    "RetireQuest": "quest",
    "MintTokens": "token",
    "SpendTokens": "token",
    "TransferTokens": "token",
}
QUEST = {
    "title": "Q",
    "steps": [{"id": "s", "xp": 5}],
    "rewards": {"xp": 10, "tokens": 3, "badge": "b"},
    "divisions": [],
}


def kebab(name: str) -> str:
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-") + "/1"


def body_of(name: str, owner: str, data: dict, command_id: str, **changes) -> tuple[str, bytes]:
    aggregate = AGGREGATES.get(name, "player")
    body = {
        "specversion": "1.0",
        "id": command_id,
        "source": "//test",
        "type": kebab(name),
        "subject": f"{aggregate}/{owner}",
        "time": "2026-01-01T00:00:00.000Z",
        "data": data,
        **changes,
    }
    return aggregate, json.dumps(body).encode()


def curse(monkeypatch, *owners: str) -> set[str]:
    """Let our code fail for the token commands of whoever is in the set that is returned."""
    cursed, real = set(owners), catalogue.decide

    def decide(needed, command, states, at_ms):
        target = needed.writes[0]
        if target.id in cursed and target.aggregate == "token":
            raise ZeroDivisionError("made up")
        return real(needed, command, states, at_ms)

    monkeypatch.setattr(catalogue, "decide", decide)
    monkeypatch.setattr(poison, "TRY_AGAIN_S", 0.001)
    return cursed


class Grouped:
    """A store whose appends are joined as a worker joins them; all else is the store's."""

    def __init__(self, store, new_id):
        self._store = store
        group = GroupCommit(store.append, new_id)
        self.append, self.landed = group.append, group.landed

    def __getattr__(self, name):
        return getattr(self._store, name)


class Town:
    """All partitions of a tenant, run command by command."""

    def __init__(self, store=None, owners_max=1000):
        self.store = store or MemoryEventStore(TENANT)
        self.commands = MemoryCommands(TENANT, PARTITIONS)
        self.outbox = MemoryOutbox()
        self.dead = MemoryDeadLetters()
        self.snapshots = MemorySnapshots()
        self.neighbours = Neighbours(MemoryTurns())
        self.clock_ms = 1_767_225_600_000
        self.room = Room(owners_max)
        self.ids = itertools.count(1)
        self.grouped = Grouped(self.store, lambda: f"joined{next(self.ids)}")
        self.partitions = [self.partition(number) for number in range(PARTITIONS)]

    def partition(self, number: int) -> Partition:
        return Partition(
            tenant=TENANT,
            partition=number,
            partitions=PARTITIONS,
            store=self.grouped,
            commands=self.commands,
            outbox=self.outbox,
            dead=self.dead,
            restorer=Restorer(number, self.grouped, self.snapshots, self.store),
            neighbours=self.neighbours,
            room=self.room,
            now_ms=lambda: self.clock_ms,
            new_id=lambda: f"batch{next(self.ids)}",
        )

    async def send(
        self, name: str, owner: str, data: dict | None = None, command_id: str | None = None, **changes
    ) -> str:
        command_id = command_id or f"c{next(self.ids)}"
        aggregate, body = body_of(name, owner, data or {}, command_id, **changes)
        await self.commands.publish(aggregate, owner, name, body)
        return command_id

    async def drain(self, *numbers: int) -> None:
        """Let these partitions, or all, decide what lies before them, all at once."""
        async with asyncio.TaskGroup() as group:
            for partition in [self.partitions[number] for number in numbers] or self.partitions:
                group.create_task(self._drain(partition))

    async def _drain(self, partition: Partition) -> None:
        while True:
            source = await self.commands.open(partition.number, partition.decided_seq, partition.decided_ns)
            try:
                deliveries = await asyncio.wait_for(source.take(999), 0.01)
            except TimeoutError:
                return
            while deliveries:
                deliveries, tasks = await partition.prepare(deliveries)
                done = await partition.process(deliveries, tasks)
                del deliveries[:done]

    async def restart(self) -> None:
        self.partitions = [self.partition(number) for number in range(PARTITIONS)]
        await self.take_over()

    async def take_over(self) -> None:
        for partition in self.partitions:
            await partition.take_over()

    async def snapshot(self) -> None:
        for partition in self.partitions:
            await partition.snapshot()

    def outcomes(self, command_id: str) -> list[dict]:
        found = [json.loads(body) for _, body in self.outbox.sent]
        return [outcome for outcome in found if outcome["causationid"] == command_id]

    def outcome(self, command_id: str) -> tuple[str, object]:
        (found,) = self.outcomes(command_id)
        return said(found)

    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.store.events if b"commands-decided/1" not in body]


def said(outcome: dict) -> tuple[str, object]:
    if outcome["type"] == "command-accepted/1":
        return "accepted", [event["id"] for event in outcome["data"]["events"]]
    return ("refused" if outcome["type"] == "command-refused/1" else "parked"), outcome["data"]["code"]


async def town_with(*players: str, **options) -> Town:
    town = Town(**options)
    await town.take_over()
    await town.send("PublishQuest", "q", QUEST)
    for player in players:
        await town.send("RegisterPlayer", player)
    await town.drain()
    return town
