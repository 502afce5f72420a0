"""The projections that there are, and what each store must do so that one can be rebuilt beside its readers."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, cast

from bus.follower import Follower
from projections.errors import RebuildRefused
from projections.generations import Standing, State

#: Told how far a generation must come, brings it there.
Feed = Callable[[int], Awaitable[None]]


class Generations(Protocol):
    """The generations of one projection of one tenant, as its store keeps them."""

    name: str
    version: int

    async def prepare(self) -> None:
        """Make what must be there before anything is compared."""

    async def follower(self, generation: str) -> Follower:
        """What feeds a generation that is not live."""

    async def standing(self, generation: str) -> Standing | None:
        """Where a generation stands; None when there is none."""

    async def state(self, generation: str) -> State:
        """What a generation that nobody feeds holds."""

    def live_at_rest(self) -> AbstractAsyncContextManager[State]:
        """What the live generation holds at one sequence."""

    async def switch(self, generation: str, feed: Feed) -> None:
        """Let a generation go live that `feed` brings to where the live one is; that one becomes the previous one."""

    async def drop(self, generation: str) -> None:
        """Remove a generation that is not live."""


class Entry(NamedTuple):
    """Where a projection's follower and its generations are (`module:class`), and the settings that must be known."""

    follower: str
    generations: str
    need: tuple[str, ...]
    #: The module that both get first, for a projection into tables of its own.
    tables: str = ""


def tables(module: str) -> Entry:
    """A projection that is one module: `project` and its tables in PostgreSQL (docs/projections.md)."""
    place = "adapters.postgres_tables:"
    return Entry(f"{place}TablesFollower", f"{place}TablesGenerations", ("postgres_dsn",), module)


PROJECTIONS: Final[dict[str, Entry]] = {
    "leaderboards": Entry(
        "adapters.redis_boards:LeaderboardFollower",
        "adapters.redis_generations:BoardGenerations",
        ("redis_url", "nats_url"),
    ),
    "readmodels": Entry(
        "adapters.postgres_readmodels:ReadModelFollower",
        "adapters.postgres_generations:ReadModelGenerations",
        ("postgres_dsn",),
    ),
    "analytics": Entry(
        "adapters.iceberg:AnalyticsFollower",
        "adapters.iceberg_generations:AnalyticsGenerations",
        ("iceberg_catalog_uri", "iceberg_warehouse"),
    ),
}


def require_projection(name: str) -> Entry:
    """Where a projection is; raises `RebuildRefused`."""
    if name not in PROJECTIONS:
        raise RebuildRefused(f"{name[:60]!r} is no projection; there are {', '.join(PROJECTIONS)}")
    return PROJECTIONS[name]


def follower_maker(name: str) -> Callable[[Any], Follower]:
    """What makes the live follower of a projection from the settings."""
    entry = require_projection(name)
    return cast("Callable[[Any], Follower]", _bound(entry, entry.follower))


def generations(name: str, settings: Any, tenant: str) -> Generations:
    """The generations of a projection; raises `RebuildRefused` for an unknown one."""
    entry = require_projection(name)
    return cast("Generations", _bound(entry, entry.generations)(settings, tenant))


def _bound(entry: Entry, place: str) -> Callable[..., Any]:
    module, _, kind = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), kind)
    return partial(found, importlib.import_module(entry.tables)) if entry.tables else found
