"""Read models: players, attempts and their steps, badges, XP, accounts with double-entry postings, quests, days.

A batch of events is folded into the rows that it adds and the rows that it changes, each key once. Rows hold the
totals that the events state; only counters (of quests, steps, days, the treasury) are differences, which the sink's
fence applies once. Rows are tuples in the order of adapters/postgres_rows.py. Days are those of the event, in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from bus.envelope import COMMANDS_DECIDED, Recorded
from bus.gist import KINDS, gist_of
from domain import logkeys, player, quest, token, zone
from projections.errors import UnknownEvent

NAME: Final = "readmodels"
VERSION: Final = 2
#: The other side of minting and spending. No player can be called so: ids hold no `@`.
TREASURY: Final = "@treasury"

AttemptKey = tuple[str, str, int]
Nullable = str | int | None


class AttemptChange(msgspec.Struct, gc=False):
    """How an attempt ended that was there before the batch."""

    status: str
    finished_at: str
    elapsed_ms: int | None = None


class QuestChange(msgspec.Struct, gc=False):
    """What a batch adds to a quest's statistics."""

    accepted: int = 0
    completed: int = 0
    abandoned: int = 0
    expired: int = 0
    best_ms: int | None = None
    taken: int | None = None
    retired_at: str | None = None
    closed_at: str | None = None


class Writes(msgspec.Struct):
    """What a batch does to the read models; keys of `…_changed` were there before the batch."""

    players: dict[str, list[Nullable]] = {}
    players_changed: dict[str, tuple[int, int]] = {}
    badges: list[tuple[Nullable, ...]] = []
    xp_awards: list[tuple[Nullable, ...]] = []
    attempts: dict[AttemptKey, list[Nullable]] = {}
    attempts_changed: dict[AttemptKey, AttemptChange] = {}
    steps: list[tuple[Nullable, ...]] = []
    balances: dict[str, int] = {}
    treasury: int = 0
    postings: list[tuple[Nullable, ...]] = []
    quests: list[tuple[Nullable, ...]] = []
    quest_steps: list[tuple[Nullable, ...]] = []
    quests_changed: dict[str, QuestChange] = {}
    steps_reached: dict[tuple[str, str], int] = {}
    days: dict[str, list[int]] = {}
    quest_days: dict[tuple[str, str], list[int]] = {}


#: Gets the writes, the sequence, the time, the owner and the domain event.
Handler = Callable[[Writes, int, str, str, Any], None]

# Columns of the rows that later events of the same batch change.
_XP, _LEVEL = 4, 5
_STATUS, _FINISHED_AT, _ELAPSED_MS = 4, 6, 7
# Counters of a day, and of a quest's day, in the order of their columns.
REGISTERED, MINTED, SPENT, SENT = range(4)
ACCEPTED, STEPS, COMPLETED, ABANDONED, EXPIRED, BADGES = range(6)
_DAY: Final = len("2014-04-21")


def project(records: Sequence[Recorded]) -> Writes:
    """What the records add and change; raises `UnknownEvent` for a type that nobody here knows."""
    writes = Writes()
    for record in records:
        gist = gist_of(record)
        handle = _HANDLERS.get(type(gist))
        if handle is not None:
            handle(writes, record.stream_seq, gist.time, gist.subject.partition("/")[2], gist.data)
        elif type(gist) not in _PASSED_OVER:
            raise UnknownEvent(NAME, record.stream_seq, record.event.type)
    return writes


def whole_movements(records: Sequence[Recorded]) -> int:
    """How many of the records may be applied together: a transfer's first half waits for its second."""
    total = len(records)
    return total - 1 if total and records[-1].event.type == token.TOKENS_SENT else total


def _player_registered(writes: Writes, _: int, time: str, owner: str, data: player.PlayerRegistered) -> None:
    writes.players[owner] = [owner, data.region, data.cohort, time, 0, 1]
    _day(writes, time)[REGISTERED] += 1


