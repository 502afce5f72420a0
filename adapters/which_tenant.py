"""The tenant that a command means, when it names none."""

from __future__ import annotations

import asyncio

from adapters.errors import TallyError
from adapters.settings import Settings
from bus.subjects import require_token


def which_tenant(settings: Settings, named: str | None) -> str:
    """The named tenant, else the only one that there is; raises `TallyError` when there are several or none."""
    if named:
        return require_token("the tenant", named)
    if settings.nats_url:
        from adapters.tenants import list_tenants

        names = [row["tenant"] for row in asyncio.run(list_tenants(settings))]
    else:
        names = list(settings.tenants)
    if len(names) == 1:
        return names[0]
    found = ", ".join(names) or "none"
    raise TallyError(f"which tenant? there is {found}: name one with --tenant or TALLY_TENANT, or tally tenant create")
