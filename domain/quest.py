"""Quest: what there is to do, when, for what reward, and how often it can be had."""

from __future__ import annotations

from typing import Annotated, assert_never

import msgspec

from domain.errors import ClosedForGood, InvalidData, NotDue, QuestExists, RetiredQuest, UnknownQuest
from domain.values import AmountOrNone, ElapsedMs, Line, Time, Token, to_ms, to_time

# -- names as stored --------------------------------------------------------------------------------------------------

QUEST_PUBLISHED = "quest-published/1"
QUEST_RETIRED = "quest-retired/1"
QUEST_CLOSED = "quest-closed/1"
SUPPLY_TAKEN = "supply-taken/1"

PUBLISH_QUEST = "publish-quest/1"
RETIRE_QUEST = "retire-quest/1"
CLOSE_QUEST = "close-quest/1"

# -- parts ------------------------------------------------------------------------------------------------------------


class Geofence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A circle on the ground; degrees times 10^7, because a signed body holds no floats."""

    lat_e7: Annotated[int, msgspec.Meta(ge=-900_000_000, le=900_000_000)]
    lon_e7: Annotated[int, msgspec.Meta(ge=-1_800_000_000, le=1_800_000_000)]
    radius_m: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing to reach on the way; its XP counts when the quest is completed."""

    id: Token
    xp: AmountOrNone = 0
    geofence: Geofence | None = None


