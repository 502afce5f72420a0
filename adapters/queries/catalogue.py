"""Every query that there is: the modules that declare them, one line each."""

from __future__ import annotations

import importlib
from typing import Final

from adapters.queries.endpoint import Endpoint
from bus.errors import BusError
from bus.queries import Query

#: Module with ENDPOINTS -> the settings that it must know.
MODULES: Final[dict[str, tuple[str, ...]]] = {
    "adapters.queries.outcomes": ("nats_url",),
    "adapters.queries.leaderboards": ("redis_url",),
    "adapters.queries.log": ("log_dir",),
    "adapters.queries.read_models": ("postgres_dsn",),
    "adapters.queries.segments": ("nats_url",),
}
NEED: Final = tuple(sorted({field for fields in MODULES.values() for field in fields}))


def endpoints() -> list[Endpoint]:
    """All of them; raises `BusError` when two have one name."""
    found: dict[str, Endpoint] = {}
    for module in MODULES:
        for one in importlib.import_module(module).ENDPOINTS:
            if found.setdefault(one.query.name, one) is not one:
                raise BusError(f"two queries are called {one.query.name}, the second is in {module}: rename its path")
    return list(found.values())


def queries() -> list[Query]:
    """What goes over the wire of each."""
    return [one.query for one in endpoints()]
