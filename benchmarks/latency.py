"""How long a command waits for its outcome at 2,000 commands/s, beside a bare publish-and-acknowledge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, Final

from nats.aio.client import Client

from adapters.errors import TallyError
from adapters.jetstream.connection import api, connect
from adapters.supervisor import FOLLOWER_GROUPS
from benchmarks.backlog import set_up
from benchmarks.crew import SERVERS_ONLY, Crew
from benchmarks.disk import fsync_ms
from benchmarks.lab import TENANT, Lab, clients_of, lab
from benchmarks.measurement import Measurement
from benchmarks.pace import host_took
from benchmarks.programs import Programs
from simulations.burst import SETTLE_PATIENCE_S
from simulations.installation import run_async
from simulations.lag import Sampler, percentiles, settled
from simulations.stores import ANALYTICS, Stores

RATE: Final = 2_000
SECONDS_MAX: Final = 20
SEED: Final = 7
LIMIT_MS: Final = 40.0
BARE_STREAM: Final = "BARE_latency"
BARE_SUBJECT: Final = "bare.latency"
COMMANDS, BARE = "commands", "bare"
WORKER_ONLY, EVERYTHING = "worker only", "everything running"
Round = dict[str, dict[str, Any]]


def command_p99_ms_at_2000(*, rounds: int, size: int) -> Measurement:
    """Command to outcome, p99, a worker and the servers; in details with signer and projectors too."""
    with lab(SERVERS_ONLY) as found:
        return command_p99_ms_at_2000_on(found, rounds=rounds, size=min(size, RATE * SECONDS_MAX))


def command_p99_ms_at_2000_on(found: Lab, *, rounds: int, size: int) -> Measurement:
    """On servers that run; commands and bare publishes take turns."""
    run_async(_create_bare_stream(found))
    fsyncs = [fsync_ms(found.settings.data_dir)]
    with Crew(found):
        alone = [run_async(_round(found, f"p99-alone-{number}", size, number)) for number in range(rounds)]
        with ExitStack() as followers:
            for group in FOLLOWER_GROUPS:
                followers.enter_context(Crew(found, group=group))
            everything = [run_async(_with_all(found, f"p99-all-{number}", size, number)) for number in range(rounds)]
    fsyncs.append(fsync_ms(found.settings.data_dir))
    details = {
        "commands": size,
        "rate": RATE,
        "seed": SEED,
        "arrivals": "independent (exponential gaps), fixed before the run; latency from the intended start",
        "intake": "fast",
        "bare": "JetStream publish of the same bodies by the same client to a plain file stream of the same server",
        "limit_ms": LIMIT_MS,
        "fsync_ms_before_and_after": fsyncs,
        **found.details(),
    }
    return as_measurement({WORKER_ONLY: alone, EVERYTHING: everything}, details)


def as_measurement(done: dict[str, list[Round]], details: dict[str, Any]) -> Measurement:
    """Medians over the rounds of each percentile; the value is that of the worker alone."""
    both = {
        running: {
            COMMANDS: _medians([one[COMMANDS]["latency_ms"] for one in rounds]),
            BARE: _medians([one[BARE]["latency_ms"] for one in rounds]),
            "p99_ratio": round(
                median(one[COMMANDS]["latency_ms"]["p99"] / one[BARE]["latency_ms"]["p99"] for one in rounds), 2
            ),
        }
        for running, rounds in done.items()
    }
    return Measurement(
        value=both[WORKER_ONLY][COMMANDS]["p99"],
        unit="ms, p99",
        of=f"command to outcome, open loop at {RATE:,} commands/s, one worker; "
        "baseline: p99 of a bare publish-and-acknowledge",
        baseline=both[WORKER_ONLY][BARE]["p99"],
        details={"latency_ms": both, "rounds": done, **details},
    )


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(median(one[name] for one in rounds), 3) for name in rounds[0]}


async def _with_all(found: Lab, quest: str, size: int, number: int) -> Round:
    """A round once every projection is at the end of the stream."""
    async with Stores(found.settings, TENANT) as stores, Sampler(stores) as samples:
        if not await settled(samples, patience_s=SETTLE_PATIENCE_S, besides=ANALYTICS):
            message = "the projections do not reach the end of the stream"
            raise TallyError(message)
    return await _round(found, quest, size, number)


async def _round(found: Lab, quest: str, size: int, number: int) -> Round:
    async with clients_of(found.settings, quest, size) as clients:
        await set_up(found, clients, quest, size)
    arguments = ["--nats", found.settings.nats_url, "--tenant", TENANT, "--quest", quest, "--players", str(size)]
    arguments += ["--rate", str(RATE), "--seed", str(SEED + number)]
    results: Round = {}
    async with Programs("open_loop_client", [arguments]) as client:
        for do in (BARE, COMMANDS) if number % 2 == 0 else (COMMANDS, BARE):
            took = host_took()
            (answer,) = await client.order(do, subject=BARE_SUBJECT)
            results[do] = summary(answer) | {"host_took": took()}
    return results


def summary(answer: dict[str, Any]) -> dict[str, Any]:
    """Percentiles and counts of one run; raises `TallyError` unless every publish has its good answer."""
    if answer["answered"] != answer["sent"] or answer["refused"]:
        message = (
            f"{answer['sent']:,} published, {answer['answered']:,} answered, {answer['refused']:,} refused: "
            f"{answer['example'] or 'no answer came'}"
        )
        raise TallyError(message)
    return {
        "sent": answer["sent"],
        "answered": answer["answered"],
        "offered_per_second": round(answer["sent"] / answer["offered_s"], 1),
        "achieved_per_second": round(answer["answered"] / answer["answered_s"], 1),
        "drained_after_s": round(answer["answered_s"] - answer["offered_s"], 4),
        "latency_ms": percentiles(answer["latencies_us"]),
        "client_late_ms": percentiles(answer["late_us"]),
        "answered_in_each_second": _in_each_second(answer["answered_at_s"]),
    }


def _in_each_second(answered_at_s: Sequence[float]) -> list[int]:
    counts: dict[int, int] = defaultdict(int)
    for at in answered_at_s:
        counts[int(at)] += 1
    return [counts[second] for second in range(max(counts, default=-1) + 1)]


async def _create_bare_stream(found: Lab) -> None:
    client: Client = await connect(found.settings.nats_url, "tally-bench")
    config = {
        "name": BARE_STREAM,
        "subjects": [f"{BARE_SUBJECT}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": 1,
        "discard": "new",
        "max_age": 0,
    }
    try:
        answer = await api(client, f"STREAM.CREATE.{BARE_STREAM}", config)
    finally:
        await client.close()
    if "error" in answer:
        message = f"stream {BARE_STREAM} was not created: {answer['error'].get('description')}"
        raise TallyError(message)
