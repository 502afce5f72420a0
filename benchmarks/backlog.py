"""A backlog of completions: loaded while no worker runs, then decided and committed; how fast."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from nats.aio.client import Client

from adapters.errors import TallyError
from adapters.jetstream.connection import connect
from adapters.jetstream.messages import last_message, message_at, stream_info
from benchmarks.crew import Crew, clock
from benchmarks.lab import POLL_S, TENANT, Lab, clients_of, sizes
from bus import subjects
from simulations.burst import Clients

DEADLINE_S: Final = 300.0
OUTCOME_WITHIN_S: Final = 30.0
BADGE: Final = "burst"
EVENTS_ORDINARY: Final = 4
#: With limited supply: who takes some has a badge and writes the quest, who comes late has neither.
EVENTS_SUPPLIED, EVENTS_LATE = 5, 3


class Done(NamedTuple):
    """How a backlog went; sequences of the event stream, seconds since the clock started."""

    first_seq: int
    last_seq: int
    batches: int
    seconds: float
    first_commit_s: float
    load_s: float
    per_second: float
    cpu_s: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Rounded, for `details`."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in self._asdict().items()}


def events_of(completions: int, supply: int | None) -> int:
    """How many events, inboxes not counted, so many completions of a quest with this supply make."""
    if supply is None:
        return EVENTS_ORDINARY * completions
    supplied = min(supply, completions)
    return EVENTS_SUPPLIED * supplied + EVENTS_LATE * (completions - supplied)


async def work_off(
    found: Lab, crew: Crew, quest: str, size: int, *, supply: int | None = None, ended_by: signal.Signals | None = None
) -> Done:
    """Prepare, load a backlog while no worker runs, start the clock as they go on; returns when all is committed.

    `ended_by` None: the workers are stopped where they stand and keep the players in memory. A signal: they are ended
    by it right after the players accepted the quest, others are started and held; the clock starts when these, all
    imported, may begin, so that connecting, taking over and restoring count.
    """
    async with clients_of(found.settings, quest, size) as clients:
        await set_up(found, clients, quest, size, supply=supply)
        events, inboxes = await sizes(found.settings)
        if ended_by is None:
            await clients.order("prepare")
            async with crew.standing_still():
                loaded = await clients.order("load")
                used = clock(found, crew)
        else:
            crew.end(ended_by)  # at once after the last acceptance: no idle second in which to write snapshots
            await clients.order("prepare")
            loaded = await clients.order("load")
            crew.hold()
            used = clock(found, crew)
            crew.begin()
        wanted = events_of(size, supply)
        done = await _wait_for(found, events, inboxes, wanted, crew.began_at, used)
    load_s = max(one["acknowledged"] for one in loaded) - min(one["began"] for one in loaded)
    return done._replace(load_s=load_s, per_second=size / done.seconds)


async def set_up(found: Lab, clients: Clients, quest: str, size: int, *, supply: int | None = None) -> None:
    """Publish the quest, register the players whom nobody has yet, accept the quest for each."""
    client = await connect(found.settings.nats_url, "tally-bench")
    try:
        await publish_quest(client, quest, supply)
        last_player = subjects.event(TENANT, "player", f"u{size - 1:06d}")
        is_new = await last_message(client, subjects.events_stream(TENANT), last_player) is None
    finally:
        await client.close()
    if is_new:
        _require_all(await clients.order("register"))
    _require_all(await clients.order("accept"))


def _require_all(answers: Sequence[dict[str, Any]]) -> None:
    for answer in answers:
        if answer["refused"] or answer["answered"] != answer["sent"]:
            said = answer["example"] or f"{answer['answered']:,} of {answer['sent']:,} answered"
            message = f"the players could not be set up: {said}"
            raise TallyError(message)


async def publish_quest(client: Client, quest: str, supply: int | None) -> None:
    """Publish a quest like the burst's, its supply limited or not; raises `TallyError` unless it is accepted."""
    inbox = client.new_inbox()
    outcomes = await client.subscribe(inbox)
    rewards = {"xp": 100, "tokens": 5, "badge": BADGE}
    command = {
        "specversion": "1.0",
        "id": f"quest-{quest}",
        "source": "//bench.example/service",
        "type": "publish-quest/1",
        "subject": f"quest/{quest}",
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "tenantid": TENANT,
        "datacontenttype": "application/json",
        "data": {
            "title": f"Bench {quest}",
            "steps": [],
            "rewards": rewards,
            "opens_at": None,
            "closes_at": None,
            "divisions": [],
            "supply": supply,
        },
    }
    subject = subjects.command(TENANT, "quest", quest, "PublishQuest")
    await client.publish(subject, json.dumps(command).encode(), headers={"Tally-Reply-To": inbox})
    outcome = json.loads((await outcomes.next_msg(timeout=OUTCOME_WITHIN_S)).data)
    await outcomes.unsubscribe()
    if outcome["type"] != "command-accepted/1":
        message = f"the quest was refused: {outcome['data'].get('message')}"
        raise TallyError(message)


async def _wait_for(
    found: Lab, events: int, inboxes: int, wanted: int, began: float, used: Callable[[], dict[str, float]]
) -> Done:
    """Wait until so many events came; when the last one did is what the server says."""
    client = await connect(found.settings.nats_url, "tally-bench")
    stream = subjects.events_stream(TENANT)
    body = {"subjects_filter": f"tally.evt.{TENANT}.{subjects.INBOX}.*"}
    deadline = time.monotonic() + DEADLINE_S
    try:
        while time.monotonic() < deadline:
            state = (await stream_info(client, stream, body=body))["state"]
            batches = sum((state.get("subjects") or {}).values()) - inboxes
            if (came := state["last_seq"] - events - batches) > wanted:
                message = f"{came:,} events were committed, {wanted:,} wanted: something was done twice"
                raise TallyError(message)
            if came == wanted:
                first = await message_at(client, stream, events + 1)
                return Done(
                    first_seq=events + 1,
                    last_seq=int(state["last_seq"]),
                    batches=batches,
                    seconds=_seconds(state["last_ts"]) - began,
                    first_commit_s=_seconds(first[2]) - began if first else 0.0,
                    load_s=0.0,
                    per_second=0.0,
                    cpu_s=used(),
                )
            await asyncio.sleep(POLL_S)
    finally:
        await client.close()
    message = f"{wanted:,} events were not committed within {DEADLINE_S:.0f} s"
    raise TallyError(message)


def _seconds(time_of_server: str) -> float:
    return datetime.fromisoformat(time_of_server).timestamp()
