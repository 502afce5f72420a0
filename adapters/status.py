"""How an installation stands: each tenant's events, its log, how far each projection is behind; changes nothing."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from nats.aio.client import Client

from adapters import timers
from adapters.bucket_state import PublicationStatus, publication_status
from adapters.generations import PROJECTIONS, Generations, generations
from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.jetstream.messages import message_at, stream_info
from adapters.root_status import RootsStatus, roots_status
from adapters.settings import Settings
from adapters.witness_status import describe_witnesses, evidence_of_fork
from bus import subjects
from bus.errors import BusError, WrongStream
from bus.follower import Position
from ledger.checkpoint import parse_checkpoint
from ledger.errors import LedgerError
from ledger.files import Folder
from ledger.reader import LogReader
from ledger.tiles import CHECKPOINT
from projections.errors import ProjectionError
from projections.generations import LIVE

TIMERS = "timers"


@dataclass(frozen=True, kw_only=True)
class FollowerStatus:
    """`behind_s` is the age of the oldest event that is not yet applied; `problem` says why nothing is known.

    `parked` says in one line which events wait because they could not be projected (docs/projections.md).
    """

    name: str
    stream_seq: int | None = None
    behind_events: int | None = None
    behind_s: float | None = None
    problem: str | None = None
    parked: str = ""


@dataclass(frozen=True, kw_only=True)
class LogStatus:
    """The published head: nothing of it is verified here (tally audit does)."""

    tree_size: int
    root: str
    chain_head: str
    checkpoint_age_s: float
    witnesses: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TenantStatus:
    """`problem` says why nothing more can be told of the tenant."""

    tenant: str
    events: int
    #: In the queue; what was decided within the last seconds of a busy worker is among them.
    commands_waiting: int
    log: LogStatus | None
    followers: tuple[FollowerStatus, ...]
    roots: RootsStatus = field(default_factory=RootsStatus)
    publication: PublicationStatus | None = None
    problem: str | None = None

    @property
    def ok(self) -> bool:
        if self.problem is not None:
            return False
        is_alarmed = self.roots.alarms or (self.publication is not None and self.publication.alarm)
        return all(follower.problem is None for follower in self.followers) and not is_alarmed


async def look(settings: Settings) -> list[TenantStatus]:
    """Return the status of every tenant; raises TallyError or BusError when NATS does not answer."""
    client = await connect(settings.nats_url, "tally-status", patience_s=1.0)
    try:
        return [await _told(client, settings, name) for name in await streams.tenants(client)]
    finally:
        await client.close()


async def _told(client: Client, settings: Settings, tenant: str) -> TenantStatus:
    """The status of a tenant; what is wrong with one does not hide the others."""
    try:
        return await _tenant(client, settings, tenant)
    except WrongStream as err:
        return TenantStatus(tenant=tenant, events=0, commands_waiting=0, log=None, followers=(), problem=str(err))


async def _tenant(client: Client, settings: Settings, tenant: str) -> TenantStatus:
    events = await stream_info(client, subjects.events_stream(tenant))
    published = await asyncio.to_thread(_log, settings, tenant)
    log = published if isinstance(published, LogStatus) else None
    if streams.is_being_restored(events):
        return _restored_so_far(tenant, int(events["state"]["last_seq"]), log)
    commands = await stream_info(client, subjects.commands_stream(tenant))
    problem = published if isinstance(published, str) else None
    signer = FollowerStatus(name="signer", stream_seq=log.tree_size if log else 0, problem=problem)
    # Made before anybody connects: what they import takes seconds on a busy machine, and connections would time out.
    stores = [generations(name, settings, tenant) for name in PROJECTIONS]
    asked = [*((store.name, _standing(store)) for store in stores), (TIMERS, _timers(settings, tenant))]
    projectors = await asyncio.gather(*(_projector(name, position) for name, position in asked))
    followers = [await _behind(client, events, follower) for follower in (signer, *projectors)]
    return TenantStatus(
        tenant=tenant,
        events=int(events["state"]["last_seq"]),
        commands_waiting=int(commands["state"]["messages"]),
        log=log,
        followers=tuple(followers),
        roots=await asyncio.to_thread(roots_status, settings, tenant),
        publication=await asyncio.to_thread(publication_status, settings, tenant),
    )


def _restored_so_far(tenant: str, events: int, log: LogStatus | None) -> TenantStatus:
    """A tenant on which nothing may run yet."""
    of = f" of {log.tree_size:,}" if log else ""
    problem = (
        f"is being restored, {events:,}{of} events so far: nothing runs until tally restore has ended; "
        "if it was stopped, run it again"
    )
    return TenantStatus(tenant=tenant, events=events, commands_waiting=0, log=log, followers=(), problem=problem)


async def _projector(name: str, standing: Awaitable[tuple[Position | None, str]]) -> FollowerStatus:
    try:
        position, parked = await standing
    except (ProjectionError, BusError) as err:
        return FollowerStatus(name=name, problem=str(err))
    return FollowerStatus(name=name, stream_seq=position.stream_seq if position else 0, parked=parked)


async def _standing(store: Generations) -> tuple[Position | None, str]:
    standing = await store.standing(LIVE)
    return (standing.position, standing.parked) if standing else (None, "")


async def _timers(settings: Settings, tenant: str) -> tuple[Position | None, str]:
    return await timers.read_position(settings, tenant), ""


async def _behind(client: Client, events: dict[str, dict[str, int]], follower: FollowerStatus) -> FollowerStatus:
    """Complete a follower's status with how far it is behind; positions move on while we look."""
    if follower.stream_seq is None or follower.problem is not None:
        return follower
    behind = max(0, int(events["state"]["last_seq"]) - follower.stream_seq)
    age_s = 0.0
    if behind:
        try:
            found = await message_at(client, str(events["config"]["name"]), follower.stream_seq + 1)
        except BusError as err:
            return FollowerStatus(name=follower.name, stream_seq=follower.stream_seq, problem=str(err))
        if found is not None:
            age_s = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(found[2])).total_seconds())
    return replace(follower, behind_events=behind, behind_s=round(age_s, 3))


def _log(settings: Settings, tenant: str) -> LogStatus | str | None:
    """Return the head of the published log, None before the first checkpoint, or what is wrong with it."""
    folder = Folder(settings.log_dir / tenant)
    try:
        stopped = evidence_of_fork(settings.keys_dir / tenant)
        if stopped is not None:
            return stopped
        data = folder.read(CHECKPOINT)
        if data is None:
            return None
        checkpoint, _ = parse_checkpoint(CHECKPOINT, data)
        link = LogReader(folder, checkpoint.tree_size).link(checkpoint.tree_size)
        age_s = max(0.0, time.time() - (folder.root / CHECKPOINT).stat().st_mtime)
    except (LedgerError, OSError) as err:
        return str(err)
    return LogStatus(
        tree_size=checkpoint.tree_size,
        root=checkpoint.root.hex(),
        chain_head=link.hex(),
        checkpoint_age_s=round(age_s, 3),
        witnesses=describe_witnesses(folder.root, time.time_ns() // 1_000_000),
    )
