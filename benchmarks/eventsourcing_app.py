"""The same completion as an application of the `eventsourcing` library: what its documentation shows, nothing of ours.

Four events of two aggregates in one transaction (quest completed, XP, badge; tokens minted), the same facts in them, a
command repeated is recognised by its id. Any persistence module will do; the environment chooses it.
"""

from __future__ import annotations

from math import isqrt
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

XP, TOKENS, BADGE = 100, 5, "burst"
#: Aggregates that are registered in one transaction, before the clock starts.
SET_UP_AT_ONCE: Final = 200


class Player(Aggregate):
    """Attempts, XP, badges; remembers the commands that it obeyed."""

    @event("Registered")
    def __init__(self, name: str) -> None:
        self.name = name
        self.running: set[str] = set()
        self.xp = 0
        self.badges: list[str] = []
        self.obeyed: set[str] = set()

    @staticmethod
    def create_id(name: str) -> UUID:
        """The id of a player's name."""
        return uuid5(NAMESPACE_URL, f"/players/{name}")

    @event("QuestAccepted")
    def accept(self, quest: str, command_id: str) -> None:
        """Begin an attempt."""
        self.running.add(quest)
        self.obeyed.add(command_id)

    def complete(self, quest: str, elapsed_ms: int, command_id: str) -> None:
        """Report the finish of the running attempt."""
        if quest not in self.running:
            message = f"{self.name} has not accepted {quest}"
            raise ValueError(message)
        total = self.xp + XP
        self._completed(quest=quest, attempt=1, elapsed_ms=elapsed_ms, command_id=command_id)
        self._xp_awarded(quest=quest, amount=XP, total=total, level=1 + isqrt(total // 100), command_id=command_id)
        self._badge_awarded(quest=quest, badge=BADGE, command_id=command_id)

    @event("QuestCompleted")
    def _completed(self, quest: str, attempt: int, elapsed_ms: int, command_id: str) -> None:
        del attempt, elapsed_ms
        self.running.remove(quest)
        self.obeyed.add(command_id)

    @event("XpAwarded")
    def _xp_awarded(self, quest: str, amount: int, total: int, level: int, command_id: str) -> None:
        del quest, amount, level, command_id
        self.xp = total

    @event("BadgeAwarded")
    def _badge_awarded(self, quest: str, badge: str, command_id: str) -> None:
        del quest, command_id
        self.badges.append(badge)


class Account(Aggregate):
    """A player's tokens."""

    @event("Opened")
    def __init__(self, player: str) -> None:
        self.player = player
        self.balance = 0

    @staticmethod
    def create_id(player: str) -> UUID:
        """The id of a player's account."""
        return uuid5(NAMESPACE_URL, f"/accounts/{player}")

    def mint(self, amount: int, reason: str, command_id: str) -> None:
        """Add tokens."""
        self._minted(amount=amount, balance=self.balance + amount, reason=reason, command_id=command_id)

    @event("TokensMinted")
    def _minted(self, amount: int, balance: int, reason: str, command_id: str) -> None:
        del amount, reason, command_id
        self.balance = balance


class Quests(Application[UUID]):
    """Players complete quests."""

    def set_up(self, names: list[str], quest: str) -> None:
        """Register players, open their accounts, accept the quest for each."""
        for start in range(0, len(names), SET_UP_AT_ONCE):
            made: list[Any] = []
            for name in names[start : start + SET_UP_AT_ONCE]:
                player = Player(name)
                player.accept(quest, f"{name}-accept-{quest}")
                made += [player, Account(name)]
            self.save(*made)

    def complete(self, name: str, quest: str, elapsed_ms: int, command_id: str) -> None:
        """One completion: player and account saved together, or nothing when the command was obeyed before."""
        player: Player = self.repository.get(Player.create_id(name))
        if command_id in player.obeyed:
            return
        account: Account = self.repository.get(Account.create_id(name))
        player.complete(quest, elapsed_ms, command_id)
        account.mint(TOKENS, f"quest/{quest}", command_id)
        self.save(player, account)
