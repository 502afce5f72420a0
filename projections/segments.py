"""Segments: which players are meant by a filter, and what events say that filters ask for. Pure.

A filter is JSON, each object saying one thing:
    {"all": [F, ..]}  {"any": [F, ..]}  {"not": F}
    {"zone": "north-stand"}                                the player was last reported there
    {"quest": "hot-dog", "status": "completed"}            the latest attempt: running, completed, abandoned, expired;
                                                           started (any of them), not-started
    {"region": "GBR"}  {"cohort": "elite"}                 as registered
    {"level": {"at_least": 3, "at_most": 9}}               either bound may be left out
    {"balance": {"at_least": 100}}                         tokens
    {"active_within_s": 3600}                              something the player did happened at most so long ago

It is evaluated over sets of registered players, whatever has `&`, `|` and `-`: bitmaps in the process that answers
(adapters/segment_index.py), plain Python sets in the tests' oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol, TypeVar, get_args

import msgspec

from bus.envelope import Recorded
from bus.gist import KINDS, gist_of
from domain.player import (
    ATTEMPT_EXPIRED,
    PLAYER_REGISTERED,
    QUEST_ABANDONED,
    QUEST_ACCEPTED,
    QUEST_COMPLETED,
    STEP_REACHED,
    XP_AWARDED,
)
from domain.token import TOKENS_MINTED, TOKENS_RECEIVED, TOKENS_SENT, TOKENS_SPENT
from domain.values import Token, to_ms
from domain.zone import ZONE_ENTERED, ZONE_LEFT
from projections.errors import ProjectionError, UnknownEvent

NAME: Final = "segments"
#: Of what a snapshot of the index holds; one of another version is made anew from the events.
VERSION: Final = 1
DEPTH_MAX: Final = 16
TERMS_MAX: Final = 200

Status = Literal["running", "completed", "abandoned", "expired", "started", "not-started"]
#: What an attempt can be at a time.
STATUSES: Final = ("running", "completed", "abandoned", "expired")
Group = Literal["zone", "region", "cohort"]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)
Number = Literal["level", "balance", "second"]
NUMBERS: Final[tuple[Number, ...]] = get_args(Number)
_Bound = Annotated[int, msgspec.Meta(ge=0, le=9_007_199_254_740_991)]


class WrongFilter(ProjectionError):
    """A filter that says nothing that can be evaluated."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From `at_least` to `at_most`, both included."""

    at_least: _Bound | None = None
    at_most: _Bound | None = None


