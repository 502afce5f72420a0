"""Attempt: one run of a player at a quest, part of the player's state; when it is running, when it has expired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from domain.errors import AlreadyCompleted, ExpiredAttempt, NotAccepted
from domain.values import to_time


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One player at one quest: the latest attempt."""

    number: int
    status: Literal["running", "completed", "abandoned", "expired"]
    accepted_at_ms: int
    divisions: tuple[str, ...]
    steps: tuple[str, ...] = ()
    last_elapsed_ms: int = 0
    deadline_at_ms: int | None = None


def require_running(attempts: Mapping[str, Attempt], quest: str, player: str, at_ms: int) -> Attempt:
    """The running attempt at a quest; raises `Refused` when none runs at `at_ms`."""
    attempt = attempts.get(quest)
    if attempt is None or attempt.status == "abandoned":
        raise NotAccepted(player, quest)
    if attempt.status == "completed":
        raise AlreadyCompleted(player, quest)
    if attempt.status == "expired" or has_expired(attempt, at_ms):
        raise ExpiredAttempt(player, quest, str(deadline_of(attempt)))
    return attempt


def has_expired(attempt: Attempt, at_ms: int) -> bool:
    """Whether the attempt's deadline has passed."""
    return attempt.deadline_at_ms is not None and at_ms >= attempt.deadline_at_ms


def deadline_of(attempt: Attempt) -> str | None:
    """The deadline as a time, None when there is none."""
    return None if attempt.deadline_at_ms is None else to_time(attempt.deadline_at_ms)
