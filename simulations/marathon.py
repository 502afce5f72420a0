"""The marathon from end to end: the client publishes, the projections are watched, everything is checked."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from adapters.ending import ended
from adapters.errors import TallyError
from adapters.settings import Settings
from projections.boards import quest_board, xp_board
from simulations.checks import (
    Board,
    Finding,
    check_board,
    check_books,
    check_history,
    check_leaves,
    check_moments,
    check_sizes,
    check_totals,
    check_types,
    merge,
    read_official,
)
from simulations.installation import client_command, client_environment
from simulations.lag import EVENTS, Lag, Sampler, Samples, settled
from simulations.moments import Moment, watch
from simulations.prediction import Prediction, predict, read_rows
from simulations.progress import Progress
from simulations.stores import Stores, Stream, split_treasury

QUEST: Final = "boston-2014"
COMMAND_PREFIX: Final = "m14-"
SETTLE_PATIENCE_S: Final = 60.0
STOP_WITHIN_S: Final = 5.0


@dataclass(kw_only=True)
class Replay:
    """How the replay went."""

    client: dict[str, Any]
    seconds: float
    events_before: int
    events: int
    lags: dict[str, Lag] = field(default_factory=dict)
    moments: Sequence[Moment] = ()
    settled: bool = True

    def refusals(self) -> Finding:
        """Whether every command was accepted."""
        refused: dict[str, int] = self.client["refused"]
        if not refused:
            return Finding("every command accepted", ok=True, detail=f"{self.client['accepted']:,} accepted, 0 refused")
        code = max(refused, key=lambda each: refused[each])
        detail = f"{sum(refused.values()):,} refused, e.g. {code}: {self.client['examples'][code]}"
        return Finding("every command accepted", ok=False, detail=detail)

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "commands": {key: self.client[key] for key in ("sent", "accepted", "refused", "resent")},
            "seconds": round(self.seconds, 3),
            "events": self.events,
            "events_new": self.events - self.events_before,
            "lags": {name: lag._asdict() for name, lag in self.lags.items()},
        }


async def replay(settings: Settings, tenant: str, players: int | None, progress: Progress) -> Replay:
    """Run the client as a process of its own until it ends, then wait for the projections.

    Raises `TallyError` when the client gives up.
    """
    async with Stores(settings, tenant) as stores:
        events_before = await stores.events()
        state: dict[str, Any] = {"stage": "connecting", "total": 1, "accepted": 0, "refused": {}, "sent": 0}
        began = time.time()

        def on_sample(samples: Samples) -> None:
            if state.get("done"):
                return
            answered = state["accepted"] + sum(state["refused"].values())
            rate = answered / max(0.001, time.time() - began)
            behind = "  ".join(f"{name} -{samples.latest[EVENTS] - at:,}" for name, at in _projections(samples))
            progress.show("replaying", answered, state["total"], f"{answered:,} commands  {rate:,.0f}/s  {behind}")

        async with Sampler(stores, on_sample) as samples:
            async with _watching(stores) as moments:
                await _run_client(settings, tenant, players, state)
                seconds = time.time() - began
                progress.clear()
                is_settled = await _settle(samples, progress)
            events = await stores.events()
        return Replay(
            client=state,
            seconds=seconds,
            events_before=events_before,
            events=events,
            lags=samples.lags(),
            settled=is_settled,
            moments=moments,
        )


@asynccontextmanager
async def _watching(stores: Stores) -> AsyncIterator[list[Moment]]:
    """Note now and then what the boards hold, and once more at the end."""
    boards = [xp_board(), quest_board(QUEST), quest_board(QUEST, "runners")]
    moments: list[Moment] = []

    async def look() -> Moment:
        return await stores.moment(boards)

    watching = asyncio.create_task(watch(look, moments))
    try:
        yield moments
    finally:
        await ended(watching)
    moments.append(await look())


def _projections(samples: Samples) -> list[tuple[str, int]]:
    return [(name, at) for name, at in samples.latest.items() if name != EVENTS]


async def _settle(samples: Samples, progress: Progress) -> bool:
    waiting = asyncio.create_task(settled(samples, patience_s=SETTLE_PATIENCE_S))
    while not waiting.done():
        if samples.latest:
            slowest, at = min(_projections(samples), key=lambda one: one[1])
            progress.show(
                "catching up", at, samples.latest[EVENTS], f"{slowest} at {at:,} of {samples.latest[EVENTS]:,}"
            )
        await asyncio.wait((waiting,), timeout=0.2)
    progress.clear()
    return waiting.result()


async def _run_client(settings: Settings, tenant: str, players: int | None, state: dict[str, Any]) -> None:
    """Start the client, keep `state` at what it last said; whatever happens, the process is gone afterwards."""
    arguments = ["--nats", settings.nats_url, "--tenant", tenant]
    if players is not None:
        arguments += ["--players", str(players)]
    process = await asyncio.create_subprocess_exec(
        *client_command("marathon", *arguments),
        env=client_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        if process.stdout is None or process.stderr is None:
            message = "the client was started without pipes"
            raise TallyError(message)
        async for line in process.stdout:
            state.update(json.loads(line))
        words = (await process.stderr.read()).decode(errors="replace").strip()
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_WITHIN_S)
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not state.get("done"):
        said = words.splitlines()[-1] if words else f"the client ended with exit code {process.returncode}"
        message = f"{said}; the logs are in {settings.data_dir / 'logs'}"
        raise TallyError(message)


async def check(
    settings: Settings, tenant: str, players: int | None, progress: Progress, moments: Sequence[Moment]
) -> list[Finding]:
    """Every check after a replay, on the real stores; `moments` of the replay are compared with the fold."""
    prediction = predict(read_rows(players))
    async with Stores(settings, tenant) as stores:
        total = await stores.events()
        stream = await stores.fold(
            COMMAND_PREFIX, lambda at: progress.show("checking", at, total, f"{at:,} events"), moments
        )
        progress.clear()
        registered = stream.fold.own.types["player-registered/1"]
        if registered > prediction.players:
            message = f"tenant {tenant} holds {registered:,} runners already: check with --players {registered} or more"
            raise TallyError(message)
        findings = await _check_boards(stores, stream, players)
        findings.append(check_moments(moments, stream.at))
        findings += await _check_counts(stores, stream, prediction)
        findings += await _check_sums(stores, stream, prediction)
    return findings


async def _check_boards(stores: Stores, stream: Stream, players: int | None) -> list[Finding]:
    """Whoever else finished this quest, by commands of other senders, has no official rank and is left out."""
    ours = stream.fold.own.finishers
    findings = []
    for division, official in read_official(players).items():
        board = [entry for entry in await stores.board(quest_board(QUEST, division)) if entry[0] in ours]
        findings.append(check_board(division, board, official))
    return merge("boards in official order", sorted(findings, key=lambda finding: finding.name.count("-")))


async def _check_counts(stores: Stores, stream: Stream, prediction: Prediction) -> list[Finding]:
    fold = stream.fold
    rows, leaves = await stores.rows_by_type(), stores.tree_size()
    return [
        check_sizes(fold.stream_seq, leaves, sum(rows.values())),
        check_leaves(stream.leaves_digest, stores.leaves_digest(leaves)),
        check_types("rows by type = events by type", rows, fold.types),
        check_types("domain events = prediction", fold.own.types, prediction.events),
        check_history(fold),
    ]


async def _check_sums(stores: Stores, stream: Stream, prediction: Prediction) -> list[Finding]:
    fold = stream.fold
    redis = dict(await stores.board(xp_board()))
    postgres = await stores.xp_in_postgres()
    accounts, treasury = split_treasury(await stores.tokens_in_postgres())
    return [
        check_totals("XP predicted", {"prediction": prediction.xp, "events": fold.own.xp}),
        check_totals("XP", {"events": fold.xp, "PostgreSQL": postgres, "Redis": redis}),
        check_totals("tokens predicted", {"prediction": prediction.tokens, "events": fold.own.tokens}),
        check_totals("tokens", {"events": fold.tokens, "PostgreSQL": accounts}),
        check_totals("treasury", {"events": {"treasury": fold.treasury}, "PostgreSQL": {"treasury": treasury}}),
        check_books(accounts, treasury),
    ]


async def top(settings: Settings, tenant: str, lines: int) -> Board:
    """The first of the runners as the leaderboard has them."""
    async with Stores(settings, tenant) as stores:
        return (await stores.board(quest_board(QUEST, "runners")))[:lines]


def official_top(lines: int, players: int | None) -> Sequence[tuple[int, str, str, int]]:
    """Official rank, start-number, country and time of the first runners."""
    countries = {f"b{row['bib']}": row["country"] for row in read_rows(players)}
    official = sorted(read_official(players)["runners"].items(), key=lambda entry: entry[1].rank)
    return [(entry.rank, player, countries[player], entry.elapsed_ms) for player, entry in official[:lines]]
