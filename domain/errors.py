"""Refusals: the domain's typed answers of "no".

Refused                      code and message; expected, answered, never logged as an error
  UnknownQuest  QuestExists  RetiredQuest  QuestNotOpen  QuestClosed  ClosedForGood  UnknownDivision
  NotRegistered  AlreadyRegistered
  NotAccepted  AlreadyAccepted  AlreadyCompleted  UnknownStep  StepAlreadyReached  FinishBeforeStart
  ExpiredAttempt  AttemptEnded  NotDue
  InsufficientTokens  UnknownRecipient  InvalidData
  KeyExists  KeyIsRetired
"""

from __future__ import annotations

from typing import ClassVar


class Refused(Exception):
    """A rule says no; `code` is stable and for programs, the message is one line for people."""

    code: ClassVar[str] = "refused"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidData(Refused):
    """The values of a command contradict each other or lie outside their range."""

    code = "invalid-data"


class UnknownQuest(Refused):
    """No quest was ever published under this id."""

    code = "unknown-quest"

    def __init__(self, quest: str) -> None:
        super().__init__(f"quest {quest} was never published; publish it first")


class QuestExists(Refused):
    """The quest was already published; its definition never changes."""

    code = "quest-exists"

    def __init__(self, quest: str) -> None:
        super().__init__(f"quest {quest} is already published; choose another id for another definition")


class RetiredQuest(Refused):
    """The quest was retired and takes nothing any more."""

    code = "quest-retired"

    def __init__(self, quest: str) -> None:
        super().__init__(f"quest {quest} is retired and takes no further commands")


class QuestNotOpen(Refused):
    """The thing happened before the quest's window opens."""

    code = "quest-not-open"

    def __init__(self, quest: str, opens_at: str, time: str) -> None:
        super().__init__(f"quest {quest} opens at {opens_at}, this happened at {time}")


class QuestClosed(Refused):
    """The thing happened after the quest's window closed."""

    code = "quest-closed"

    def __init__(self, quest: str, closes_at: str, time: str) -> None:
        super().__init__(f"quest {quest} closed at {closes_at}, this happened at {time}")


class ClosedForGood(Refused):
    """The quest's closing is recorded: nothing counts any more, whenever it happened."""

    code = "quest-closed"

    def __init__(self, quest: str, closes_at: str) -> None:
        super().__init__(f"quest {quest} closed at {closes_at}, and its closing is recorded: nothing counts any more")


class UnknownDivision(Refused):
    """The quest's definition does not know this division."""

    code = "unknown-division"

    def __init__(self, quest: str, division: str) -> None:
        super().__init__(f"quest {quest} has no division {division}; use one of its definition")


class NotRegistered(Refused):
    """The player is not registered."""

    code = "not-registered"

    def __init__(self, player: str) -> None:
        super().__init__(f"player {player} is not registered; send RegisterPlayer first")


class AlreadyRegistered(Refused):
    """The player is registered already."""

    code = "already-registered"

    def __init__(self, player: str) -> None:
        super().__init__(f"player {player} is already registered")


class NotAccepted(Refused):
    """The player has no running attempt at this quest."""

    code = "not-accepted"

    def __init__(self, player: str, quest: str) -> None:
        super().__init__(f"player {player} has no running attempt at quest {quest}; send AcceptQuest first")


class AlreadyAccepted(Refused):
    """An attempt at this quest is running."""

    code = "already-accepted"

    def __init__(self, player: str, quest: str) -> None:
        super().__init__(f"player {player} has already accepted quest {quest}")


class AlreadyCompleted(Refused):
    """The player has completed this quest; it is rewarded once."""

    code = "already-completed"

    def __init__(self, player: str, quest: str) -> None:
        super().__init__(f"player {player} has already completed quest {quest}; it is rewarded once")


class UnknownStep(Refused):
    """The quest's definition does not know this step."""

    code = "unknown-step"

    def __init__(self, quest: str, step: str) -> None:
        super().__init__(f"quest {quest} has no step {step}; use one of its definition")


class StepAlreadyReached(Refused):
    """The step was reached earlier in this attempt."""

    code = "step-already-reached"

    def __init__(self, player: str, step: str) -> None:
        super().__init__(f"player {player} has already reached step {step} in this attempt")


class FinishBeforeStart(Refused):
    """The finish lies before the start, or before a step that was reached."""

    code = "finish-before-start"


class ExpiredAttempt(Refused):
    """The attempt's deadline has passed."""

    code = "attempt-expired"

    def __init__(self, player: str, quest: str, deadline_at: str) -> None:
        super().__init__(f"the attempt of player {player} at quest {quest} expired at {deadline_at}; accept it again")


class AttemptEnded(Refused):
    """The attempt ended otherwise, or never began."""

    code = "attempt-ended"

    def __init__(self, player: str, quest: str, attempt: int) -> None:
        super().__init__(f"attempt {attempt} of player {player} at quest {quest} is not running; nothing expires")


class NotDue(Refused):
    """The moment has not come at which this happens, or none is set."""

    code = "not-due"

    def __init__(self, what: str, due_at: str | None, time: str) -> None:
        super().__init__(f"{what} {f'ends at {due_at}' if due_at else 'has no end set'}, this says {time}")


class InsufficientTokens(Refused):
    """The balance does not cover the amount."""

    code = "insufficient-tokens"

    def __init__(self, *, balance: int, needed: int) -> None:
        super().__init__(f"balance is {balance}, {needed} needed")


class UnknownRecipient(Refused):
    """Tokens can be sent to registered players only."""

    code = "unknown-recipient"

    def __init__(self, recipient: str) -> None:
        super().__init__(f"recipient {recipient} is not a registered player; nothing was sent")


class KeyExists(Refused):
    """The key was added to the log before."""

    code = "key-exists"

    def __init__(self, key: str) -> None:
        super().__init__(f"key {key} was added before; a key comes once")


class KeyIsRetired(Refused):
    """The key was retired; its last size stands in the log."""

    code = "key-retired"

    def __init__(self, key: str) -> None:
        super().__init__(f"key {key} is retired and does not come back; make a new one")
