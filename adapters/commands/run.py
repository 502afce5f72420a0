"""`tally run GROUP`: one process of the installation; the composition root, where ports meet their adapters."""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import nats.errors
import uvloop
from nats.aio.client import Client

from adapters.ending import ended
from adapters.errors import TallyError
from adapters.feed import SharedRead, keep_following, keep_pumping
from adapters.generations import PROJECTIONS, follower_maker
from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.publisher import Publisher
from adapters.queries import catalogue
from adapters.settings import Settings
from adapters.worker import OWNERS_MAX, Worker
from bus.errors import BusError, WrongStream
from bus.follower import Follower

HELP = "run one process: worker, queries, publisher, signer, leaderboards, readmodels, analytics, timers, or several"

log = logging.getLogger(__name__)

WORKER: Final = "worker"
QUERIES: Final = "queries"
PUBLISHER: Final = "publisher"
#: Follower that is no projection -> (module, class, setting that must be known); a process imports only what it hosts.
OTHERS: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "signer": ("adapters.signer", "Signer", ("log_dir", "keys_dir")),
    "timers": ("adapters.timers", "TimersFollower", ("nats_url",)),
}
FOLLOWERS: Final = ("signer", *PROJECTIONS, "timers")
GROUPS: Final = (WORKER, QUERIES, PUBLISHER, *FOLLOWERS)
TENANTS_EVERY_S: Final = 1.0
#: A thread that comes back from the disk waits so long for one that computes; Python's 5 ms are longer than a sync.
THREADS_TURN_S: Final = 0.0005
#: A process of projections yields to those who decide: where cores are full, outcomes come first (ADR 0002).
PROJECTIONS_NICE: Final = 5
AUTOGROUP: Final = Path("/proc/self/autogroup")
AUTOGROUP_TRIES: Final = 10
AUTOGROUP_AGAIN_S: Final = 0.11


def configure(parser: argparse.ArgumentParser) -> None:
    """`GROUP` is what the process hosts, separated by commas."""
    parser.epilog = (
        "example:\n  tally run worker\n  tally run leaderboards,readmodels,timers\n  tally run signer,analytics\n"
        "  tally run queries"
    )
    parser.add_argument("group", metavar="GROUP", help=f"of: {', '.join(GROUPS)}; commas between")
    parser.add_argument(
        "--owners-max",
        type=_owners_max,
        default=os.environ.get("TALLY_OWNERS_MAX", str(OWNERS_MAX)),
        metavar="N",
        help="players whom a worker keeps in memory, over all tenants, of about 3 kB each; the others are read again "
        "when they come (TALLY_OWNERS_MAX; default %(default)s)",
    )
    parser.add_argument(
        "--only-tenants",
        default=os.environ.get("TALLY_ONLY_TENANTS", ""),
        metavar="NAMES",
        help="serve these tenants, commas between (TALLY_ONLY_TENANTS; default: all)",
    )


def _owners_max(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 10**9):
        raise argparse.ArgumentTypeError(f"players in memory are {text[:80]!r}, wanted a number from 1")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; creates the file TALLY_READY_FILE when everything serves."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    names = [name for name in args.group.split(",") if name]
    unknown = [name for name in names if name not in GROUPS]
    if unknown or not names:
        wanted = ", ".join(GROUPS)
        message = f"process group {args.group!r} names {unknown or 'nothing'}, wanted some of {wanted}"
        raise TallyError(message)
    followers = [name for name in names if name in FOLLOWERS]
    need = {field for name in names for field in _needs(name)}
    settings = Settings.load(args.data, need=sorted(need))
    only = frozenset(name for name in args.only_tenants.split(",") if name) or None
    worker = Worker(settings.nats_url, owners_max=args.owners_max, only_tenants=only) if WORKER in names else None
    queries = _query_services(settings, only) if QUERIES in names else None
    spare_the_collector()
    if followers:
        sys.setswitchinterval(THREADS_TURN_S)
    publisher = Publisher(settings, only) if PUBLISHER in names else None
    served = [each for each in (worker, queries, publisher) if each is not None]
    if not served and any(name in PROJECTIONS for name in followers):
        _let_others_go_first()
    uvloop.run(_serve(settings, served, followers, only))
    return 0


