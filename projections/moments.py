"""As of when: a day, to its end in UTC, or a moment, itself included; by the time at which things happened. Pure."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Final

from projections.errors import AsOfRefused

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_as_of(text: str) -> datetime:
    """The last moment that counts; raises `AsOfRefused`."""
    try:
        if _DAY.fullmatch(text):
            return datetime.combine(date.fromisoformat(text), time.max, UTC)
        if _MOMENT.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as err:
        raise AsOfRefused(text, str(err)) from err
    raise AsOfRefused(text, "neither a day nor a moment")
