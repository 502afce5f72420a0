"""Segments of a million players and 200 quests: our bitmaps over NATS, beside PostgreSQL and Redis sets in one run."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import psycopg
import redis

from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.queries import segments as queries
from adapters.queries.endpoint import Asked, endpoint
from adapters.queries.segments import Find
from adapters.queries.service import QueryServices
from adapters.segments import Segment, SegmentFollower
from benchmarks.crew import SERVERS_ONLY
from benchmarks.lab import TENANT, Lab, lab
from benchmarks.measurement import Measurement
from bus.follower import Position
from projections.segments import Fact
from simulations.installation import run_async
from simulations.lag import percentiles
from simulations.machine import resident_bytes

PLAYERS: Final = 1_000_000
QUESTS: Final = 200
ATTEMPTS_EACH: Final = 5
ZONES: Final = 20
NOW_S: Final = 1_800_000_000
SEED: Final = 2014
QUESTIONS: Final = 1_000
#: The slower ways are asked less often; the same filters.
QUESTIONS_OTHERS: Final = 60
LIMIT_MS: Final = 50.0
NAMED: Final = 100
Ask = Callable[[dict[str, Any]], int]


class Crowd:
    """Players as a table of plain values: zone, level, balance, last second, status by quest."""

    def __init__(self, size: int) -> None:
        dice = random.Random(SEED)
        self.zone = [dice.randrange(ZONES) for _ in range(size)]
        self.level = [1 + int(dice.expovariate(0.3)) for _ in range(size)]
        self.balance = [int(dice.expovariate(0.01)) for _ in range(size)]
        self.second = [NOW_S - int(dice.expovariate(1 / 86_400)) for _ in range(size)]
        #: Some quests are played by nearly half of the crowd, some by hardly anybody.
        weights = [1 / (1 + quest) for quest in range(QUESTS)]
        chosen = dice.choices(range(QUESTS), weights, k=ATTEMPTS_EACH * size)
        statuses = dice.choices(["running", "completed", "abandoned"], [3, 6, 1], k=ATTEMPTS_EACH * size)
        self.quests = [
            dict(zip(chosen[at : at + ATTEMPTS_EACH], statuses[at : at + ATTEMPTS_EACH], strict=True))
            for at in range(0, ATTEMPTS_EACH * size, ATTEMPTS_EACH)
        ]

    def __len__(self) -> int:
        return len(self.zone)

    def facts(self) -> Iterator[Fact]:
        """What the index is told."""
        for number in range(len(self)):
            player = f"u{number:07d}"
            yield Fact(player, "registered", "", None)
            yield Fact(player, "group", "zone", f"z{self.zone[number]}")
            yield Fact(player, "number", "level", self.level[number])
            yield Fact(player, "number", "balance", self.balance[number])
            yield Fact(player, "number", "second", self.second[number])
            for quest, status in self.quests[number].items():
                yield Fact(player, "quest", f"q{quest}", status)


def filters(count: int) -> list[dict[str, Any]]:
    """Filters as programmes ask them, from three to five terms."""
    dice = random.Random(SEED + 1)
    made = []
    for _ in range(count):
        terms: list[dict[str, Any]] = [
            {"zone": f"z{dice.randrange(ZONES)}"},
            {"quest": f"q{dice.randrange(QUESTS)}", "status": "completed"},
            {"quest": f"q{dice.randrange(10)}", "status": "not-started"},
            {"level": {"at_least": dice.randrange(1, 8)}},
            {"balance": {"at_least": dice.randrange(200)}},
            {"active_within_s": dice.choice([900, 3_600, 86_400])},
            {"any": [{"quest": f"q{dice.randrange(5)}", "status": "completed"}, {"zone": f"z{dice.randrange(ZONES)}"}]},
        ]
        made.append({"all": dice.sample(terms, dice.randint(3, 5))})
    return made


def segment_p99_ms(*, rounds: int, size: int) -> Measurement:
    """A million players, however many the others are measured with."""
    del size
    with lab(SERVERS_ONLY) as found:
        return segment_p99_ms_on(found, rounds=rounds, size=PLAYERS)


def segment_p99_ms_on(found: Lab, *, rounds: int, size: int, questions: int = QUESTIONS) -> Measurement:
    """The same filters put to our query service, to PostgreSQL and to Redis; all must count the same."""
    crowd, asked = Crowd(size), filters(questions)
    few = asked[: min(QUESTIONS_OTHERS, questions)]
    ours, sizes, built, memory = run_async(_ours(found, crowd, asked, rounds))
    with psycopg.connect(found.settings.postgres_dsn, autocommit=True) as connection:
        sql, sql_sizes = _timed(_postgres(connection, crowd), few)
    with redis.Redis.from_url(found.settings.redis_url, socket_timeout=120) as client:
        sets, sets_sizes = _timed(_redis(client, crowd), few)
    if not sizes[: len(few)] == sql_sizes == sets_sizes:
        message = "the three ways do not count the same players: no figure"
        raise ValueError(message)
    postgres, redis_sets = percentiles(sql), percentiles(sets)
    return Measurement(
        value=round(ours["p99"], 2),
        unit="ms p99",
        of=f"members and count of a segment of {size:,} players and {QUESTS} quests, over NATS",
        baseline=LIMIT_MS,
        details={
            "ours_ms": ours,
            "postgres_ms": postgres,
            "redis_sets_ms": redis_sets,
            "questions": {"ours": rounds * len(asked), "others": len(few)},
            "players_named": NAMED,
            "sizes": {"smallest": min(sizes), "largest": max(sizes)},
            "facts_per_second_while_built": round(built),
            "bytes_of_memory_each": round(memory / size),
            **found.details(),
        },
    )


async def _ours(
    found: Lab, crowd: Crowd, asked: list[dict[str, Any]], rounds: int
) -> tuple[dict[str, float], list[int], float, int]:
    """Latencies by percentile in ms, the sizes, facts taken in per second, bytes; asked over an own connection."""
    client = await connect(found.settings.nats_url, "tally-bench")
    described = await streams.describe(client, TENANT)
    follower = SegmentFollower(found.settings.data_dir / "bench.index")
    facts = list(crowd.facts())
    resident = resident_bytes(os.getpid()) or 0
    began = time.perf_counter()
    follower._index.apply(facts)  # noqa: SLF001 - a million registrations over the stream measure the stream
    built = len(facts) / (time.perf_counter() - began)
    memory = (resident_bytes(os.getpid()) or 0) - resident
    del facts
    follower._position = Position(described.events.created, 0, "")  # noqa: SLF001

    @endpoint("segment.find", example=queries.find.query.example)
    async def find(asked: Asked[Find]) -> Segment:
        """As the service's own, at a clock that stands still: the three ways must count the same."""
        request = asked.request
        return follower.find(request.filter, limit=request.limit, after=request.after, now_s=NOW_S)

    stop, ready = asyncio.Event(), asyncio.Event()
    served = QueryServices(found.settings, frozenset({TENANT}), served=[find])
    services = asyncio.create_task(served.run(stop, ready))
    try:
        await ready.wait()
        spent, sizes = [], []
        for number in range(rounds):
            for term in asked:
                body = json.dumps({"filter": term, "limit": NAMED}).encode()
                start = time.perf_counter()
                answer = await client.request(f"tally.q.{TENANT}.segment.find", body, timeout=10)
                spent.append(1e6 * (time.perf_counter() - start))
                if number == 0:
                    sizes.append(json.loads(answer.data)["size"])
    finally:
        stop.set()
        await services
        await client.close()
    return percentiles(spent), sizes, built, memory


