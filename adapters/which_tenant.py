"""The tenant that a command means, when it names none."""

from __future__ import annotations

from adapters.errors import TallyError
from adapters.settings import Settings
from bus.subjects import require_token


def which_tenant(settings: Settings, named: str | None) -> str:
    """The named tenant, else the only one; raises `TallyError` when there are several or none."""
    if named:
        return require_token("the tenant", named)
    if len(settings.tenants) == 1:
        return settings.tenants[0]
    found = ", ".join(settings.tenants) or "none"
    raise TallyError(f"which tenant? this installation has {found}: name one with --tenant or TALLY_TENANT")