def _quest_accepted(writes: Writes, _: int, time: str, owner: str, data: player.QuestAccepted) -> None:
    divisions = array(data.divisions)
    row: list[Nullable] = [owner, data.quest, data.attempt, divisions, "accepted", time, None, None]
    writes.attempts[owner, data.quest, data.attempt] = row
    _quest(writes, data.quest).accepted += 1
    _quest_day(writes, time, data.quest)[ACCEPTED] += 1


def _step_reached(writes: Writes, _: int, time: str, owner: str, data: player.StepReached) -> None:
    quest_id = data.quest
    writes.steps.append((owner, quest_id, data.attempt, data.step, data.elapsed_ms, time))
    counted = writes.steps_reached
    key = (quest_id, data.step)
    counted[key] = counted.get(key, 0) + 1
    _quest_day(writes, time, quest_id)[STEPS] += 1


def _quest_completed(writes: Writes, _: int, time: str, owner: str, data: player.QuestCompleted) -> None:
    change = AttemptChange("completed", time, data.elapsed_ms)
    _attempt(writes, (owner, data.quest, data.attempt), change)
    statistics = _quest(writes, data.quest)
    statistics.completed += 1
    _quest_day(writes, time, data.quest)[COMPLETED] += 1
    if statistics.best_ms is None or data.elapsed_ms < statistics.best_ms:
        statistics.best_ms = data.elapsed_ms


def _quest_abandoned(writes: Writes, _: int, time: str, owner: str, data: player.QuestAbandoned) -> None:
    _attempt(writes, (owner, data.quest, data.attempt), AttemptChange("abandoned", time))
    _quest(writes, data.quest).abandoned += 1
    _quest_day(writes, time, data.quest)[ABANDONED] += 1


def _attempt_expired(writes: Writes, _: int, time: str, owner: str, data: player.AttemptExpired) -> None:
    _attempt(writes, (owner, data.quest, data.attempt), AttemptChange("expired", time))
    _quest(writes, data.quest).expired += 1
    _quest_day(writes, time, data.quest)[EXPIRED] += 1


def _xp_awarded(writes: Writes, _: int, time: str, owner: str, data: player.XpAwarded) -> None:
    writes.xp_awards.append((owner, data.quest, time, data.amount, data.total))
    row = writes.players.get(owner)
    if row is None:
        writes.players_changed[owner] = (data.total, data.level)
    else:
        row[_XP], row[_LEVEL] = data.total, data.level


def _badge_awarded(writes: Writes, _: int, time: str, owner: str, data: player.BadgeAwarded) -> None:
    writes.badges.append((owner, data.quest, data.badge, time))
    _quest_day(writes, time, data.quest)[BADGES] += 1


def _tokens_minted(writes: Writes, seq: int, time: str, owner: str, data: token.TokensMinted) -> None:
    _post(writes, seq, time, data, owner, TREASURY, data.amount)
    writes.treasury -= data.amount
    _day(writes, time)[MINTED] += data.amount
    writes.postings.append(_treasury_row(seq, time, owner, -data.amount, data.reason))


def _tokens_spent(writes: Writes, seq: int, time: str, owner: str, data: token.TokensSpent) -> None:
    _post(writes, seq, time, data, owner, TREASURY, -data.amount)
    writes.treasury += data.amount
    _day(writes, time)[SPENT] += data.amount
    writes.postings.append(_treasury_row(seq, time, owner, data.amount, data.reason))


def _tokens_sent(writes: Writes, seq: int, time: str, owner: str, data: token.TokensSent) -> None:
    _post(writes, seq, time, data, owner, data.recipient, -data.amount)
    _day(writes, time)[SENT] += data.amount


def _tokens_received(writes: Writes, seq: int, time: str, owner: str, data: token.TokensReceived) -> None:
    _post(writes, seq, time, data, owner, data.sender, data.amount)