class Rewards(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a completion earns."""

    xp: AmountOrNone = 0
    tokens: AmountOrNone = 0
    badge: Token | None = None


# -- events -----------------------------------------------------------------------------------------------------------


class QuestPublished(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The quest exists from now on and keeps this definition for ever."""

    title: Line
    steps: tuple[Step, ...]
    rewards: Rewards
    opens_at: Time | None
    closes_at: Time | None
    divisions: tuple[Token, ...]
    supply: int | None
    attempt_deadline_ms: ElapsedMs | None = None


class QuestRetired(msgspec.Struct, frozen=True, kw_only=True):
    """The quest takes nothing any more."""

    reason: Line


class QuestClosed(msgspec.Struct, frozen=True, kw_only=True):
    """The window closed and the results are final: nothing that comes later counts, whenever it happened."""

    closes_at: Time


class SupplyTaken(msgspec.Struct, frozen=True, kw_only=True):
    """One of the limited badges went to a player; `taken` counts up to the supply."""

    player: Token
    taken: int


QuestEvent = QuestPublished | QuestRetired | QuestClosed | SupplyTaken

# -- commands ---------------------------------------------------------------------------------------------------------


class PublishQuest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bring a quest into being; times bound what may happen in it, `supply` how many get its badge: the first.

    An attempt that is not completed `attempt_deadline_ms` after it was accepted expires.
    """

    title: Line
    steps: Annotated[tuple[Step, ...], msgspec.Meta(max_length=200)] = ()
    rewards: Rewards = Rewards()
    opens_at: Time | None = None
    closes_at: Time | None = None
    divisions: Annotated[tuple[Token, ...], msgspec.Meta(max_length=64)] = ()
    supply: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | None = None
    attempt_deadline_ms: ElapsedMs | None = None


class RetireQuest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take a quest out of play; what was earned stays."""

    reason: Line = ""


class CloseQuest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say that a quest's window has closed; a timer says it at `closes_at`."""


class TakeSupply(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a completion: one of the limited badges for this player, while they last. Never on the wire."""

    player: Token


QuestCommand = PublishQuest | RetireQuest | TakeSupply

# -- state ------------------------------------------------------------------------------------------------------------


class QuestState(msgspec.Struct, frozen=True, kw_only=True):
    """The definition, ready for look-ups, and what is left of the supply."""

    published: bool = False
    retired: bool = False
    closed: bool = False
    step_xp: dict[str, int] = {}
    rewards: Rewards = Rewards()
    opens_at: str | None = None
    closes_at: str | None = None
    opens_at_ms: int | None = None
    closes_at_ms: int | None = None
    divisions: frozenset[str] = frozenset()
    supply: int | None = None
    taken: int = 0
    attempt_deadline_ms: int | None = None


INITIAL = QuestState()

# -- evolve -----------------------------------------------------------------------------------------------------------


def evolve(state: QuestState, event: QuestEvent) -> QuestState:
    """The state after the event."""
    match event:
        case SupplyTaken():
            return msgspec.structs.replace(state, taken=event.taken)
        case QuestPublished():
            return QuestState(
                published=True,
                step_xp={step.id: step.xp for step in event.steps},
                rewards=event.rewards,
                opens_at=event.opens_at,
                closes_at=event.closes_at,
                opens_at_ms=to_ms(event.opens_at) if event.opens_at else None,
                closes_at_ms=to_ms(event.closes_at) if event.closes_at else None,
                divisions=frozenset(event.divisions),
                supply=event.supply,
                attempt_deadline_ms=event.attempt_deadline_ms,
            )
        case QuestClosed():
            return msgspec.structs.replace(state, closed=True)
        case QuestRetired():
            return msgspec.structs.replace(state, retired=True)
        case _:
            assert_never(event)


# -- decide -----------------------------------------------------------------------------------------------------------


def decide(command: QuestCommand, state: QuestState, quest: str) -> tuple[QuestEvent, ...]:
    """What follows from the command; raises `Refused` when a rule says no."""
    match command:
        case TakeSupply():
            require_in_play(state, quest)
            if state.supply is None or state.taken >= state.supply:
                return ()
            return (SupplyTaken(player=command.player, taken=state.taken + 1),)
        case PublishQuest():
            return _publish(command, state, quest)
        case RetireQuest():
            require_in_play(state, quest)
            return (QuestRetired(reason=command.reason),)
        case _:
            assert_never(command)


def close(state: QuestState, quest: str, at_ms: int) -> tuple[QuestEvent, ...]:
    """The closing of a quest whose window is over at `at_ms`; raises `Refused`."""
    require_in_play(state, quest)
    if state.closes_at is None or state.closes_at_ms is None or at_ms < state.closes_at_ms:
        what = f"quest {quest}"
        raise NotDue(what, state.closes_at, to_time(at_ms))
    require_not_closed(state, quest)
    return (QuestClosed(closes_at=state.closes_at),)


def _publish(command: PublishQuest, state: QuestState, quest: str) -> tuple[QuestEvent, ...]:
    if state.published:
        raise QuestExists(quest)
    ids = [step.id for step in command.steps]
    if len(set(ids)) != len(ids):
        message = f"quest {quest} names a step twice; give each step its own id"
        raise InvalidData(message)
    if len(set(command.divisions)) != len(command.divisions):
        message = f"quest {quest} names a division twice"
        raise InvalidData(message)
    if command.supply is not None and command.rewards.badge is None:
        message = f"quest {quest} has a supply but no badge; the supply is how many get the badge"
        raise InvalidData(message)
    bounds = [_bound_ms(time) for time in (command.opens_at, command.closes_at) if time is not None]
    if len(bounds) == 2 and bounds[1] <= bounds[0]:
        message = f"quest {quest} closes at {command.closes_at}, not after it opens at {command.opens_at}"
        raise InvalidData(message)
    return (
        QuestPublished(
            title=command.title,
            steps=command.steps,
            rewards=command.rewards,
            opens_at=command.opens_at,
            closes_at=command.closes_at,
            divisions=command.divisions,
            supply=command.supply,
            attempt_deadline_ms=command.attempt_deadline_ms,
        ),
    )


def _bound_ms(time: str) -> int:
    try:
        return to_ms(time)
    except ValueError as err:
        message = f"{time} is no moment of the calendar; write it like 2026-11-21T10:00:00.000Z"
        raise InvalidData(message) from err


def require_in_play(state: QuestState, quest: str) -> None:
    """Refuse what addresses a quest that was never published or is retired."""
    if not state.published:
        raise UnknownQuest(quest)
    if state.retired:
        raise RetiredQuest(quest)


def require_not_closed(state: QuestState, quest: str) -> None:
    """Refuse what comes after the closing was recorded."""
    if state.closed:
        raise ClosedForGood(quest, str(state.closes_at))
