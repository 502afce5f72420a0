"""Windows of boards: which day, week, month or season an event's time falls into, in a tenant's zone. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from domain.values import Token
from projections.errors import WrongBoard

Window = Literal["all-time", "season", "month", "week", "day"]
ALL_TIME: Final = "all-time"
#: The label of a moment in a window, None when no season has it.
Labels = Callable[[str], str | None]
#: Zones change on whole minutes: so much of `2014-04-21T14:08:37.200Z` decides the day.
_MINUTE: Final = 16


class Season(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stretch of days with a name; both days belong to it."""

    name: Token
    first_day: date
    last_day: date


def zone_of(name: str) -> ZoneInfo:
    """A zone by its IANA name; raises `WrongBoard`."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as err:
        raise WrongBoard(f"zone is {name[:60]!r}, wanted an IANA name like America/New_York or UTC") from err


def labels(window: Window, zone: ZoneInfo, seasons: Sequence[Season]) -> Labels:
    """The labels of a window: `2014-04-21`, `2014-W17` (ISO 8601), `2014-04`, a season's name, or nothing."""
    if window == ALL_TIME:
        return lambda _: ""

    @lru_cache(maxsize=4_096)
    def label(minute: str) -> str | None:
        day = _day(minute, zone)
        match window:
            case "day":
                return day.isoformat()
            case "week":
                year, week, _ = day.isocalendar()
                return f"{year:04d}-W{week:02d}"
            case "month":
                return f"{day.year:04d}-{day.month:02d}"
            case _:
                return next((one.name for one in seasons if one.first_day <= day <= one.last_day), None)

    return lambda time: label(time[:_MINUTE])


def require_apart(seasons: Sequence[Season]) -> None:
    """Seasons have a name each and share no day; raises `WrongBoard`."""
    by_day = sorted(seasons, key=lambda one: one.first_day)
    for one in by_day:
        if one.last_day < one.first_day:
            raise WrongBoard(f"season {one.name} ends on {one.last_day}, before it begins on {one.first_day}")
    for one, following in pairwise(by_day):
        if following.first_day <= one.last_day:
            raise WrongBoard(f"seasons {one.name} and {following.name} share the day {following.first_day}")
    if len({one.name for one in seasons}) != len(seasons):
        raise WrongBoard("two seasons have one name: give each its own")


def _day(minute: str, zone: ZoneInfo) -> date:
    moment = datetime.fromisoformat(f"{minute}:00+00:00")
    try:
        return moment.astimezone(zone).date()
    except OverflowError:  # in the first or the last day that there is
        return moment.date()