class Filter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One term: exactly one of its fields is set, `quest` together with `status`."""

    all: list[Filter] | None = None
    any: list[Filter] | None = None
    not_: Filter | None = msgspec.field(name="not", default=None)
    zone: Token | None = None
    region: Token | None = None
    cohort: Token | None = None
    quest: Token | None = None
    status: Status | None = None
    level: Bounds | None = None
    balance: Bounds | None = None
    active_within_s: Annotated[int, msgspec.Meta(ge=1, le=3_155_760_000)] | None = None


Players_co = TypeVar("Players_co", covariant=True)


class Index(Protocol[Players_co]):
    """Sets of players; each answer may be changed by who asked."""

    def everyone(self) -> Players_co:
        """All who are registered."""

    def in_group(self, group: Group, name: str) -> Players_co:
        """The players of a zone, region or cohort."""

    def with_status(self, quest: str, status: str) -> Players_co:
        """The players whose latest attempt at a quest is running, completed, abandoned or expired."""

    def at_least(self, number: Number, value: int) -> Players_co:
        """The players whose level, balance, or last second of activity since 1970 is not below a value."""


def evaluate(term: Filter, index: Index[Any], now_s: int) -> Any:
    """The players whom a filter means, at a second since 1970; raises `WrongFilter`."""
    _require_small(term)
    return _players(term, index, now_s)


def _require_small(term: Filter) -> None:
    """Refuse what would keep everybody else waiting."""
    level, terms, depth = [term], 0, 0
    while level:
        terms, depth = terms + len(level), depth + 1
        if terms > TERMS_MAX or depth > DEPTH_MAX:
            raise WrongFilter(f"the filter has more than {TERMS_MAX} terms or {DEPTH_MAX} levels; split it")
        named = [(*(one.all or ()), *(one.any or ()), one.not_) for one in level]
        level = [inner for found in named for inner in found if inner is not None]


def _players(term: Filter, index: Index[Any], now_s: int) -> Any:
    said = [name for name in term.__struct_fields__ if getattr(term, name) is not None]
    match said:
        case ["all"] if term.all:
            return _all_of(term.all, index, now_s)
        case ["any"] if term.any:
            found, *others = (_players(inner, index, now_s) for inner in term.any)
            for other in others:
                found |= other
            return found
        case ["not_"] if term.not_ is not None:
            return index.everyone() - _players(term.not_, index, now_s)
        case ["zone"] | ["region"] | ["cohort"]:
            group: Group = said[0]  # type: ignore[assignment] # one of the three
            return index.in_group(group, getattr(term, group))
        case ["quest", "status"] if term.quest is not None and term.status is not None:
            return _attempted(index, term.quest, term.status)
        case ["level"] if term.level is not None:
            return _between(index, "level", term.level)
        case ["balance"] if term.balance is not None:
            return _between(index, "balance", term.balance)
        case ["active_within_s"] if term.active_within_s is not None:
            return index.at_least("second", max(0, now_s - term.active_within_s))
        case _:
            names = ", ".join(name.rstrip("_") for name in said) or "nothing"
            raise WrongFilter(
                f"a term of the filter names {names}; wanted one of all, any (not empty), not, zone, region, cohort, "
                "level, balance, active_within_s, or quest with status"
            )


def _all_of(terms: Sequence[Filter], index: Index[Any], now_s: int) -> Any:
    """What all terms have in common; what a `not` names is taken away last, without a look at everyone else."""
    wanted = [inner for inner in terms if inner.not_ is None]
    found = None
    for inner in wanted:
        players = _players(inner, index, now_s)
        if found is None:
            found = players
        else:
            found &= players
    if found is None:
        found = index.everyone()
    for inner in terms:
        if inner.not_ is not None:
            found -= _players(inner.not_, index, now_s)
    return found


def _attempted(index: Index[Any], quest: str, status: str) -> Any:
    if status not in {"started", "not-started"}:
        return index.with_status(quest, status)
    started, *others = (index.with_status(quest, each) for each in STATUSES)
    for other in others:
        started |= other
    return started if status == "started" else index.everyone() - started


def _between(index: Index[Any], number: Number, bounds: Bounds) -> Any:
    if bounds.at_least is None and bounds.at_most is None:
        raise WrongFilter(f"{number} has no bounds; name at_least, at_most or both")
    found = index.everyone() if bounds.at_least is None else index.at_least(number, bounds.at_least)
    if bounds.at_most is not None:
        found -= index.at_least(number, bounds.at_most + 1)
    return found


# -- from events to facts ---------------------------------------------------------------------------------------------


class Fact(NamedTuple):
    """What an event says of a player: `kind` is registered, a group, a number, or quest (`name`, then its status)."""

    player: str
    kind: str
    name: str
    value: Any


#: Stored name -> kind, name and value of what it says besides that the player was active then.
_SAYS: Final[dict[str, Callable[[Any], tuple[str, str, Any]]]] = {
    QUEST_ACCEPTED: lambda data: ("quest", data.quest, "running"),
    QUEST_COMPLETED: lambda data: ("quest", data.quest, "completed"),
    QUEST_ABANDONED: lambda data: ("quest", data.quest, "abandoned"),
    ATTEMPT_EXPIRED: lambda data: ("quest", data.quest, "expired"),
    XP_AWARDED: lambda data: ("number", "level", data.level),
    TOKENS_MINTED: lambda data: ("number", "balance", data.balance),
    TOKENS_SPENT: lambda data: ("number", "balance", data.balance),
    TOKENS_SENT: lambda data: ("number", "balance", data.balance),
    TOKENS_RECEIVED: lambda data: ("number", "balance", data.balance),
    ZONE_ENTERED: lambda data: ("group", "zone", data.zone),
    ZONE_LEFT: lambda _: ("group", "zone", None),
}
#: What the player did; the others happen to the player.
_ACTIVITY: Final = frozenset((PLAYER_REGISTERED, QUEST_ACCEPTED, STEP_REACHED, QUEST_COMPLETED, QUEST_ABANDONED)) | {
    *(ZONE_ENTERED, ZONE_LEFT, TOKENS_SPENT, TOKENS_SENT)
}


def _registered(player: str, data: Any) -> list[Fact]:
    groups = (Fact(player, "group", name, getattr(data, name)) for name in ("region", "cohort"))
    return [Fact(player, "registered", "", None), *groups]


def project(records: Sequence[Recorded]) -> list[Fact]:
    """What the records say of players, in order; raises `UnknownEvent` for a type that nobody here knows."""
    facts: list[Fact] = []
    for record in records:
        gist = gist_of(record)
        kind = type(gist)
        player = gist.subject.partition("/")[2] if gist is not None else ""
        if says := _SAYS_OF.get(kind):
            facts.append(Fact(player, *says(gist.data)))
        elif kind is _REGISTERED:
            facts += _registered(player, gist.data)
        elif gist is None:
            raise UnknownEvent(NAME, record.stream_seq, record.event.type)
        if kind in _ACTIVE:
            facts.append(Fact(player, "number", "second", max(0, to_ms(gist.time) // 1_000)))
    return facts


_REGISTERED: Final = KINDS[PLAYER_REGISTERED]
_SAYS_OF: Final = {KINDS[name]: says for name, says in _SAYS.items()}
_ACTIVE: Final = frozenset(KINDS[name] for name in _ACTIVITY)
