"""Read models: players, attempts and their steps, badges, accounts with double-entry postings, quest statistics.

A batch of events is folded into the rows that it adds and the rows that it changes, each key once. Rows hold the
totals that the events state; only counters (of quests, steps, the treasury) are differences, which the sink's fence
applies once. Rows are tuples in the order of the columns of adapters/postgres_schema.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from bus.envelope import COMMANDS_DECIDED, Recorded
from domain import player, quest, token
from projections.errors import UnknownEvent

NAME: Final = "readmodels"
VERSION: Final = 1
#: The other side of minting and spending. No player can be called so: ids hold no `@`.
TREASURY: Final = "@treasury"

AttemptKey = tuple[str, str, int]
Nullable = str | int | None


class AttemptChange(msgspec.Struct, gc=False):
    """What a batch changes of an attempt that was there before; None leaves a column as it is."""

    status: str | None = None
    finished_at: str | None = None
    steps_reached: int | None = None
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


Handler = Callable[[Writes, Recorded, str, Any], None]

# Columns of the rows that later events of the same batch change.
_XP, _LEVEL = 4, 5
_STATUS, _FINISHED_AT, _STEPS_REACHED, _ELAPSED_MS = 4, 6, 7, 8


def project(records: Sequence[Recorded]) -> Writes:
    """What the records add and change; raises `UnknownEvent` for a type that nobody here knows."""
    writes = Writes()
    for record in records:
        event = record.event
        handle = _HANDLERS.get(event.type)
        if handle is not None:
            handle(writes, record, event.subject.partition("/")[2], record.data)
        elif event.type != COMMANDS_DECIDED:
            raise UnknownEvent(NAME, record.stream_seq, event.type)
    return writes


def whole_movements(records: Sequence[Recorded]) -> int:
    """How many of the records may be applied together: a transfer's first half waits for its second."""
    total = len(records)
    return total - 1 if total and records[-1].event.type == token.TOKENS_SENT else total


def _player_registered(writes: Writes, record: Recorded, owner: str, data: player.PlayerRegistered) -> None:
    writes.players[owner] = [owner, data.region, data.cohort, record.event.time, 0, 1]


def _quest_accepted(writes: Writes, record: Recorded, owner: str, data: player.QuestAccepted) -> None:
    divisions = array(data.divisions)
    row: list[Nullable] = [owner, data.quest, data.attempt, divisions, "accepted", record.event.time, None, 0, None]
    writes.attempts[owner, data.quest, data.attempt] = row
    _quest(writes, data.quest).accepted += 1


def _step_reached(writes: Writes, record: Recorded, owner: str, data: player.StepReached) -> None:
    quest_id = data.quest
    writes.steps.append((owner, quest_id, data.attempt, data.step, data.elapsed_ms, record.event.time))
    counted = writes.steps_reached
    key = (quest_id, data.step)
    counted[key] = counted.get(key, 0) + 1
    _attempt(writes, (owner, quest_id, data.attempt), AttemptChange(None, None, data.steps_reached, None))


def _quest_completed(writes: Writes, record: Recorded, owner: str, data: player.QuestCompleted) -> None:
    change = AttemptChange("completed", record.event.time, data.steps_reached, data.elapsed_ms)
    _attempt(writes, (owner, data.quest, data.attempt), change)
    statistics = _quest(writes, data.quest)
    statistics.completed += 1
    if statistics.best_ms is None or data.elapsed_ms < statistics.best_ms:
        statistics.best_ms = data.elapsed_ms


def _quest_abandoned(writes: Writes, record: Recorded, owner: str, data: player.QuestAbandoned) -> None:
    change = AttemptChange("abandoned", record.event.time, data.steps_reached, None)
    _attempt(writes, (owner, data.quest, data.attempt), change)
    _quest(writes, data.quest).abandoned += 1


def _attempt_expired(writes: Writes, record: Recorded, owner: str, data: player.AttemptExpired) -> None:
    change = AttemptChange("expired", record.event.time, data.steps_reached, None)
    _attempt(writes, (owner, data.quest, data.attempt), change)
    _quest(writes, data.quest).expired += 1


def _xp_awarded(writes: Writes, _: Recorded, owner: str, data: player.XpAwarded) -> None:
    row = writes.players.get(owner)
    if row is None:
        writes.players_changed[owner] = (data.total, data.level)
    else:
        row[_XP], row[_LEVEL] = data.total, data.level


def _badge_awarded(writes: Writes, record: Recorded, owner: str, data: player.BadgeAwarded) -> None:
    writes.badges.append((owner, data.quest, data.badge, record.event.time))


def _tokens_minted(writes: Writes, record: Recorded, owner: str, data: token.TokensMinted) -> None:
    _post(writes, record, owner, TREASURY, data.amount)
    writes.treasury -= data.amount
    writes.postings.append(_treasury_row(record, owner, -data.amount, data.reason))


def _tokens_spent(writes: Writes, record: Recorded, owner: str, data: token.TokensSpent) -> None:
    _post(writes, record, owner, TREASURY, -data.amount)
    writes.treasury += data.amount
    writes.postings.append(_treasury_row(record, owner, data.amount, data.reason))


def _tokens_sent(writes: Writes, record: Recorded, owner: str, data: token.TokensSent) -> None:
    _post(writes, record, owner, data.recipient, -data.amount)


def _tokens_received(writes: Writes, record: Recorded, owner: str, data: token.TokensReceived) -> None:
    _post(writes, record, owner, data.sender, data.amount)


def _quest_published(writes: Writes, record: Recorded, owner: str, data: quest.QuestPublished) -> None:
    window = (data.opens_at, data.closes_at)
    writes.quests.append((owner, data.title, record.event.time, *window, array(data.divisions), data.supply))
    writes.quest_steps += [(owner, step.id, at, step.xp) for at, step in enumerate(data.steps, 1)]


def _quest_retired(writes: Writes, record: Recorded, owner: str, _: quest.QuestRetired) -> None:
    _quest(writes, owner).retired_at = record.event.time


def _quest_closed(writes: Writes, record: Recorded, owner: str, _: quest.QuestClosed) -> None:
    _quest(writes, owner).closed_at = record.event.time


def _supply_taken(writes: Writes, _: Recorded, owner: str, data: quest.SupplyTaken) -> None:
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
        return
    row[_STEPS_REACHED] = change.steps_reached
    if change.status is not None:
        row[_STATUS], row[_FINISHED_AT], row[_ELAPSED_MS] = change.status, change.finished_at, change.elapsed_ms


def _post(writes: Writes, record: Recorded, owner: str, other: str, amount: int) -> None:
    data = record.data
    writes.balances[owner] = data.balance
    writes.postings.append((owner, record.stream_seq, other, amount, data.balance, data.reason, record.event.time))


def _treasury_row(record: Recorded, other: str, amount: int, reason: str) -> tuple[Nullable, ...]:
    return (TREASURY, record.stream_seq, other, amount, None, reason, record.event.time)


def array(values: Iterable[Nullable]) -> str:
    """Ids, times and numbers as a PostgreSQL array; none holds a character that needs an escape."""
    return "{" + ",".join(["NULL" if v is None else f'"{v}"' if type(v) is str else str(v) for v in values]) + "}"


_HANDLERS: Final[Mapping[str, Handler]] = {
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
