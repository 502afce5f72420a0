"""Leaderboards: from events to what changes on which boards.

All boards rank ascending, so what ranks most-first is stored negated. Equal scores stand in the order in which they
were reached: a member is the stream_seq of the event that brought the score, in a text that sorts as numbers do, and
the player's id. Each player has a standing besides, that text and the score: who asks for players needs no more.
What a board is short of (the score so far, a player's region) the store has, and completes in the step that applies it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from bus.envelope import Recorded
from bus.gist import KINDS, gist_of
from domain.player import PLAYER_REGISTERED, QUEST_COMPLETED, STEP_REACHED, XP_AWARDED
from domain.token import TOKENS_MINTED, TOKENS_RECEIVED, TOKENS_SENT, TOKENS_SPENT
from projections.boards import MOST, BoardSettings, Definition, Metric, base_name
from projections.errors import UnknownEvent
from projections.windows import Labels, labels, zone_of

NAME: Final = "leaderboards"
VERSION: Final = 3
#: Bits that say what of a player's profile comes behind the name of a board.
REGION: Final = 1
COHORT: Final = 2
_BEFORE_A: Final = ord("A") - 1
_REGISTERED: Final = KINDS[PLAYER_REGISTERED]

_Value = Callable[[Any], int]
#: Metric -> the events that tell of it, and how much each of them counts.
_TOLD_BY: Final[dict[Metric, dict[str, _Value]]] = {
    "xp": {XP_AWARDED: lambda data: data.amount},
    "completions": {QUEST_COMPLETED: lambda _: 1},
    "steps": {STEP_REACHED: lambda _: 1},
    "elapsed": {QUEST_COMPLETED: lambda data: data.elapsed_ms},
    "tokens": {
        TOKENS_MINTED: lambda data: data.amount,
        TOKENS_RECEIVED: lambda data: data.amount,
        TOKENS_SPENT: lambda data: -data.amount,
        TOKENS_SENT: lambda data: -data.amount,
    },
}


class Rule(NamedTuple):
    """What an event of one type does to the boards of one definition."""

    name: str
    label: Labels
    by_quest: bool
    by_division: bool
    profile: int
    is_best: bool
    sign: int
    value: _Value


class Changes(msgspec.Struct, gc=False):
    """What changes on a board: player -> what to add (or the best so far) as it is sorted, and the event's sequence."""

    is_best: bool
    profile: int
    by_player: dict[str, tuple[int, int]]


class Writes(msgspec.Struct):
    """What some events leave behind: profiles (region and cohort, "" for none), and changes by the name of the board.

    A board with a profile has the region, the cohort or both behind the name; who has none is not ranked there.
    """

    profiles: dict[str, tuple[str, str]]
    boards: dict[str, Changes]


class Projector:
    """`project` for the boards of one tenant."""

    def __init__(self, settings: BoardSettings) -> None:
        zone = zone_of(settings.zone)
        rules: dict[type[Any], list[Rule]] = {}
        for one in settings.definitions:
            label = labels(one.window, zone, settings.seasons)
            for kind, value in _TOLD_BY[one.metric].items():
                rules.setdefault(KINDS[kind], []).append(_rule(one, label, value))
        self._rules = rules
        self._needs_profiles = any(rule.profile for found in rules.values() for rule in found)

    def project(self, records: Sequence[Recorded]) -> Writes:
        """The changes that the records make; raises `UnknownEvent`."""
        writes = Writes({}, {})
        for record in records:
            gist = gist_of(record)
            kind = type(gist)
            if rules := self._rules.get(kind):
                player = gist.subject.partition("/")[2]
                for rule in rules:
                    _change(writes.boards, rule, record.stream_seq, gist.time, player, gist.data)
            elif kind is _REGISTERED:
                if self._needs_profiles:
                    player = gist.subject.partition("/")[2]
                    writes.profiles[player] = (gist.data.region or "", gist.data.cohort or "")
            elif gist is None:
                raise UnknownEvent(NAME, record.stream_seq, record.event.type)
        return writes


def _rule(one: Definition, label: Labels, value: _Value) -> Rule:
    return Rule(
        name=one.name,
        label=label,
        by_quest="quest" in one.scope,
        by_division="division" in one.scope,
        profile=REGION * ("region" in one.scope) + COHORT * ("cohort" in one.scope),
        is_best=one.metric == "elapsed",
        sign=-1 if one.direction == MOST else 1,
        value=value,
    )


def _change(boards: dict[str, Changes], rule: Rule, seq: int, time: str, player: str, data: Any) -> None:
    label = rule.label(time)
    value = rule.sign * rule.value(data)
    if label is None or not value:
        return
    name = base_name(rule.name, label)
    if rule.by_quest:
        name = f"{name}:{data.quest}"
    for each in {f"{name}:{division}" for division in data.divisions} if rule.by_division else (name,):
        found = boards.get(each)
        if found is None:
            found = boards[each] = Changes(rule.is_best, rule.profile, {})
        before = found.by_player.get(player)
        if before is None:
            found.by_player[player] = (value, seq)
        elif not rule.is_best:
            found.by_player[player] = (before[0] + value, seq)
        elif value < before[0]:
            found.by_player[player] = (value, seq)


def seq_text(stream_seq: int) -> str:
    """Hex digits behind a letter that says how many they are (A one, B two ..): short, and sorts as the numbers do."""
    digits = f"{stream_seq:x}"
    return f"{chr(_BEFORE_A + len(digits))}{digits}"


def apart(text: str) -> tuple[str, str]:
    """A member as sequence and player, or a standing as sequence and score."""
    at = ord(text[0]) - _BEFORE_A + 1
    return text[:at], text[at:]


def member_of(stream_seq: int, player: str) -> str:
    """How a player stands in a sorted set: earlier achievers sort first among equals."""
    return f"{seq_text(stream_seq)}{player}"


def player_of(member: str) -> str:
    """The player behind a member."""
    return apart(member)[1]
