"""Player: registration, attempts at quests, XP, level and badges. The quest's definition comes in as a value."""

from __future__ import annotations

from math import isqrt
from typing import Annotated, assert_never, final

import msgspec

from domain.attempt import Attempt, deadline_of, has_expired, require_running
from domain.errors import (
    AlreadyAccepted,
    AlreadyCompleted,
    AlreadyRegistered,
    AttemptEnded,
    FinishBeforeStart,
    NotDue,
    NotRegistered,
    QuestClosed,
    QuestNotOpen,
    StepAlreadyReached,
    UnknownDivision,
    UnknownStep,
)
from domain.quest import QuestState, require_in_play, require_not_closed
from domain.values import TIME_MS_LAST, AmountOrNone, ElapsedMs, EncryptedField, Line, Time, Token, to_ms, to_time
from domain.zone import ZoneEntered, ZoneEvent, ZoneLeft

# -- names as stored --------------------------------------------------------------------------------------------------

PLAYER_REGISTERED = "player-registered/1"
QUEST_ACCEPTED = "quest-accepted/1"
STEP_REACHED = "step-reached/1"
QUEST_COMPLETED = "quest-completed/1"
XP_AWARDED = "xp-awarded/1"
BADGE_AWARDED = "badge-awarded/1"
QUEST_ABANDONED = "quest-abandoned/1"
ATTEMPT_EXPIRED = "attempt-expired/1"

REGISTER_PLAYER = "register-player/1"
ACCEPT_QUEST = "accept-quest/1"
REACH_STEP = "reach-step/1"
COMPLETE_QUEST = "complete-quest/1"
ABANDON_QUEST = "abandon-quest/1"
EXPIRE_ATTEMPT = "expire-attempt/1"

# -- events -----------------------------------------------------------------------------------------------------------


class PlayerRegistered(msgspec.Struct, frozen=True, kw_only=True):
    """The player takes part; personal fields only as ciphertext."""

    region: Token | None
    cohort: Token | None
    personal: dict[Token, EncryptedField]


class QuestAccepted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An attempt began, ranked in these divisions; attempts at one quest count from 1."""

    quest: Token
    attempt: int
    divisions: tuple[Token, ...]
    deadline_at: Time | None = None


class StepReached(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A step was reached, so long after the start of the attempt."""

    quest: Token
    attempt: int
    step: Token
    elapsed_ms: ElapsedMs
    steps_reached: int


@final
class QuestCompleted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The attempt succeeded; a step that was missed did not stop it."""

    quest: Token
    attempt: int
    elapsed_ms: ElapsedMs
    steps_reached: int
    steps_total: int
    divisions: tuple[Token, ...]


@final
class XpAwarded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Experience for a completion; `total` and `level` are what the player has now."""

    quest: Token
    amount: AmountOrNone
    total: int
    level: int


@final
class BadgeAwarded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A badge for a completion."""

    quest: Token
    badge: Token


class QuestAbandoned(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt was given up; a new one may begin."""

    quest: Token
    attempt: int
    steps_reached: int
    reason: Line