def _timed(ask: Ask, asked: list[dict[str, Any]]) -> tuple[list[float], list[int]]:
    spent, sizes = [], []
    for term in asked:
        start = time.perf_counter()
        sizes.append(ask(term))
        spent.append(1e6 * (time.perf_counter() - start))
    return spent, sizes


# -- PostgreSQL: rows and the indexes that serve


def _postgres(connection: psycopg.Connection, crowd: Crowd) -> Ask:
    connection.execute("CREATE SCHEMA IF NOT EXISTS bench_segments")
    connection.execute("SET search_path = bench_segments")
    connection.execute("CREATE TABLE p (id int PRIMARY KEY, zone text, level int, balance bigint, second bigint)")
    connection.execute("CREATE TABLE a (quest text, status text, id int)")
    with connection.cursor().copy("COPY p FROM STDIN") as rows:
        for number in range(len(crowd)):
            numbers = crowd.level[number], crowd.balance[number], crowd.second[number]
            rows.write_row((number, f"z{crowd.zone[number]}", *numbers))
    with connection.cursor().copy("COPY a FROM STDIN") as rows:
        for number, quests in enumerate(crowd.quests):
            for quest, status in quests.items():
                rows.write_row((f"q{quest}", status, number))
    for index in ("p (zone)", "p (level)", "p (balance)", "p (second)", "a (quest, status, id)", "a (id, quest)"):
        connection.execute(f"CREATE INDEX ON {index}")
    connection.execute("VACUUM ANALYZE p, a")

    def ask(term: dict[str, Any]) -> int:
        where = _sql(term)
        row = connection.execute(f"SELECT count(*) FROM p WHERE {where}").fetchone()  # noqa: S608 - our own filters
        connection.execute(f"SELECT id FROM p WHERE {where} ORDER BY id LIMIT {NAMED}").fetchall()  # noqa: S608
        return int(row[0]) if row else 0

    return ask


