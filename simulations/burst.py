"""Many players complete one quest at the same moment: the load, its measurement and the checks that nothing was lost.

Open loop: the schedule is fixed before the run, and latency counts from the intended start, whatever had to wait.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple, Self

from adapters.errors import TallyError
from adapters.settings import Settings
from projections.boards import quest_board, xp_board
from simulations.checks import (
    Finding,
    Official,
    check_board,
    check_books,
    check_completions,
    check_history,
    check_leaves,
    check_sizes,
    check_totals,
    check_types,
)
from simulations.installation import client_command, client_environment
from simulations.lag import EVENTS, Lag, Sampler, Samples, percentiles, settled
from simulations.progress import Progress
from simulations.stores import ANALYTICS, Stores, split_treasury

ELAPSED_MS_MIN, ELAPSED_MS_STEP = 1_000, 10
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
START_IN_S: Final = 1.0
SETTLE_PATIENCE_S: Final = 60.0
STOP_WITHIN_S: Final = 5.0


class Slice(NamedTuple):
    """The players of one client."""

    first: int
    players: int

    def finishes(self) -> dict[str, int]:
        """Player and elapsed_ms, as the client reports them."""
        return {f"u{self.first + at:06d}": ELAPSED_MS_MIN + ELAPSED_MS_STEP * at for at in range(self.players)}


def slices(completions: int, clients: int) -> list[Slice]:
    """The players shared out to the clients as evenly as it goes."""
    bounds = [completions * number // clients for number in range(clients + 1)]
    return [Slice(first, end - first) for first, end in pairwise(bounds) if end > first]


class Clients:
    """Several client processes that obey orders; an async context manager that leaves none behind."""

    def __init__(self, nats_url: str, tenant: str, quest: str, shares: Sequence[Slice], *, ack_every: int = 10) -> None:
        self._common = ["--nats", nats_url, "--tenant", tenant, "--quest", quest, "--ack-every", str(ack_every)]
        self._shares = shares
        self._processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        try:
            for share in self._shares:
                options = ["--first", str(share.first), "--count", str(share.players)]
                process = await asyncio.create_subprocess_exec(
                    *client_command("burst", *self._common, *options),
                    env=client_environment(),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=LINE_BYTES_MAX,
                    start_new_session=True,
                )
                self._processes.append(process)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_WITHIN_S)
            if process.returncode is None:
                process.kill()
                await process.wait()

    @property
    def pids(self) -> list[int]:
        """Their process numbers."""
        return [process.pid for process in self._processes]

    async def order(self, do: str, *, only_first: bool = False, **more: Any) -> list[dict[str, Any]]:
        """Give the same order to all at once, and wait for what each answers; raises `TallyError` when one fails."""
        chosen = self._processes[:1] if only_first else self._processes
        return list(await asyncio.gather(*(self._order(process, {"do": do, **more}) for process in chosen)))

    async def _order(self, process: asyncio.subprocess.Process, order: dict[str, Any]) -> dict[str, Any]:
        if process.stdin is None or process.stdout is None:
            message = "a client was started without pipes"
            raise TallyError(message)
        process.stdin.write(json.dumps(order).encode() + b"\n")
        line = await process.stdout.readline()
        if not line:
            message = f"a client process ended at {order['do']!r}: is the NATS server up (tally status)?"
            raise TallyError(message)
        answer: dict[str, Any] = json.loads(line)
        return answer


async def set_up(clients: Clients, progress: Progress, completions: int, *, is_new: bool = True) -> None:
    """Publish the quest, register the players if they are new, accept; raises `TallyError` when one is refused."""
    for at, (do, title) in enumerate((("quest", "quest"), ("register", "registering"), ("accept", "accepting"))):
        if do == "register" and not is_new:
            continue
        progress.show("setting up", at, 3, f"{title} {completions:,}")
        for answer in await clients.order(do, only_first=do == "quest"):
            if answer["refused"] or answer["answered"] != answer["sent"]:
                said = answer["example"] or f"{answer['answered']:,} of {answer['sent']:,} answered"
                message = f"set-up of the burst failed at {do!r}: {said}"
                raise TallyError(message)
    await clients.order("prepare")
    progress.clear()


@dataclass(kw_only=True)
class Burst:
    """What a burst was and how it went; times in seconds from the intended start."""

    quest: str
    finishes: Mapping[str, int]
    answers: Sequence[dict[str, Any]]
    started_at: float
    events_before: int
    events: int
    committed_at: float
    lags: dict[str, Lag]
    settled: bool

    @property
    def completions(self) -> int:
        return len(self.finishes)

    @property
    def latencies_us(self) -> list[int]:
        return [latency for answer in self.answers for latency in answer["latencies_us"] if latency >= 0]

    def total(self, key: str) -> int:
        """A count summed over the clients."""
        return sum(answer[key] for answer in self.answers)

    def accepted_s(self) -> float:
        """When the last publish was acknowledged by JetStream."""
        return max((at_us for answer in self.answers for at_us, _ in answer["acks"]), default=0) / 1e6

    def answered_s(self) -> float:
        """When the last outcome arrived."""
        return max(self.latencies_us, default=0) / 1e6

    def as_json(self) -> dict[str, Any]:
        """Everything for machines; rates count events of this burst from its intended start."""
        events = self.events - self.events_before
        refused = Counter[str]()
        for answer in self.answers:
            refused.update(answer["refused"])
        visible = {name: lag.complete_at - self.started_at for name, lag in self.lags.items() if lag.complete_at}
        return {
            "quest": self.quest,
            "completions": self.completions,
            "clients": len(self.answers),
            "answered": self.total("answered"),
            "refused": dict(refused),
            "resent": self.total("resent"),
            "events": events,
            "accepted": _rate(self.completions, self.accepted_s()),
            "outcomes": _rate(self.total("answered"), self.answered_s()),
            "committed": _rate(events, self.committed_at - self.started_at),
            "visible": {name: _rate(events, seconds) for name, seconds in visible.items()},
            "latency_ms": percentiles(self.latencies_us),
            "outcomes_per_second": _per_second(self.latencies_us),
            "lags": {name: lag._asdict() for name, lag in self.lags.items()},
        }


def _rate(count: int, seconds: float) -> dict[str, float]:
    return {
        "count": count,
        "seconds": round(seconds, 3),
        "per_second": round(count / seconds, 1) if seconds > 0 else 0.0,
    }


def _per_second(latencies_us: Sequence[int]) -> list[int]:
    counted = Counter(latency // 1_000_000 for latency in latencies_us)
    return [counted[second] for second in range(max(counted, default=-1) + 1)]


async def fire(clients: Clients, stores: Stores, quest: str, finishes: Mapping[str, int], progress: Progress) -> Burst:
    """All completions at one moment; returns when every projection shows them or none moves any more."""

    def on_sample(samples: Samples) -> None:
        grown = samples.latest[EVENTS] - before
        behind = "  ".join(
            f"{name} -{samples.latest[EVENTS] - at:,}" for name, at in samples.latest.items() if name != EVENTS
        )
        done = min(grown, events_expected - 1)
        progress.show("bursting", done, events_expected, f"{grown:,} events committed  {behind}")

    before = await stores.events()
    events_expected = 4 * len(finishes)
    async with Sampler(stores, on_sample) as samples:
        started_at = time.time() + START_IN_S
        answers = await clients.order("complete", at=started_at)
        is_settled = await settled(samples, patience_s=SETTLE_PATIENCE_S)
        events = await stores.events()
    progress.clear()
    return Burst(
        quest=quest,
        finishes=finishes,
        answers=answers,
        started_at=started_at,
        events_before=before,
        events=events,
        committed_at=samples.grown_at(),
        lags=samples.lags(),
        settled=is_settled,
    )


async def check(stores: Stores, burst: Burst, progress: Progress) -> list[Finding]:
    """Nothing lost, nothing doubled: every store against a fold of the event stream."""
    total = await stores.events()
    stream = await stores.fold(on_progress=lambda at: progress.show("checking", at, total, f"{at:,} events"))
    progress.clear()
    fold = stream.fold
    rows, leaves = await stores.rows_by_type(), stores.tree_size()
    accounts, treasury = split_treasury(await stores.tokens_in_postgres())
    official = {player: Official(elapsed, elapsed) for player, elapsed in burst.finishes.items()}
    board = await stores.board(quest_board(burst.quest))
    answered, refused = burst.total("answered"), sum(sum(answer["refused"].values()) for answer in burst.answers)
    outcomes = (
        f"{burst.completions:,} sent, {answered:,} answered, {refused:,} refused, {burst.total('resent'):,} sent again"
    )
    return [
        Finding("every command answered", answered == burst.completions and refused == 0, outcomes),
        check_completions(burst.quest, list(burst.finishes), fold),
        check_history(fold),
        check_sizes(fold.stream_seq, leaves, sum(rows.values())),
        check_leaves(stream.leaves_digest, stores.leaves_digest(leaves)),
        check_types("rows by type = events by type", rows, fold.types),
        check_board(burst.quest, board, official),
        check_totals(
            "XP",
            {
                "events": fold.xp,
                "PostgreSQL": await stores.xp_in_postgres(),
                "Redis": dict(await stores.board(xp_board())),
            },
        ),
        check_totals("tokens", {"events": fold.tokens, "PostgreSQL": accounts}),
        check_books(accounts, treasury),
    ]


async def run(
    settings: Settings, tenant: str, completions: int, client_count: int, progress: Progress
) -> tuple[Burst, list[Finding]]:
    """Set up, fire, check."""
    quest, shares = f"burst-{time.time_ns() // 1_000_000}", slices(completions, client_count)
    finishes = {player: elapsed for share in shares for player, elapsed in share.finishes().items()}
    async with Stores(settings, tenant) as stores:
        async with Clients(settings.nats_url, tenant, quest, shares) as clients:
            await set_up(clients, progress, completions)
            async with Sampler(stores) as samples:
                await settled(samples, patience_s=SETTLE_PATIENCE_S, besides=ANALYTICS)  # it commits by size and age
            burst = await fire(clients, stores, quest, finishes, progress)
        return burst, await check(stores, burst, progress)
