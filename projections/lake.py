"""Tables derived from the events table: sums of integers by key, folded from any events in any order.

Sums can be added up: what new events contribute is folded alone and added to the rows that are there. `day` is the UTC
day of the event's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from typing import Any, Final, NamedTuple

import msgspec

from bus.envelope import CHAIN, COMMANDS_DECIDED
from domain import logkeys, player, quest, token, zone
from projections.errors import UnknownEvent

NAME: Final = "analytics"
VERSION: Final = 1
DAY: Final = "day"

Key = tuple[Any, ...]
Sums = dict[Key, list[int]]


class Fact(NamedTuple):
    """What the folds read of a row of the events table."""

    stream_seq: int
    event_type: str
    day: date
    owner: str
    data: str


class _Step(msgspec.Struct):
    id: str


class Said(msgspec.Struct):
    """The fields of all events that are summed; those that an event has not are zero or empty."""

    quest: str = ""
    step: str = ""
    elapsed_ms: int = 0
    amount: int = 0
    reason: str = ""
    steps: tuple[_Step, ...] = ()


Fold = Callable[[Sums, Fact, Said], None]


class DerivedTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table of sums: the columns of its key (`day` first when it is partitioned by day) and of its sums."""

    name: str
    key: tuple[str, ...]
    sums: tuple[str, ...]
    fold: Fold

    @property
    def is_daily(self) -> bool:
        """Whether each day has its own files, so that only the days with news are written again."""
        return self.key[0] == DAY


_said_of: Final = msgspec.json.Decoder(Said)
#: Events that no derived table sums.
_SILENT: Final = frozenset(
    (
        *(COMMANDS_DECIDED, player.PLAYER_REGISTERED, quest.QUEST_RETIRED, quest.QUEST_CLOSED, quest.SUPPLY_TAKEN),
        *(logkeys.KEY_ADDED, logkeys.KEY_RETIRED, zone.ZONE_ENTERED, zone.ZONE_LEFT),
    )
)

_STAGES: Final = {
    player.QUEST_ACCEPTED: "accepted",
    player.STEP_REACHED: "reached",
    player.QUEST_COMPLETED: "completed",
    player.QUEST_ABANDONED: "abandoned",
    player.ATTEMPT_EXPIRED: "expired",
}


def _quest_funnel(sums: Sums, fact: Fact, said: Said) -> None:
    """A published quest shows all its steps, also those that nobody has reached."""
    if fact.event_type == quest.QUEST_PUBLISHED:
        for key in [(fact.owner, "accepted", ""), *((fact.owner, "reached", step.id) for step in said.steps)]:
            _add(sums, key, (0, 0))
    elif stage := _STAGES.get(fact.event_type):
        _add(sums, (said.quest, stage, said.step), (1, said.elapsed_ms))


_PLAYER_SUMS: Final = (
    "accepted",
    "steps_reached",
    "completed",
    "abandoned",
    "expired",
    "badges",
    "xp",
    "tokens_in",
    "tokens_out",
)
#: Event type -> the sum that it adds to, and whether it adds its amount or 1.
_PLAYER_DAY: Final = {
    player.QUEST_ACCEPTED: ("accepted", False),
    player.STEP_REACHED: ("steps_reached", False),
    player.QUEST_COMPLETED: ("completed", False),
    player.QUEST_ABANDONED: ("abandoned", False),
    player.ATTEMPT_EXPIRED: ("expired", False),
    player.BADGE_AWARDED: ("badges", False),
    player.XP_AWARDED: ("xp", True),
    token.TOKENS_MINTED: ("tokens_in", True),
    token.TOKENS_RECEIVED: ("tokens_in", True),
    token.TOKENS_SPENT: ("tokens_out", True),
    token.TOKENS_SENT: ("tokens_out", True),
}
_PLAYER_ADDS: Final = {
    kind: (_PLAYER_SUMS.index(column), is_amount) for kind, (column, is_amount) in _PLAYER_DAY.items()
}


def _player_day(sums: Sums, fact: Fact, said: Said) -> None:
    adds = _PLAYER_ADDS.get(fact.event_type)
    if adds is not None:
        at, is_amount = adds
        row = sums.setdefault((fact.day, fact.owner), [0] * len(_PLAYER_SUMS))
        row[at] += said.amount if is_amount else 1


#: A transfer is counted where it is sent; its other half is the same tokens.
_FLOWS: Final = {token.TOKENS_MINTED: "minted", token.TOKENS_SPENT: "spent", token.TOKENS_SENT: "transferred"}


def _token_flow(sums: Sums, fact: Fact, said: Said) -> None:
    flow = _FLOWS.get(fact.event_type)
    if flow is not None:
        _add(sums, (fact.day, flow, said.reason), (1, said.amount))


def _add(sums: Sums, key: Key, amounts: Iterable[int]) -> None:
    row = sums.get(key)
    sums[key] = list(amounts) if row is None else [a + b for a, b in zip(row, amounts, strict=True)]


QUEST_FUNNEL: Final = DerivedTable(
    name="quest_funnel", key=("quest", "stage", "step"), sums=("attempts", "elapsed_ms"), fold=_quest_funnel
)
PLAYER_DAY: Final = DerivedTable(name="player_day", key=(DAY, "player"), sums=_PLAYER_SUMS, fold=_player_day)
TOKEN_FLOW: Final = DerivedTable(
    name="token_flow", key=(DAY, "flow", "reason"), sums=("movements", "amount"), fold=_token_flow
)
TABLES: Final = {table.name: table for table in (QUEST_FUNNEL, PLAYER_DAY, TOKEN_FLOW)}


def fold(tables: Iterable[DerivedTable], facts: Iterable[Fact]) -> dict[str, Sums]:
    """What the facts add to each table, by its name; raises `UnknownEvent` for a type that nobody here knows."""
    found: dict[str, Sums] = {table.name: {} for table in tables}
    folds = [(table.fold, found[table.name]) for table in tables]
    for fact in facts:
        if fact.event_type in _SILENT:
            continue
        fact, said = _read(fact)  # noqa: PLW2901 - the same fact, its type brought to the current version
        for one, sums in folds:
            one(sums, fact, said)
    return found


def merge(there: Sums, added: Sums) -> Sums:
    """The sums of both."""
    merged = dict(there)
    for key, amounts in added.items():
        _add(merged, key, amounts)
    return merged


_KNOWN: Final = frozenset((*_STAGES, *_PLAYER_DAY, quest.QUEST_PUBLISHED))


def _read(fact: Fact) -> tuple[Fact, Said]:
    """What the event says, an old version brought to the current one."""
    if fact.event_type in CHAIN.sources:
        name, data = CHAIN.upcast(fact.event_type, msgspec.json.decode(fact.data))
        return fact._replace(event_type=name), msgspec.convert(msgspec.to_builtins(data), Said)
    if fact.event_type not in _KNOWN:
        raise UnknownEvent(NAME, fact.stream_seq, fact.event_type)
    return fact, _said_of.decode(fact.data)
