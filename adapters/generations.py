"""The projections that there are, and what each store must do so that one can be rebuilt beside its readers."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, cast

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


#: Projection -> (module, class, setting that must be known).
PROJECTIONS: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "leaderboards": ("adapters.redis_generations", "BoardGenerations", ("redis_url",)),
    "readmodels": ("adapters.postgres_generations", "ReadModelGenerations", ("postgres_dsn",)),
    "analytics": (
        "adapters.iceberg_generations",
        "AnalyticsGenerations",
        ("iceberg_catalog_uri", "iceberg_warehouse"),
    ),
}


def require_projection(name: str) -> str:
    """The name of a projection; raises `RebuildRefused`."""
    if name not in PROJECTIONS:
        raise RebuildRefused(f"{name[:60]!r} is no projection; there are {', '.join(PROJECTIONS)}")
    return name


def generations(name: str, settings: Any, tenant: str) -> Generations:
    """The generations of a projection; raises `RebuildRefused` for an unknown one."""
    module, kind, _ = PROJECTIONS[require_projection(name)]
    return cast("Generations", getattr(importlib.import_module(module), kind)(settings, tenant))
