"""How fast a crowd completes one quest whose supply is limited, beside a quest without limit; who got the supply."""

from __future__ import annotations

from statistics import median
from typing import Any, Final, NamedTuple

from adapters.errors import TallyError
from adapters.jetstream.connection import connect
from adapters.jetstream.streams import describe
from benchmarks.backlog import Done, work_off
from benchmarks.bare import read_messages
from benchmarks.crew import SERVERS_ONLY, Crew
from benchmarks.hot_check import faults
from benchmarks.lab import CLIENTS, TENANT, Lab, lab
from benchmarks.measurement import Measurement
from bus import subjects
from simulations.burst import slices
from simulations.installation import run_async

WORKERS: Final = (1, 4)
#: Of 100,000 completions: the first 500, and half of all.
SHARES: Final = (200, 2)


class Case(NamedTuple):
    """So many workers, such a supply (None: without limit)."""

    workers: int
    supply: int | None

    def __str__(self) -> str:
        """As in `details`."""
        supply = "ordinary" if self.supply is None else f"supply {self.supply}"
        return f"{supply}, {self.workers} worker{'s' * (self.workers > 1)}"


def hot_quest_vs_ordinary(*, rounds: int, size: int) -> Measurement:
    """The least favourable of small and large supply, 1 and 4 workers, over an ordinary quest with as many workers."""
    with lab(SERVERS_ONLY) as found:
        return hot_quest_vs_ordinary_on(found, rounds=rounds, size=size)


def hot_quest_vs_ordinary_on(found: Lab, *, rounds: int, size: int, counts: tuple[int, ...] = WORKERS) -> Measurement:
    """On servers that run; hot and ordinary take turns; raises `TallyError` when the supply went wrong."""
    supplies: list[int | None] = [max(1, size // share) for share in SHARES]
    done: dict[Case, list[Done]] = {Case(workers, supply): [] for workers in counts for supply in (None, *supplies)}
    for number in range(rounds):
        for workers in counts:
            with Crew(found, workers) as crew:
                for supply in (None, *supplies):
                    case = Case(workers, supply)
                    quest = f"hot-{workers}-{supply or 0}-{number}"
                    done[case].append(run_async(work_off(found, crew, quest, size, supply=supply)))
                    if supply is not None:
                        run_async(_check(found, quest, supply, size, done[case][-1]))
    return as_measurement(done, {"completions": size, **found.details()})


def as_measurement(done: dict[Case, list[Done]], details: dict[str, Any]) -> Measurement:
    """Ratios per round and number of workers; the value is the worst of their medians."""
    rates = {case: median(one.per_second for one in rounds) for case, rounds in done.items()}
    ratios = {
        case: median(
            hot.per_second / ordinary.per_second
            for hot, ordinary in zip(rounds, done[Case(case.workers, None)], strict=True)
        )
        for case, rounds in done.items()
        if case.supply is not None
    }
    worst = min(ratios, key=lambda case: ratios[case])
    return Measurement(
        value=round(ratios[worst], 4),
        unit="of the ordinary rate",
        of=f"simultaneous completions of a quest with limited supply, the worst case ({worst}); "
        "baseline: completions/s of an ordinary quest with as many workers",
        baseline=round(rates[Case(worst.workers, None)], 1),
        details={
            "completions_per_second": {str(case): round(rate, 1) for case, rate in rates.items()},
            "ratio": {str(case): round(ratio, 4) for case, ratio in ratios.items()},
            "checked": "each round: exactly the supply granted, to the first completions in the order of EVENTS, "
            "commands of a partition decided in their order",
            "rounds": {str(case): [one.as_json() for one in rounds] for case, rounds in done.items()},
            **details,
        },
    )


async def _check(found: Lab, quest: str, supply: int, size: int, done: Done) -> None:
    client = await connect(found.settings.nats_url, "tally-bench")
    try:
        partitions = (await describe(client, TENANT)).partitions
        messages = await read_messages(client, TENANT, done.first_seq - 1, done.last_seq)
    finally:
        await client.close()
    ends = [share.first + share.players for share in slices(size, CLIENTS)]

    def turn(player: str) -> tuple[tuple[int, int], int]:
        number = int(player.removeprefix("u"))
        client_number = next(at for at, end in enumerate(ends) if number < end)
        return (client_number, subjects.partition_of(player, partitions)), number

    bodies = (message.body for message in messages)
    if wrong := faults(bodies, quest, supply=supply, completions=size, turn=turn):
        message = f"{quest}: {'; '.join(wrong)}"
        raise TallyError(message)
