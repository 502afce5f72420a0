"""How long Redis works on one question about a leaderboard, as it counts itself, with a million members."""

from __future__ import annotations

import random
import secrets
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from statistics import median
from typing import Any, Final

import redis.asyncio as redis

from adapters.redis_boards import LeaderboardFollower
from adapters.redis_keys import Keys, connect
from adapters.redis_ranks import Boards
from benchmarks.crew import SERVERS_ONLY
from benchmarks.lab import TENANT, Lab, lab
from benchmarks.measurement import Measurement
from bus.envelope import JSON, EventEnvelope, Recorded, encode_data, encode_event, schema_of, source_of
from bus.follower import StreamIdentity
from domain.player import QUEST_COMPLETED, QuestCompleted
from projections.boards import Board, quest_board
from projections.leaderboards import apart
from simulations.installation import run_async

MEMBERS: Final = 1_000_000
SEED: Final = 2014
#: So many scores for so many members: every score has ties.
SCORES: Final = 200_000
BATCH: Final = 10_000
QUESTIONS: Final = 2_000
FRIENDS: Final = 50
LIMIT_US: Final = 1_000.0
#: Reported beside the others: it is asked for with a word of its own, and is a `ZRANK` for each friend.
PLACES: Final = f"{FRIENDS} friends, and where each stands on the board"
PERCENTILES: Final = "50 99 99.9"
#: How a question comes to Redis, where not as a script; a transaction's time has all of its commands.
COMMANDS: Final = {f"{FRIENDS} friends": "exec"}
Ask = Callable[[Boards, str, int], Awaitable[Any]]


def _asked(board: Board, names: list[str]) -> dict[str, Ask]:
    return {
        "rank, dense rank and percentile": lambda boards, player, _: boards.rank(board, player),
        "neighbours, 5 on either side": lambda boards, player, _: boards.around(board, player, 5),
        "top 10": lambda boards, *_: boards.top(board, 10),
        "page of 50 anywhere": lambda boards, _, at: boards.page(board, at, 50),
        f"{FRIENDS} friends": lambda boards, _, at: boards.friends(board, _friends(names, at)),
    }


def _friends(names: list[str], at: int) -> list[str]:
    return [names[at - each] for each in range(FRIENDS)]


def _with_places(board: Board, names: list[str]) -> Ask:
    return lambda boards, _, at: boards.friends(board, _friends(names, at), with_places=True)


def rank_us(*, rounds: int, size: int) -> Measurement:
    """Server-side time of the slowest kind of question, p99; a million members, whatever `size` says."""
    del size
    with lab(SERVERS_ONLY) as found:
        return rank_us_on(found, rounds=rounds, size=MEMBERS)


def rank_us_on(found: Lab, *, rounds: int, size: int, questions: int = QUESTIONS) -> Measurement:
    """The same on servers that run, with so many members."""
    return run_async(_measure(found, rounds, size, questions))


async def _measure(found: Lab, rounds: int, size: int, questions: int) -> Measurement:
    tenant = f"{TENANT}-{secrets.token_hex(4)}"
    board = quest_board("ranks")
    names = [f"player-{number:07d}" for number in range(size)]
    await _fill(found, tenant, names)
    client = connect(found.settings)
    dice = random.Random(SEED)
    kinds = _asked(board, names)
    taken: dict[str, list[dict[str, float]]] = {kind: [] for kind in (*kinds, PLACES, "bare ZRANK")}
    try:
        await client.config_set("latency-tracking-info-percentiles", PERCENTILES)
        boards = Boards(client, tenant)
        if await boards.size(board) != size:
            message = f"{await boards.size(board):,} of {size:,} members are on the board: no figure"
            raise ValueError(message)
        for _ in range(rounds):
            for kind, ask in {**kinds, PLACES: _with_places(board, names)}.items():
                await client.config_resetstat()
                for _ in range(questions):
                    at = dice.randrange(size)
                    await ask(boards, names[at], at)
                taken[kind].append(await _of_server(client, COMMANDS.get(kind, "evalsha")))
            taken["bare ZRANK"].append(await _bare(client, Keys(tenant), board, names, questions, dice))
    finally:
        await client.aclose()
    by_kind = {kind: {key: median(one[key] for one in of) for key in of[0]} for kind, of in taken.items()}
    worst = max(kinds, key=lambda kind: by_kind[kind]["p99"])
    return Measurement(
        value=by_kind[worst]["p99"],
        unit="microseconds, p99",
        of=f"{worst}, time inside of Redis, {size:,} members; baseline: a millisecond",
        baseline=LIMIT_US,
        details={"microseconds": by_kind, "rounds": taken, "members": size, "seed": SEED, **found.details()},
    )


async def _of_server(client: redis.Redis, command: str) -> dict[str, float]:
    """What the server counted for a command since the last reset: mean, and percentiles."""
    mean = (await client.info("commandstats"))[f"cmdstat_{command}"]["usec_per_call"]
    found = (await client.info("latencystats"))[f"latency_percentiles_usec_{command}"]
    return {"mean": float(mean), **{name: float(value) for name, value in found.items()}}


async def _bare(
    client: redis.Redis, keys: Keys, board: Board, names: list[str], questions: int, dice: random.Random
) -> dict[str, float]:
    """One ZRANK of a member that is known: the least that any of the questions costs."""
    members, ranked, _ = keys.of_board(board.name)
    asked = [names[dice.randrange(len(names))] for _ in range(questions)]
    standings: Any = await client.hmget(members, asked)
    await client.config_resetstat()
    for standing, player in zip(standings, asked, strict=True):
        await client.zrank(ranked, f"{apart(standing)[0]}{player}")
    return await _of_server(client, "zrank")


async def _fill(found: Lab, tenant: str, names: list[str]) -> None:
    """Everybody completes, through the follower as always."""
    follower = LeaderboardFollower(found.settings)
    await follower.open(tenant, StreamIdentity(f"EVENTS_{tenant}", "2026-01-01T00:00:00Z"))
    try:
        events = _completions(tenant, names)
        while batch := list(islice(events, BATCH)):
            await follower.apply(batch)
    finally:
        await follower.close()


def _completions(tenant: str, names: list[str]) -> Iterator[Recorded]:
    dice = random.Random(SEED)
    for seq, player in enumerate(names, 1):
        completed = QuestCompleted(
            quest="ranks",
            attempt=1,
            elapsed_ms=7_000_000 + dice.randrange(SCORES),
            steps_reached=0,
            steps_total=0,
            divisions=(),
        )
        event = EventEnvelope(
            specversion="1.0",
            id=f"player.{player}.1",
            source=source_of(tenant),
            type=QUEST_COMPLETED,
            subject=f"player/{player}",
            time="2014-04-21T16:00:00.000Z",
            recordedtime="2014-04-21T16:00:00.000Z",
            datacontenttype=JSON,
            dataschema=schema_of(QUEST_COMPLETED),
            tenantid=tenant,
            aggregateversion=1,
            causationid=f"c{seq}",
            data=encode_data(completed),
        )
        yield Recorded(seq, encode_event(event))
