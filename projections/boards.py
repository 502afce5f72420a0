"""Boards as data: what is ranked, which way, among whom, in which window of time. Pure.

A definition stands for many boards: one for each quest, region, cohort or division in its scope and each window. A
board's name is `<definition>[@<window>][:<value of the scope>…]`: `xp`, `quest:boston-2014`, `daily@2014-04-21:GBR`.
Names hold no `@` and no `:`, so names of boards cannot meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from domain.values import Token
from projections.errors import NotFound, WrongBoard
from projections.windows import ALL_TIME, Season, Window, labels, require_apart, zone_of

Metric = Literal["xp", "completions", "steps", "elapsed", "tokens"]
Dimension = Literal["quest", "division", "region", "cohort"]
#: The order in which the values of a scope stand in a board's name.
DIMENSIONS: Final[tuple[Dimension, ...]] = ("quest", "division", "region", "cohort")
MOST: Final = "most"
_OF_METRIC: Final[dict[Metric, frozenset[Dimension]]] = {
    "xp": frozenset({"quest", "region", "cohort"}),
    "completions": frozenset(DIMENSIONS),
    "steps": frozenset({"quest", "region", "cohort"}),
    "elapsed": frozenset(DIMENSIONS),
    "tokens": frozenset(),
}


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of board.

    `metric`: `xp`, `completions`, `steps` and `tokens` (the balance's movements) add up, of `elapsed` the best counts.
    `direction`: whether `most` or `least` is better. `scope`: one board for each value, none for the whole tenant.
    """

    name: Token
    metric: Metric
    direction: Literal["most", "least"] = "most"
    scope: tuple[Dimension, ...] = ()
    window: Window = ALL_TIME


class BoardSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant says of its boards: the zone of its days, its seasons, its boards besides those that all have."""

    zone: str = "UTC"
    seasons: Annotated[tuple[Season, ...], msgspec.Meta(max_length=1_000)] = ()
    boards: Annotated[tuple[Definition, ...], msgspec.Meta(max_length=100)] = ()

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """All of them, those that every tenant has first."""
        return (*BUILT_IN, *self.boards)


BUILT_IN: Final = (
    Definition(name="xp", metric="xp"),
    Definition(name="quest", metric="elapsed", direction="least", scope=("quest",)),
    Definition(name="division", metric="elapsed", direction="least", scope=("quest", "division")),
)


class Board(msgspec.Struct, frozen=True):
    """One board: its definition, the label of its window, the values of its scope in the order of `DIMENSIONS`."""

    definition: Definition
    label: str = ""
    values: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the board is called, in keys as for people."""
        return ":".join((base_name(self.definition.name, self.label), *self.values))

    @property
    def is_descending(self) -> bool:
        """Whether more is better."""
        return self.definition.direction == MOST


def base_name(definition: str, label: str) -> str:
    """The part of a board's name before the values of its scope."""
    return f"{definition}@{label}" if label else definition


def xp_board() -> Board:
    """Everybody's XP, which every tenant has."""
    return Board(BUILT_IN[0])


def quest_board(quest: str, division: str | None = None) -> Board:
    """The times of a quest, of all or of one division, which every tenant has."""
    return Board(BUILT_IN[1], "", (quest,)) if division is None else Board(BUILT_IN[2], "", (quest, division))


def decode_settings(body: bytes | str) -> BoardSettings:
    """Settings from JSON, valid as a whole; raises `WrongBoard` in one line."""
    try:
        settings = msgspec.json.decode(body, type=BoardSettings)
    except (msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise WrongBoard(f"the boards are not as they must be: {err} (docs/leaderboards.md has an example)") from err
    zone_of(settings.zone)
    require_apart(settings.seasons)
    seen = set[str]()
    for one in settings.definitions:
        if one.name in seen:
            raise WrongBoard(
                f"two boards are called {one.name}; {', '.join(b.name for b in BUILT_IN)} are always there"
            )
        seen.add(one.name)
        _require(one, settings)
    return settings


def _require(one: Definition, settings: BoardSettings) -> None:
    if len(set(one.scope)) != len(one.scope):
        raise WrongBoard(f"board {one.name} has {list(one.scope)} as its scope: each of them once")
    if strange := [each for each in one.scope if each not in _OF_METRIC[one.metric]]:
        known = [each for each in DIMENSIONS if each in _OF_METRIC[one.metric]]
        raise WrongBoard(f"board {one.name}: {one.metric} is not known by {strange[0]}, wanted {known or 'no scope'}")
    if "division" in one.scope and "quest" not in one.scope:
        raise WrongBoard(f"board {one.name}: divisions are those of a quest: scope quest and division")
    if one.window == "season" and not settings.seasons:
        raise WrongBoard(f"board {one.name} has seasons for its window, but there are none: say `seasons`")


def find_board(
    settings: BoardSettings, name: str, label: str | None, given: Mapping[Dimension, str | None], now: str
) -> Board:
    """The board that somebody asks for, by default in the window of `now`; raises `NotFound`, `WrongBoard`."""
    known = {one.name: one for one in settings.definitions}
    if name not in known:
        raise NotFound(f"no board is called {name[:60]!r}; there are {', '.join(known)} (after a change: a rebuild)")
    one = known[name]
    wanted = [each for each in DIMENSIONS if each in one.scope]
    values = {each: value for each, value in given.items() if value is not None}
    if missing := [each for each in wanted if each not in values]:
        raise WrongBoard(f"board {name} is one of each {' and '.join(wanted)}: say which {missing[0]}")
    if extra := [each for each in values if each not in wanted]:
        raise WrongBoard(f"board {name} is not one of each {extra[0]}: leave it out")
    if one.window == ALL_TIME:
        if label:
            raise WrongBoard(f"board {name} has no window, {label[:40]!r} was asked for: leave it out")
        label = ""
    elif not label:
        label = labels(one.window, zone_of(settings.zone), settings.seasons)(now)
        if label is None:
            raise NotFound(f"board {name}: no season now; say which: {', '.join(s.name for s in settings.seasons)}")
    return Board(one, label, tuple(values[each] for each in wanted))
