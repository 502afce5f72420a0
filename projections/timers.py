"""Timers: which events set one, which end one, and the command that it sends when its time has come.

A timer has a key that follows from what it is for, so that setting it again replaces it:
    quest.<quest>                       the quest's window closes: CloseQuest
    player.<player>.<quest>.<attempt>   the attempt's deadline passes: ExpireAttempt
Only what lies ahead when the event is recorded gets a timer: what is imported from long ago goes by its own times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec

from bus.envelope import JSON, EventEnvelope, Recorded, source_of
from bus.gist import KINDS, gist_of
from domain import player, quest
from domain.values import to_ms

NAME: Final = "timers"
#: Who says so, in the commands of timers and the events that follow from them.
ACTOR: Final = "timers"
#: The server counts nanoseconds in 64 bits: a schedule after 2262 would fire at once.
HORIZON_MS: Final = to_ms("2262-01-01T00:00:00.000Z")
COMMAND_ID_MAX: Final = 64
_CLOSING_TOKENS: Final = 2
_DEADLINE_TOKENS: Final = 4


class Timer(msgspec.Struct, frozen=True, kw_only=True):
    """What a timer sends, and when; `body` is the command, the same bytes whenever it is made."""

    due_at: str
    body: bytes


#: Key -> the timer that is set, None where it ended.
Changes = dict[str, Timer | None]
Handler = Callable[[Changes, Recorded, str, Any], None]


def project(records: Iterable[Recorded]) -> Changes:
    """What the records leave behind of timers; of several changes of one timer the last."""
    changes: Changes = {}
    for record in records:
        gist = gist_of(record)
        handle = _HANDLERS.get(type(gist))
        if handle is not None:
            handle(changes, record, gist.subject.partition("/")[2], gist.data)
    return changes


def address_of(key: str) -> tuple[str, str, str] | None:
    """Aggregate, owner and command name that a timer's command goes to; None for what is no key."""
    tokens = key.split(".")
    if tokens[0] == "quest" and len(tokens) == _CLOSING_TOKENS:
        return "quest", tokens[1], "CloseQuest"
    if tokens[0] == "player" and len(tokens) == _DEADLINE_TOKENS:
        return "player", tokens[1], "ExpireAttempt"
    return None


def command_id(event_id: str) -> str:
    """The id of the command of the timer that an event set: whoever sends it again sends the same.

    `player.b19.12` -> `timer-player-b19-12`; where that is too long, a digest of it.
    """
    plain = f"timer-{event_id.replace('.', '-')}"
    return plain if len(plain) <= COMMAND_ID_MAX else f"timer-{sha256(event_id.encode()).hexdigest()[:48]}"


def _closing(quest_id: str) -> str:
    return f"quest.{quest_id}"


def _deadline(player_id: str, quest_id: str, attempt: int) -> str:
    return f"player.{player_id}.{quest_id}.{attempt}"


def _published(changes: Changes, record: Recorded, owner: str, data: quest.QuestPublished) -> None:
    if data.closes_at is not None:
        _set(changes, record.event, _closing(owner), data.closes_at, (quest.CLOSE_QUEST, {}))


def _closing_ended(changes: Changes, _: Recorded, owner: str, __: quest.QuestRetired | quest.QuestClosed) -> None:
    changes[_closing(owner)] = None


def _accepted(changes: Changes, record: Recorded, owner: str, data: player.QuestAccepted) -> None:
    if data.deadline_at is not None:
        key = _deadline(owner, data.quest, data.attempt)
        asked = {"quest": data.quest, "attempt": data.attempt}
        _set(changes, record.event, key, data.deadline_at, (player.EXPIRE_ATTEMPT, asked))


def _attempt_ended(
    changes: Changes,
    _: Recorded,
    owner: str,
    data: player.QuestCompleted | player.QuestAbandoned | player.AttemptExpired,
) -> None:
    changes[_deadline(owner, data.quest, data.attempt)] = None


def _set(changes: Changes, event: EventEnvelope, key: str, due_at: str, asked: tuple[str, dict[str, Any]]) -> None:
    if not to_ms(event.recordedtime) < to_ms(due_at) < HORIZON_MS:
        return
    stored, data = asked
    command = {
        "specversion": "1.0",
        "id": command_id(event.id),
        "source": f"{source_of(event.tenantid)}/timers",
        "type": stored,
        "subject": event.subject,
        "time": due_at,
        "tenantid": event.tenantid,
        "datacontenttype": JSON,
        **({"correlationid": event.correlationid} if event.correlationid else {}),
        "actor": ACTOR,
        "data": data,
    }
    changes[key] = Timer(due_at=due_at, body=msgspec.json.encode(command))


_BY_NAME: Final[Mapping[str, Handler]] = {
    quest.QUEST_PUBLISHED: _published,
    quest.QUEST_RETIRED: _closing_ended,
    quest.QUEST_CLOSED: _closing_ended,
    player.QUEST_ACCEPTED: _accepted,
    player.QUEST_COMPLETED: _attempt_ended,
    player.QUEST_ABANDONED: _attempt_ended,
    player.ATTEMPT_EXPIRED: _attempt_ended,
}
_HANDLERS: Final[Mapping[type[Any], Handler]] = {KINDS[name]: handle for name, handle in _BY_NAME.items()}