def _let_others_go_first() -> None:
    """Be nice; in a session of our own (as `tally up` starts us) also as the group that Linux makes of a session."""
    os.nice(PROJECTIONS_NICE)
    if os.getsid(0) != os.getpid():
        return
    for _ in range(AUTOGROUP_TRIES):
        try:
            AUTOGROUP.write_text(str(PROJECTIONS_NICE))
        except BlockingIOError:  # without privileges, Linux takes one such word in 0.1 s
            time.sleep(AUTOGROUP_AGAIN_S)
        except OSError:
            return
        else:
            return


def spare_the_collector() -> None:
    """Look for cycles less often: ours are few, and a worker makes millions of small values (a quarter of its time)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


class Served(Protocol):
    """What runs in a process until it is to stop."""

    async def run(self, stop: asyncio.Event, ready: asyncio.Event) -> None: ...


async def _serve(
    settings: Settings, served: Sequence[Served], followers: list[str], only: frozenset[str] | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    follows = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for one in served:
            serves = asyncio.Event()
            group.create_task(one.run(stop, serves))
            await serves.wait()
        if followers:
            group.create_task(_follow_all_tenants(settings, followers, only, stop, follows))
            await follows.wait()
        _say_ready()


async def _follow_all_tenants(
    settings: Settings, names: list[str], only: frozenset[str] | None, stop: asyncio.Event, ready: asyncio.Event
) -> None:
    """Follow the tenants' events; a tenant that is created meanwhile is taken up within a second."""
    client = await connect(settings.nats_url, f"tally-{'-'.join(names)}")
    makers = [_maker(name) for name in names]
    followed: dict[str, list[asyncio.Task[None]]] = {}
    refused: dict[str, str] = {}
    try:
        while not stop.is_set():
            try:
                for tenant in await streams.tenants(client):
                    if tenant not in followed and (only is None or tenant in only):
                        tasks = await _follow_tenant(client, settings, tenant, makers, stop, refused)
                        followed |= {tenant: tasks} if tasks else {}
            except (BusError, nats.errors.Error, TimeoutError) as err:
                log.warning("%s", err)
            ready.set()
            try:
                await asyncio.wait_for(stop.wait(), TENANTS_EVERY_S)
            except TimeoutError:
                continue
    finally:
        await _end(followed)
        await client.close()


async def _follow_tenant(
    client: Client,
    settings: Settings,
    tenant: str,
    makers: list[Callable[[Settings], Follower]],
    stop: asyncio.Event,
    refused: dict[str, str],
) -> list[asyncio.Task[None]]:
    """The tasks of one tenant: the read first; none while its streams are not as they must be, which is said once."""
    try:
        described = await streams.describe(client, tenant)
    except WrongStream as err:
        if refused.get(tenant) != str(err):
            log.error("tenant %s is refused: %s", tenant, err)  # noqa: TRY400 - one line says it all
        refused[tenant] = str(err)
        return []
    read = SharedRead(client, tenant)
    tasks = [asyncio.create_task(keep_pumping(read, tenant))]
    for make in makers:
        following = keep_following(client, tenant, described.events, read, make(settings), stop)
        tasks.append(asyncio.create_task(following))
    return tasks


async def _end(followed: dict[str, list[asyncio.Task[None]]]) -> None:
    """Let followers commit what waits, then end the reads that fed them."""
    for pump, *followers in filter(None, followed.values()):
        await asyncio.gather(*followers, return_exceptions=True)
        await ended(pump)


def _query_services(settings: Settings, only: frozenset[str] | None) -> Served:
    from adapters.queries.service import QueryServices

    return QueryServices(settings, only)


def _needs(name: str) -> tuple[str, ...]:
    """The settings that must be known; the publisher alone reads files and no events."""
    if name == PUBLISHER:
        return ("log_dir",)
    if name == WORKER:
        return ("nats_url",)
    if name == QUERIES:
        return ("nats_url", *catalogue.NEED)
    return ("nats_url", *(PROJECTIONS[name].need if name in PROJECTIONS else OTHERS[name][2]))


def _maker(name: str) -> Callable[[Settings], Follower]:
    if name in PROJECTIONS:
        return follower_maker(name)
    module, kind, _ = OTHERS[name]
    make: Callable[[Settings], Follower] = getattr(importlib.import_module(module), kind)
    return make


def _say_ready() -> None:
    path = os.environ.get("TALLY_READY_FILE")
    if path:
        Path(path).touch()
