"""The one place where NATS subjects and stream names are built and taken apart (DESIGN.md 3)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from bus.errors import BusError

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_COMMAND_TOKENS: Final = 6
INBOX: Final = "inbox"
#: Whom a subject addresses that nobody can have.
NOBODY: Final = "?"


class InvalidToken(BusError):
    """A token that may not stand in a subject."""

    def __init__(self, what: str, text: str) -> None:
        super().__init__(f"{what} is {text[:80]!r}, wanted 1 to 64 of letters, digits, '-' and '_'")


def is_token(text: str) -> bool:
    """Whether the text may stand in a subject."""
    return _TOKEN.fullmatch(text) is not None


def require_token(what: str, text: str) -> str:
    """The text itself; raises `InvalidToken` when it may not stand in a subject."""
    if not is_token(text):
        raise InvalidToken(what, text)
    return text


def commands_stream(tenant: str) -> str:
    """Name of the stream that takes a tenant's commands."""
    return f"COMMANDS_{tenant}"


def events_stream(tenant: str) -> str:
    """Name of the stream that holds a tenant's events for ever."""
    return f"EVENTS_{tenant}"


def tenant_of_events_stream(stream: str) -> str | None:
    """The tenant of an event stream's name, None for any other stream."""
    return stream.removeprefix("EVENTS_") if stream.startswith("EVENTS_") else None


def published_commands(tenant: str) -> str:
    """Filter of all commands as senders publish them."""
    return f"tally.cmd.{tenant}.*.*.*"


def command(tenant: str, aggregate: str, owner: str, name: str) -> str:
    """Subject to which a sender publishes a command."""
    return f"tally.cmd.{tenant}.{aggregate}.{owner}.{name}"


def partitioned_commands(tenant: str, partitions: int) -> tuple[str, str]:
    """Source and destination of the stream's subject transform: a partition token by owner comes in."""
    rest = "{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}"
    return published_commands(tenant), f"tally.cmd.{tenant}.{{{{partition({partitions},2)}}}}.{rest}"


def partition_filter(tenant: str, partition: int) -> str:
    """Filter of one partition's commands as they are stored."""
    return f"tally.cmd.{tenant}.{partition}.>"


def split_command(subject: str) -> tuple[str, str, str]:
    """Aggregate, owner and command name of a stored command's subject."""
    tokens = subject.split(".", _COMMAND_TOKENS)
    if len(tokens) != _COMMAND_TOKENS + 1:
        message = f"command subject {subject!r} has {len(tokens)} tokens, wanted {_COMMAND_TOKENS + 1}"
        raise BusError(message)
    return tokens[4], tokens[5], tokens[6]


def partition_of(owner: str, partitions: int) -> int:
    """The partition of an owner as the server's transform computes it: FNV-1a, 32 bits, modulo the count."""
    value = 0x811C9DC5
    for byte in owner.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value % partitions


def owner_of(addressed: str) -> str:
    """The owner of an aggregate as outcomes name it, `<aggregate>/<id>`; `NOBODY` when nobody can have that name."""
    aggregate, _, owner = addressed.partition("/")
    return owner if is_token(aggregate) and is_token(owner) else NOBODY


def event(tenant: str, aggregate: str, owner: str) -> str:
    """Subject of one aggregate's events."""
    return f"tally.evt.{tenant}.{aggregate}.{owner}"


def all_events(tenant: str) -> str:
    """Filter of all events of a tenant."""
    return f"tally.evt.{tenant}.*.*"


def inbox(tenant: str, partition: int) -> str:
    """Subject of one partition's inbox events."""
    return event(tenant, INBOX, str(partition))


def turns(tenant: str, aggregate: str, owner: str) -> str:
    """Subject on which workers tell each other whose turn it is to write an aggregate."""
    return f"tally.turns.{tenant}.{aggregate}.{owner}"


def outcome(tenant: str, command_id: str) -> str:
    """Subject of a command's outcome when its sender names no other."""
    return f"tally.out.{tenant}.{command_id}"


def is_reply_allowed(tenant: str, reply_to: str) -> bool:
    """Whether an outcome may go there: anything but an inbox or the tenant's own outcomes would let a sender forge."""
    return len(reply_to) <= 256 and _allowed_replies(tenant).fullmatch(reply_to) is not None


@lru_cache(maxsize=256)
def _allowed_replies(tenant: str) -> re.Pattern[str]:
    return re.compile(rf"(?:_INBOX|tally\.out\.{tenant})(?:\.{_TOKEN.pattern})+", re.ASCII)


def dead_stream(tenant: str) -> str:
    """Name of the stream that holds a tenant's parked commands."""
    return f"DEAD_{tenant}"


def dead(tenant: str, aggregate: str, owner: str) -> str:
    """Subject of one aggregate's parked commands."""
    return f"tally.dead.{tenant}.{aggregate}.{owner}"


def snapshots_stream(tenant: str) -> str:
    """Name of the stream that holds a tenant's snapshots."""
    return f"SNAPSHOTS_{tenant}"


def snapshot(tenant: str, partition: int | str, owner: str) -> str:
    """Subject of one owner's snapshot."""
    return f"tally.snap.{tenant}.{partition}.{owner}"


def watermark(tenant: str, partition: int | str) -> str:
    """Subject of a partition's snapshot watermark."""
    return f"tally.snap.{tenant}.{partition}"


def timers_stream(tenant: str) -> str:
    """Name of the stream that holds a tenant's timers until they are due."""
    return f"TIMERS_{tenant}"


def all_timers(tenant: str) -> str:
    """Filter of everything in a tenant's timer stream."""
    return f"tally.timer.{tenant}.>"


def timer(tenant: str, key: str) -> str:
    """Subject under which a timer waits; one message each."""
    return f"tally.timer.{tenant}.set.{key}"


def timer_due(tenant: str, key: str) -> str:
    """Subject to which the server moves a timer when its time has come."""
    return f"tally.timer.{tenant}.due.{key}"


def timer_key(tenant: str, subject: str) -> str:
    """The key of a timer from either of its subjects."""
    return subject[len(timer(tenant, "")) :]


def timers_position(tenant: str) -> str:
    """Subject of the position up to which the events have set and ended timers."""
    return f"tally.timer.{tenant}.position"


def settings_stream(tenant: str) -> str:
    """Name of the stream that holds what a tenant says of itself, every version of it."""
    return f"SETTINGS_{tenant}"


def setting(tenant: str, name: str) -> str:
    """Subject of one setting's versions."""
    return f"tally.set.{tenant}.{name}"


def query(tenant: str, *tokens: str) -> str:
    """Subject of a query service."""
    return ".".join(("tally.q", tenant, *tokens))
