"""Leaderboards: who is fastest at a quest, over all and per division, and who has the most XP.

A metric is one number per player (the time of a quest, the XP); its boards are the scopes in which it is ranked. All
boards rank ascending, the XP is therefore stored negated, and equal scores stand in the order in which they were
reached: a member is the stream_seq of the event that brought the score, in 12 hex digits, before the player's id.
Scores come from events as totals, so the last one wins and a second application changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from bus.envelope import COMMANDS_DECIDED, Recorded
from domain.catalogue import EVENTS
from domain.player import QUEST_COMPLETED, XP_AWARDED
from projections.errors import UnknownEvent

NAME: Final = "leaderboards"
VERSION: Final = 1
XP: Final = "xp"
SEQ_DIGITS: Final = 12
_KNOWN: Final = frozenset((*EVENTS, COMMANDS_DECIDED))


class Board(msgspec.Struct, frozen=True):
    """A ranking: the metric, and the division in which it is ranked (None: over all)."""

    metric: str
    division: str | None = None

    @property
    def name(self) -> str:
        """`xp`, `quest:<q>` or `quest:<q>:<division>`; ids hold no colon, so names cannot meet."""
        return self.metric if self.division is None else f"{self.metric}:{self.division}"

    @property
    def is_descending(self) -> bool:
        """Whether more is better."""
        return self.metric == XP


def quest_metric(quest: str) -> str:
    """The metric of a quest's elapsed time."""
    return f"quest:{quest}"


class Score(msgspec.Struct, frozen=True, gc=False):
    """A player's value of a metric as it is sorted, who it belongs to and since when, and the boards that rank it."""

    score: int
    member: str
    divisions: tuple[str, ...]


#: metric -> player -> score
Scores = dict[str, dict[str, Score]]


def member_of(stream_seq: int, player: str) -> str:
    """How a player stands in a sorted set: earlier achievers sort first among equals."""
    return f"{stream_seq:012x}{player}"


def player_of(member: str) -> str:
    """The player behind a member."""
    return member[SEQ_DIGITS:]


def project(records: Sequence[Recorded]) -> Scores:
    """The scores that the records leave behind: per metric and player the last one."""
    scores: Scores = {}
    for record in records:
        event = record.event
        kind = event.type
        if kind == QUEST_COMPLETED:
            data = record.data
            player = event.subject.removeprefix("player/")
            score = Score(data.elapsed_ms, member_of(record.stream_seq, player), data.divisions)
            scores.setdefault(quest_metric(data.quest), {})[player] = score
        elif kind == XP_AWARDED:
            player = event.subject.removeprefix("player/")
            score = Score(-record.data.total, member_of(record.stream_seq, player), ())
            scores.setdefault(XP, {})[player] = score
        elif kind not in _KNOWN:
            raise UnknownEvent(NAME, record.stream_seq, kind)
    return scores
