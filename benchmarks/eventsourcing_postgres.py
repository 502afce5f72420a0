"""The commit rate beside the same completion in the `eventsourcing` library on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import product
from statistics import median
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

from adapters.errors import TallyError
from benchmarks.backlog import Done, work_off
from benchmarks.crew import SERVERS_ONLY, Crew
from benchmarks.lab import Lab, lab
from benchmarks.measurement import Measurement
from benchmarks.programs import Programs
from simulations.burst import slices
from simulations.installation import run_async
from simulations.machine import cpu_seconds

COMPLETIONS_MAX: Final = 2_000
EVENTS_PER_PLAYER: Final = 7  # registered, accepted, completed, XP, badge; opened, minted
START_IN_S: Final = 0.5
MUST_BE_ON: Final = ("fsync", "synchronous_commit", "full_page_writes")
#: All of them are options that the library documents; the first is how it comes.
OPTIONS: Final[dict[str, dict[str, str]]] = {
    "defaults": {},
    "aggregates in memory": {
        "AGGREGATE_CACHE_MAXSIZE": "1000000",
        "AGGREGATE_CACHE_FASTFORWARD": "n",
        "DEEPCOPY_FROM_AGGREGATE_CACHE": "n",
    },
}
OPTIONS["aggregates in memory, database functions"] = {
    **OPTIONS["aggregates in memory"],
    "POSTGRES_ENABLE_DB_FUNCTIONS": "y",
}
CLIENTS: Final = (1, 2, 4)


class Theirs(NamedTuple):
    """A run of the library's application."""

    options: str
    clients: int
    per_second: float
    clients_cpu_s: float


def commit_vs_eventsourcing_postgres(*, rounds: int, size: int) -> Measurement:
    """Our completions/s from a backlog with one worker over theirs with one client, at its fastest options."""
    with lab(SERVERS_ONLY) as found:
        theirs = min(size, COMPLETIONS_MAX)
        return commit_vs_eventsourcing_postgres_on(found, rounds=rounds, size=size, theirs=theirs)


def commit_vs_eventsourcing_postgres_on(
    found: Lab,
    *,
    rounds: int,
    size: int,
    theirs: int,
    options: Sequence[str] = tuple(OPTIONS),
    counts: Sequence[int] = CLIENTS,
) -> Measurement:
    """On servers that run; ours and theirs take turns, the worker gone while they run."""
    if find_spec("psycopg_pool") is None:
        message = "the eventsourcing library needs psycopg-pool for PostgreSQL: pip install psycopg-pool"
        raise TallyError(message)
    settings = _require_durable(found)
    ours: list[Done] = []
    theirs_by_round: list[list[Theirs]] = []
    for number in range(rounds):
        with Crew(found) as crew:
            ours.append(run_async(work_off(found, crew, f"beside-postgres-{number}", size)))
        cases = product(options, counts)
        theirs_by_round.append([run_async(_theirs(found, *case, theirs, number)) for case in cases])
    details = {
        "completions": size,
        "completions_eventsourcing": theirs,
        "events_per_completion": 4,
        "postgres": settings,
        "options": OPTIONS,
        **found.details(),
    }
    return as_measurement(ours, theirs_by_round, details)


def as_measurement(ours: list[Done], theirs: list[list[Theirs]], details: dict[str, Any]) -> Measurement:
    """Ratios per round, the median of them: to one client and to the best number of clients, for each set of options.

    The headline is that to one client with the options that are the fastest for it in that round.
    """
    singles = [[one for one in of_round if one.clients == 1] for of_round in theirs]
    best_of_one = [max(one.per_second for one in of_round) for of_round in singles]
    return Measurement(
        value=round(_ratio(ours, best_of_one), 2),
        unit="times eventsourcing",
        of="completions of a backlog by one warm worker; baseline: the same completion in the eventsourcing library on "
        "PostgreSQL, completions/s of one client",
        baseline=round(median(best_of_one), 1),
        details={
            "completions_per_second": round(median(one.per_second for one in ours), 1),
            "eventsourcing_by_options": {
                options: _beside(ours, [[one for one in of_round if one.options == options] for of_round in theirs])
                for options in dict.fromkeys(one.options for one in theirs[0])
            },
            "rounds": [
                {"ours": done.as_json(), "eventsourcing": [one._asdict() for one in of_round]}
                for done, of_round in zip(ours, theirs, strict=True)
            ],
            **details,
        },
    )


def _beside(ours: list[Done], theirs: list[list[Theirs]]) -> dict[str, Any]:
    """Our ratios to one set of options, and the rates of that set by number of clients."""
    of_one = [next(one.per_second for one in of_round if one.clients == 1) for of_round in theirs]
    best = [max(one.per_second for one in of_round) for of_round in theirs]
    return {
        "ratio_to_one_client": round(_ratio(ours, of_one), 2),
        "ratio_to_best_number_of_clients": round(_ratio(ours, best), 2),
        "per_second_by_clients": {
            str(same[0].clients): round(median(one.per_second for one in same), 1) for same in zip(*theirs, strict=True)
        },
    }


def _ratio(ours: list[Done], theirs: list[float]) -> float:
    return median(done.per_second / rate for done, rate in zip(ours, theirs, strict=True))


def _require_durable(found: Lab) -> dict[str, str]:
    """What PostgreSQL is set to; raises `TallyError` unless a commit waits for the disk, as ours does."""
    names = (*MUST_BE_ON, "wal_sync_method", "shared_buffers", "server_version")
    with psycopg.connect(found.settings.postgres_dsn) as connection:
        rows = connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(names)])
        settings: dict[str, str] = dict(rows.fetchall())
    if off := [name for name in MUST_BE_ON if settings.get(name) != "on"]:
        message = f"PostgreSQL has {', '.join(off)} off: the comparison would be worthless"
        raise TallyError(message)
    return settings


async def _theirs(found: Lab, options: str, clients: int, completions: int, number: int) -> Theirs:
    prefix = f"r{number}-{list(OPTIONS).index(options)}-{clients}"
    arguments = [
        ["--prefix", prefix, "--first", str(share.first), "--count", str(share.players)]
        for share in slices(completions, clients)
    ]
    environ = {**_environ(found.settings.postgres_dsn), **OPTIONS[options]}
    environ["CREATE_TABLE"] = "y" if clients == 1 else "n"  # one client went before, and several at once collide
    async with Programs("eventsourcing_client", arguments, environ) as programs:
        await programs.order("set-up")
        cpu = _cpu(programs)
        answers = await programs.order("complete", at=time.time() + START_IN_S)
        used = _cpu(programs) - cpu
    if (events := sum(answer["events"] for answer in answers)) != EVENTS_PER_PLAYER * completions:
        message = f"eventsourcing stored {events:,} events of {completions:,} players, wanted {EVENTS_PER_PLAYER} each"
        raise TallyError(message)
    took_s = max(answer["ended"] for answer in answers) - min(answer["began"] for answer in answers)
    return Theirs(options, clients, round(completions / took_s, 1), round(used, 2))


def _cpu(programs: Programs) -> float:
    return sum(cpu_seconds(pid) or 0.0 for pid in programs.pids)


def _environ(dsn: str) -> dict[str, str]:
    """How the library is told of a database."""
    where = conninfo_to_dict(dsn)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(where["dbname"]),
        "POSTGRES_HOST": str(where["host"]),
        "POSTGRES_PORT": str(where["port"]),
        "POSTGRES_USER": str(where["user"]),
        "POSTGRES_PASSWORD": str(where["password"]),
    }