class AttemptExpired(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt's deadline passed before it was completed; a new one may begin."""

    quest: Token
    attempt: int
    steps_reached: int


PlayerEvent = (
    PlayerRegistered
    | QuestAccepted
    | StepReached
    | QuestCompleted
    | XpAwarded
    | BadgeAwarded
    | QuestAbandoned
    | AttemptExpired
    | ZoneEvent
)

# -- commands ---------------------------------------------------------------------------------------------------------


class RegisterPlayer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let a player take part."""

    region: Token | None = None
    cohort: Token | None = None
    personal: Annotated[dict[Token, EncryptedField], msgspec.Meta(max_length=32)] = {}


class AcceptQuest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Begin an attempt at a quest."""

    quest: Token
    divisions: Annotated[tuple[Token, ...], msgspec.Meta(max_length=8)] = ()


class ReachStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Report a step of the running attempt."""

    quest: Token
    step: Token
    elapsed_ms: ElapsedMs


@final
class CompleteQuest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Report the finish of the running attempt."""

    quest: Token
    elapsed_ms: ElapsedMs


class AbandonQuest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give the running attempt up."""

    quest: Token
    reason: Line = ""


PlayerCommand = RegisterPlayer | AcceptQuest | ReachStep | CompleteQuest | AbandonQuest


class ExpireAttempt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say that an attempt's deadline has passed; a timer says it at that moment."""

    quest: Token
    attempt: Annotated[int, msgspec.Meta(ge=1)]


AttemptCommand = AcceptQuest | ReachStep | CompleteQuest | AbandonQuest

# -- state ------------------------------------------------------------------------------------------------------------


class PlayerState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the rules need to know of a player."""

    registered: bool = False
    attempts: dict[str, Attempt] = {}
    xp: int = 0
    badges: tuple[str, ...] = ()


INITIAL = PlayerState()


def level_of(xp: int) -> int:
    """Level n begins at 100 (n - 1)^2 XP: each level takes longer than the one before."""
    return 1 + isqrt(xp // 100)


# -- evolve -----------------------------------------------------------------------------------------------------------


def evolve(state: PlayerState, event: PlayerEvent, at_ms: int) -> PlayerState:
    """The state after the event, which happened at `at_ms`."""
    # What every completion leads to comes first, told apart by identity: a class pattern costs as much as the rest.
    if type(event) is QuestCompleted:
        return _with_attempt(state, event.quest, _changed(state.attempts[event.quest], status="completed"))
    if type(event) is XpAwarded:
        return _changed(state, xp=event.total)
    if type(event) is BadgeAwarded:
        return _changed(state, badges=(*state.badges, event.badge))
    match event:
        case StepReached():
            attempt = state.attempts[event.quest]
            return _with_attempt(
                state,
                event.quest,
                _changed(
                    attempt,
                    steps=(*attempt.steps, event.step),
                    last_elapsed_ms=max(attempt.last_elapsed_ms, event.elapsed_ms),
                ),
            )
        case QuestAccepted():
            attempt = Attempt(
                number=event.attempt,
                status="running",
                accepted_at_ms=at_ms,
                divisions=event.divisions,
                deadline_at_ms=to_ms(event.deadline_at) if event.deadline_at else None,
            )
            return _with_attempt(state, event.quest, attempt)
        case PlayerRegistered():
            return msgspec.structs.replace(state, registered=True)
        case QuestAbandoned():
            return _with_attempt(state, event.quest, _changed(state.attempts[event.quest], status="abandoned"))
        case AttemptExpired():
            return _with_attempt(state, event.quest, _changed(state.attempts[event.quest], status="expired"))
        case ZoneEntered() | ZoneLeft():
            return state
        case _:
            assert_never(event)


_changed = msgspec.structs.replace


def _with_attempt(state: PlayerState, quest: str, attempt: Attempt) -> PlayerState:
    return msgspec.structs.replace(state, attempts={**state.attempts, quest: attempt})


# -- decide -----------------------------------------------------------------------------------------------------------


def register(command: RegisterPlayer, state: PlayerState, player: str) -> tuple[PlayerEvent, ...]:
    """A player registers once."""
    if state.registered:
        raise AlreadyRegistered(player)
    return (PlayerRegistered(region=command.region, cohort=command.cohort, personal=command.personal),)


def decide(
    command: AttemptCommand, state: PlayerState, player: str, quest: QuestState, at_ms: int
) -> tuple[PlayerEvent, ...]:
    """What follows from the command, which tells of `at_ms`, for the given quest; raises `Refused` when a rule says no.

    A completion says nothing of the badge when the quest's supply is limited: the caller adds `award_badge` once one
    was taken.
    """
    if not state.registered:
        raise NotRegistered(player)
    require_in_play(quest, command.quest)
    _require_window(command.quest, quest, at_ms)
    if type(command) is CompleteQuest:  # by identity, as in `evolve`
        attempt = require_running(state.attempts, command.quest, player, at_ms)
        return _complete(command, state, attempt, quest, at_ms)
    match command:
        case ReachStep():
            attempt = require_running(state.attempts, command.quest, player, at_ms)
            return _reach(command, attempt, player, quest)
        case AcceptQuest():
            return _accept(command, state, player, quest, at_ms)
        case AbandonQuest():
            attempt = require_running(state.attempts, command.quest, player, at_ms)
            reached = len(attempt.steps)
            return (
                QuestAbandoned(
                    quest=command.quest, attempt=attempt.number, steps_reached=reached, reason=command.reason
                ),
            )
        case _:
            assert_never(command)


def expire(command: ExpireAttempt, state: PlayerState, player: str, at_ms: int) -> tuple[PlayerEvent, ...]:
    """The end of a running attempt whose deadline has passed at `at_ms`; raises `Refused`."""
    attempt = state.attempts.get(command.quest)
    if attempt is None or attempt.number != command.attempt or attempt.status != "running":
        raise AttemptEnded(player, command.quest, command.attempt)
    if not has_expired(attempt, at_ms):
        what = f"attempt {attempt.number} of player {player} at quest {command.quest}"
        raise NotDue(what, deadline_of(attempt), to_time(at_ms))
    return (_expired(command.quest, attempt),)


def award_badge(quest: str, badge: str) -> BadgeAwarded:
    """The event of a badge that was taken from a limited supply."""
    return BadgeAwarded(quest=quest, badge=badge)


def _require_window(name: str, quest: QuestState, at_ms: int) -> None:
    require_not_closed(quest, name)
    if quest.opens_at_ms is not None and at_ms < quest.opens_at_ms:
        raise QuestNotOpen(name, str(quest.opens_at), to_time(at_ms))
    if quest.closes_at_ms is not None and at_ms >= quest.closes_at_ms:
        raise QuestClosed(name, str(quest.closes_at), to_time(at_ms))


def _expired(quest: str, attempt: Attempt) -> AttemptExpired:
    return AttemptExpired(quest=quest, attempt=attempt.number, steps_reached=len(attempt.steps))


def _accept(
    command: AcceptQuest, state: PlayerState, player: str, quest: QuestState, at_ms: int
) -> tuple[PlayerEvent, ...]:
    attempt = state.attempts.get(command.quest)
    ended: tuple[PlayerEvent, ...] = ()
    if attempt is not None and attempt.status == "running" and has_expired(attempt, at_ms):
        ended = (_expired(command.quest, attempt),)
    elif attempt is not None and attempt.status == "running":
        raise AlreadyAccepted(player, command.quest)
    if attempt is not None and attempt.status == "completed":
        raise AlreadyCompleted(player, command.quest)
    for division in command.divisions:
        if division not in quest.divisions:
            raise UnknownDivision(command.quest, division)
    number = 1 if attempt is None else attempt.number + 1
    deadline_ms = quest.attempt_deadline_ms
    deadline_at = None if deadline_ms is None else to_time(min(at_ms + deadline_ms, TIME_MS_LAST))
    accepted = QuestAccepted(quest=command.quest, attempt=number, divisions=command.divisions, deadline_at=deadline_at)
    return (*ended, accepted)


def _reach(command: ReachStep, attempt: Attempt, player: str, quest: QuestState) -> tuple[PlayerEvent, ...]:
    if command.step not in quest.step_xp:
        raise UnknownStep(command.quest, command.step)
    if command.step in attempt.steps:
        raise StepAlreadyReached(player, command.step)
    return (
        StepReached(
            quest=command.quest,
            attempt=attempt.number,
            step=command.step,
            elapsed_ms=command.elapsed_ms,
            steps_reached=len(attempt.steps) + 1,
        ),
    )


def _complete(
    command: CompleteQuest, state: PlayerState, attempt: Attempt, quest: QuestState, at_ms: int
) -> tuple[PlayerEvent, ...]:
    if at_ms < attempt.accepted_at_ms:
        message = f"the finish at {to_time(at_ms)} lies before the start at {to_time(attempt.accepted_at_ms)}"
        raise FinishBeforeStart(message)
    if command.elapsed_ms < attempt.last_elapsed_ms:
        reached_ms = attempt.last_elapsed_ms
        message = f"the finish after {command.elapsed_ms} ms lies before a step reached after {reached_ms} ms"
        raise FinishBeforeStart(message)
    completed = QuestCompleted(
        quest=command.quest,
        attempt=attempt.number,
        elapsed_ms=command.elapsed_ms,
        steps_reached=len(attempt.steps),
        steps_total=len(quest.step_xp),
        divisions=attempt.divisions,
    )
    events: list[PlayerEvent] = [completed]
    amount = quest.rewards.xp
    for step in attempt.steps:
        amount += quest.step_xp[step]
    if amount:
        total = state.xp + amount
        events.append(XpAwarded(quest=command.quest, amount=amount, total=total, level=level_of(total)))
    if quest.rewards.badge is not None and quest.supply is None:
        events.append(award_badge(command.quest, quest.rewards.badge))
    return tuple(events)
