"""Every command and event by its stored name, and the one way from a command to the events of all its aggregates.

A decision has the shape plan, fetch, compute: `plan` names the aggregates that must be read, the bus reads them,
`decide` says what happens to each. Whatever `decide` returns is committed in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, assert_never

import msgspec

from domain import logkeys, player, quest, token, zone
from domain.errors import NotRegistered, UnknownRecipient
from domain.logkeys import AddKey, KeysState, RetireKey
from domain.player import (
    AbandonQuest,
    AcceptQuest,
    CompleteQuest,
    ExpireAttempt,
    PlayerState,
    ReachStep,
    RegisterPlayer,
)
from domain.quest import CloseQuest, PublishQuest, QuestState, RetireQuest, TakeSupply
from domain.token import MintTokens, ReceiveTokens, SpendTokens, TokenState, TransferTokens
from domain.zone import EnterZone, LeaveZone

Aggregate = Literal["quest", "player", "token", "ledger"]
AGGREGATES: tuple[Aggregate, ...] = ("quest", "player", "token", "ledger")
State = QuestState | PlayerState | TokenState | KeysState
Event = quest.QuestEvent | player.PlayerEvent | token.TokenEvent | logkeys.KeyEvent
Command = (
    PublishQuest
    | RetireQuest
    | CloseQuest
    | RegisterPlayer
    | AcceptQuest
    | ReachStep
    | CompleteQuest
    | AbandonQuest
    | ExpireAttempt
    | EnterZone
    | LeaveZone
    | MintTokens
    | SpendTokens
    | TransferTokens
    | AddKey
    | RetireKey
)


class Key(msgspec.Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """Which aggregate: its kind and the id of its owner; no named tuple, which takes five times as long to make."""

    aggregate: str
    id: str


class Plan(msgspec.Struct, frozen=True, gc=False):
    """What a command needs.

    `writes` get events, `reads` are looked at and must not change before the commit (they get an event too where a
    limited supply is taken), `facts` are looked at and never change back.
    """

    writes: tuple[Key, ...]
    reads: tuple[Key, ...] = ()
    facts: tuple[Key, ...] = ()

    @property
    def keys(self) -> tuple[Key, ...]:
        """Every aggregate that it names."""
        return self.writes + self.reads + self.facts


#: One event for one aggregate, in the order in which they are committed.
Decided = tuple[Key, Event]


#: Subject token of a command -> (stored name, aggregate it addresses, type).
COMMANDS: dict[str, tuple[str, Aggregate, type]] = {
    "PublishQuest": (quest.PUBLISH_QUEST, "quest", PublishQuest),
    "RetireQuest": (quest.RETIRE_QUEST, "quest", RetireQuest),
    "CloseQuest": (quest.CLOSE_QUEST, "quest", CloseQuest),
    "RegisterPlayer": (player.REGISTER_PLAYER, "player", RegisterPlayer),
    "AcceptQuest": (player.ACCEPT_QUEST, "player", AcceptQuest),
    "ReachStep": (player.REACH_STEP, "player", ReachStep),
    "CompleteQuest": (player.COMPLETE_QUEST, "player", CompleteQuest),
    "AbandonQuest": (player.ABANDON_QUEST, "player", AbandonQuest),
    "ExpireAttempt": (player.EXPIRE_ATTEMPT, "player", ExpireAttempt),
    "EnterZone": (zone.ENTER_ZONE, "player", EnterZone),
    "LeaveZone": (zone.LEAVE_ZONE, "player", LeaveZone),
    "MintTokens": (token.MINT_TOKENS, "token", MintTokens),
    "SpendTokens": (token.SPEND_TOKENS, "token", SpendTokens),
    "TransferTokens": (token.TRANSFER_TOKENS, "token", TransferTokens),
    "AddKey": (logkeys.ADD_KEY, "ledger", AddKey),
    "RetireKey": (logkeys.RETIRE_KEY, "ledger", RetireKey),
}

#: Stored name of an event -> type.
EVENTS: dict[str, type] = {
    quest.QUEST_PUBLISHED: quest.QuestPublished,
    quest.QUEST_RETIRED: quest.QuestRetired,
    quest.QUEST_CLOSED: quest.QuestClosed,
    quest.SUPPLY_TAKEN: quest.SupplyTaken,
    player.PLAYER_REGISTERED: player.PlayerRegistered,
    player.QUEST_ACCEPTED: player.QuestAccepted,
    player.STEP_REACHED: player.StepReached,
    player.QUEST_COMPLETED: player.QuestCompleted,
    player.XP_AWARDED: player.XpAwarded,
    player.BADGE_AWARDED: player.BadgeAwarded,
    player.QUEST_ABANDONED: player.QuestAbandoned,
    player.ATTEMPT_EXPIRED: player.AttemptExpired,
    zone.ZONE_ENTERED: zone.ZoneEntered,
    zone.ZONE_LEFT: zone.ZoneLeft,
    token.TOKENS_MINTED: token.TokensMinted,
    token.TOKENS_SPENT: token.TokensSpent,
    token.TOKENS_SENT: token.TokensSent,
    token.TOKENS_RECEIVED: token.TokensReceived,
    logkeys.KEY_ADDED: logkeys.KeyAdded,
    logkeys.KEY_RETIRED: logkeys.KeyRetired,
}

#: Type of an event -> stored name.
STORED_NAMES: dict[type, str] = {kind: name for name, kind in EVENTS.items()}

#: Aggregates that commands of other owners write too: an account by a transfer, a quest by taking its supply.
SHARED: frozenset[str] = frozenset({"token", "quest"})

_OF_ANYBODY: tuple[Aggregate, ...] = ("quest", "player", "token")
_INITIAL: dict[str, State] = {
    "quest": quest.INITIAL,
    "player": player.INITIAL,
    "token": token.INITIAL,
    "ledger": logkeys.INITIAL,
}


def aggregates_of(owner: str) -> tuple[Aggregate, ...]:
    """The aggregates that an owner may have; looked for in every restore, so no more than that."""
    return AGGREGATES if owner == logkeys.ID else _OF_ANYBODY


def initial(aggregate: str) -> State:
    """The state of an aggregate without history."""
    return _INITIAL[aggregate]


def evolve(aggregate: str, state: Any, event: Any, at_ms: int) -> State:
    """The state after an event that happened at `at_ms`."""
    if aggregate == "player":
        return player.evolve(state, event, at_ms)
    if aggregate == "token":
        return token.evolve(state, event)
    if aggregate == "ledger":
        return logkeys.evolve(state, event)
    return quest.evolve(state, event)


def plan(target: Key, command: Command) -> Plan:
    """The aggregates that the command needs, the addressed one first."""
    if type(command) is CompleteQuest:  # by identity, as in `player.evolve`
        return Plan((target, Key("token", target.id)), (Key("quest", command.quest),))
    match command:  # the most frequent ones first
        case ReachStep() | AcceptQuest() | AbandonQuest():
            return Plan((target,), (Key("quest", command.quest),))
        case PublishQuest() | RetireQuest() | CloseQuest() | RegisterPlayer() | ExpireAttempt():
            return Plan((target,))
        case EnterZone() | LeaveZone():
            return Plan((target,))
        case MintTokens() | SpendTokens():
            return Plan((target,), facts=(Key("player", target.id),))
        case TransferTokens():
            recipient = command.recipient
            facts = (Key("player", target.id), Key("player", recipient))
            return Plan((target, Key("token", recipient)), facts=facts)
        case AddKey() | RetireKey():
            return Plan((target,))
        case _:
            assert_never(command)


def decide(needed: Plan, command: Command, states: Mapping[Key, Any], at_ms: int) -> list[Decided]:
    """The events of all aggregates that follow from a command which tells of `at_ms`; raises `Refused`.

    `needed` is what `plan` says of the command, `states` holds the state of every aggregate that it names. The first
    event is one of the addressed aggregate.
    """
    target = needed.writes[0]
    if type(command) is CompleteQuest:  # by identity, as in `player.evolve`
        return _complete(needed, command, states, at_ms)
    match command:  # the most frequent ones first
        case ReachStep() | AcceptQuest() | AbandonQuest():
            definition = states[needed.reads[0]]
            return _all(target, player.decide(command, states[target], target.id, definition, at_ms))
        case PublishQuest() | RetireQuest():
            return _all(target, quest.decide(command, states[target], target.id))
        case CloseQuest():
            return _all(target, quest.close(states[target], target.id, at_ms))
        case ExpireAttempt():
            return _all(target, player.expire(command, states[target], target.id, at_ms))
        case RegisterPlayer():
            return _all(target, player.register(command, states[target], target.id))
        case EnterZone() | LeaveZone():
            return _all(target, zone.decide(command, target.id, is_registered=states[target].registered))
        case MintTokens() | SpendTokens() | TransferTokens():
            return _move(needed, command, states)
        case AddKey() | RetireKey():
            return _all(target, logkeys.decide(command, states[target], target.id))
        case _:
            assert_never(command)


def _all(key: Key, events: tuple[Event, ...]) -> list[Decided]:
    decided: list[Decided] = []
    for event in events:
        decided.append((key, event))  # noqa: PERF401 - of so few events a comprehension takes half as long again
    return decided


def _complete(needed: Plan, command: CompleteQuest, states: Mapping[Key, Any], at_ms: int) -> list[Decided]:
    target, account = needed.writes
    quest_key = needed.reads[0]
    definition: QuestState = states[quest_key]
    decided = _all(target, player.decide(command, states[target], target.id, definition, at_ms))
    limited = definition.supply is not None
    taken = quest.decide(TakeSupply(player=target.id), definition, command.quest) if limited else ()
    if taken and definition.rewards.badge is not None:
        decided.append((target, player.award_badge(command.quest, definition.rewards.badge)))
    if definition.rewards.tokens:
        minted = MintTokens(amount=definition.rewards.tokens, reason=f"quest/{command.quest}")
        decided += _all(account, token.decide(minted, states[account], target.id))
    return decided + _all(quest_key, taken) if taken else decided


def _move(needed: Plan, command: MintTokens | SpendTokens | TransferTokens, states: Mapping[Key, Any]) -> list[Decided]:
    target, sender = needed.writes[0], needed.facts[0]
    if not states[sender].registered:
        raise NotRegistered(target.id)
    decided = _all(target, token.decide(command, states[target], target.id))
    if isinstance(command, TransferTokens):
        other, recipient = needed.writes[1], needed.facts[1]
        if not states[recipient].registered:
            raise UnknownRecipient(recipient.id)
        receive = ReceiveTokens(sender=target.id, amount=command.amount, reason=command.reason)
        decided += _all(other, token.decide(receive, states[other], other.id))
    return decided
