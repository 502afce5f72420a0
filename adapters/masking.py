"""Addresses as people and log files may see them: without the passwords that stand in them.

Whole they stand in endpoints.json, which only its owner may read, and in the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "***"
#: `scheme://user:password@`, and `scheme://token@` of a server that takes tokens.
_IN_AUTHORITY: Final = re.compile(
    r"(?P<before>[a-z][a-z0-9+.-]*://(?P<user>[^/?#\s:@]*)(?P<colon>:?))(?P<secret>[^/\s]*)@", re.IGNORECASE
)
#: `password=…` in a query or in libpq's own form, where it may stand in quotes.
_NAMED: Final = re.compile(r"(\w*(?:password|passwd|secret|token)\w*\s*=\s*)('(?:\\.|[^'])*'|[^&\s]+)", re.IGNORECASE)


def masked(text: str) -> str:
    """A text with addresses in it, a line of an error as well, every password in it masked."""
    return _NAMED.sub(rf"\1{MASK}", _IN_AUTHORITY.sub(_mask, text))


def masked_endpoints(endpoints: Mapping[str, Any]) -> dict[str, Any]:
    """What endpoints.json says, as it may be printed."""
    return {key: masked(value) if isinstance(value, str) else value for key, value in endpoints.items()}


def _mask(found: re.Match[str]) -> str:
    if found["colon"]:
        return f"{found['before']}{MASK}@"
    scheme = found["before"].removesuffix(found["user"])
    return f"{scheme}{MASK}@" if scheme.startswith("nats") else found[0]