def _sql(term: dict[str, Any]) -> str:
    match term:
        case {"all": inner}:
            return "(" + " AND ".join(map(_sql, inner)) + ")"
        case {"any": inner}:
            return "(" + " OR ".join(map(_sql, inner)) + ")"
        case {"zone": zone}:
            return f"zone = '{zone}'"
        case {"quest": quest, "status": "not-started"}:
            return f"NOT EXISTS (SELECT FROM a WHERE a.id = p.id AND a.quest = '{quest}')"
        case {"quest": quest, "status": status}:
            return f"EXISTS (SELECT FROM a WHERE a.id = p.id AND a.quest = '{quest}' AND a.status = '{status}')"
        case {"level": {"at_least": least}}:
            return f"level >= {least}"
        case {"balance": {"at_least": least}}:
            return f"balance >= {least}"
        case {"active_within_s": seconds}:
            return f"second >= {NOW_S - seconds}"
        case _:
            raise ValueError(term)


# -- Redis: a set for each zone and status, a sorted set for each number


def _redis(client: redis.Redis, crowd: Crowd) -> Ask:
    sets: dict[str, list[int]] = {"everyone": list(range(len(crowd)))}
    for number, quests in enumerate(crowd.quests):
        sets.setdefault(f"z{crowd.zone[number]}", []).append(number)
        for quest, status in quests.items():
            sets.setdefault(f"q{quest}:{status}", []).append(number)
            sets.setdefault(f"q{quest}:started", []).append(number)
    for name, members in sets.items():
        for at in range(0, len(members), 10_000):
            client.sadd(f"bench:{name}", *members[at : at + 10_000])
    for name, values in (("level", crowd.level), ("balance", crowd.balance), ("second", crowd.second)):
        for at in range(0, len(values), 10_000):
            some = values[at : at + 10_000]
            client.zadd(f"bench:{name}", {str(number): value for number, value in enumerate(some, at)})
    return _Sets(client).ask


class _Sets:
    """Filters as Redis combines sets: every step into a key of its own, removed in the end."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._made: list[str] = []

    def ask(self, term: dict[str, Any]) -> int:
        found_in = self._key(term)
        size = int(self._client.execute_command("ZCARD", found_in))
        self._client.execute_command("ZRANGE", found_in, 0, NAMED - 1)
        self._client.delete(*self._made)
        self._made.clear()
        return size

    def _new(self, command: str, *words: str) -> str:
        into = f"bench:tmp:{len(self._made)}"
        self._made.append(into)
        self._client.execute_command(command, into, *words)
        return into

    def _at_least(self, name: str, value: int) -> str:
        return self._new("ZRANGESTORE", f"bench:{name}", str(value), "+inf", "BYSCORE")

    def _key(self, term: dict[str, Any]) -> str:
        match term:
            case {"all": inner}:
                names = [self._key(each) for each in inner]
                return self._new("ZINTERSTORE", str(len(names)), *names)
            case {"any": inner}:
                return self._new("SUNIONSTORE", *(self._key(each) for each in inner))
            case {"zone": zone}:
                return f"bench:{zone}"
            case {"quest": quest, "status": "not-started"}:
                return self._new("SDIFFSTORE", "bench:everyone", f"bench:{quest}:started")
            case {"quest": quest, "status": status}:
                return f"bench:{quest}:{status}"
            case {"active_within_s": seconds}:
                return self._at_least("second", NOW_S - seconds)
            case _:
                ((name, bounds),) = term.items()
                return self._at_least(name, bounds["at_least"])