def _quest_published(writes: Writes, _: int, time: str, owner: str, data: quest.QuestPublished) -> None:
    window = (data.opens_at, data.closes_at)
    writes.quests.append((owner, data.title, time, *window, array(data.divisions), data.supply))
    writes.quest_steps += [(owner, step.id, at, step.xp) for at, step in enumerate(data.steps, 1)]


def _quest_retired(writes: Writes, _: int, time: str, owner: str, __: quest.QuestRetired) -> None:
    _quest(writes, owner).retired_at = time


def _quest_closed(writes: Writes, _: int, time: str, owner: str, __: quest.QuestClosed) -> None:
    _quest(writes, owner).closed_at = time


def _supply_taken(writes: Writes, _: int, __: str, owner: str, data: quest.SupplyTaken) -> None:
    _quest(writes, owner).taken = data.taken


def _quest(writes: Writes, quest_id: str) -> QuestChange:
    change = writes.quests_changed.get(quest_id)
    if change is None:
        change = writes.quests_changed[quest_id] = QuestChange()
    return change


def _attempt(writes: Writes, key: AttemptKey, change: AttemptChange) -> None:
    row = writes.attempts.get(key)
    if row is None:
        writes.attempts_changed[key] = change
    else:
        row[_STATUS], row[_FINISHED_AT], row[_ELAPSED_MS] = change.status, change.finished_at, change.elapsed_ms


def _day(writes: Writes, time: str) -> list[int]:
    day = time[:_DAY]
    counts = writes.days.get(day)
    if counts is None:
        counts = writes.days[day] = [0] * 4
    return counts


def _quest_day(writes: Writes, time: str, quest_id: str) -> list[int]:
    key = (quest_id, time[:_DAY])
    counts = writes.quest_days.get(key)
    if counts is None:
        counts = writes.quest_days[key] = [0] * 6
    return counts


def _post(writes: Writes, seq: int, time: str, data: token.TokenEvent, owner: str, other: str, amount: int) -> None:
    writes.balances[owner] = data.balance
    writes.postings.append((owner, seq, other, amount, data.balance, data.reason, time))


def _treasury_row(seq: int, time: str, other: str, amount: int, reason: str) -> tuple[Nullable, ...]:
    return (TREASURY, seq, other, amount, None, reason, time)


def array(values: Iterable[Nullable]) -> str:
    """Ids, times and numbers as a PostgreSQL array; none holds a character that needs an escape."""
    return "{" + ",".join(["NULL" if v is None else f'"{v}"' if type(v) is str else str(v) for v in values]) + "}"


HANDLERS: Final[Mapping[str, Handler]] = {
    player.PLAYER_REGISTERED: _player_registered,
    player.QUEST_ACCEPTED: _quest_accepted,
    player.STEP_REACHED: _step_reached,
    player.QUEST_COMPLETED: _quest_completed,
    player.QUEST_ABANDONED: _quest_abandoned,
    player.ATTEMPT_EXPIRED: _attempt_expired,
    player.XP_AWARDED: _xp_awarded,
    player.BADGE_AWARDED: _badge_awarded,
    token.TOKENS_MINTED: _tokens_minted,
    token.TOKENS_SPENT: _tokens_spent,
    token.TOKENS_SENT: _tokens_sent,
    token.TOKENS_RECEIVED: _tokens_received,
    quest.QUEST_PUBLISHED: _quest_published,
    quest.QUEST_RETIRED: _quest_retired,
    quest.QUEST_CLOSED: _quest_closed,
    quest.SUPPLY_TAKEN: _supply_taken,
}
_HANDLERS: Final[Mapping[type[Any], Handler]] = {KINDS[name]: handle for name, handle in HANDLERS.items()}
#: Events that change nothing here: those of the inbox and of the log's keys, and where a player is (the segments know).
PASSED_OVER: Final = frozenset(
    {COMMANDS_DECIDED, logkeys.KEY_ADDED, logkeys.KEY_RETIRED, zone.ZONE_ENTERED, zone.ZONE_LEFT}
)
_PASSED_OVER: Final = frozenset(KINDS[name] for name in PASSED_OVER)
