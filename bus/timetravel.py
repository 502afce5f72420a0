"""Any aggregate as it was after any event of the stream; several at one sequence are one consistent view.

A moment becomes a sequence by `recordedtime`, which is signed with the event and the same in every copy of the log (a
stream's arrival times are not). Clocks of several workers may differ, so recorded times need not rise all along the
stream. `sequence_at` therefore descends by fixed powers of two: it ends at an event that was recorded by then whose
successor was recorded later, and it ends there again once the stream has grown by later events. All events of one
transaction have one `recordedtime`: a moment never cuts a transaction in two.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, get_args

import msgspec

from bus.envelope import CommandsDecided, Recorded
from bus.errors import BusError
from bus.subjects import INBOX, is_token
from domain import catalogue
from domain.catalogue import Key
from domain.values import to_ms

AGGREGATES: Final[tuple[str, ...]] = (*get_args(catalogue.Aggregate), INBOX)
_SEQUENCE: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)


class TravelRefused(BusError):
    """There is no such aggregate, sequence or moment."""


class Moment(msgspec.Struct, frozen=True):
    """A point in time, as it was asked for and in milliseconds since 1970."""

    text: str
    at_ms: int


class InboxState(msgspec.Struct, frozen=True, kw_only=True):
    """What a partition's inbox says all in all; `last_seq` is the last command that is decided."""

    batches: int = 0
    last_seq: int = 0
    accepted: int = 0
    refused: int = 0
    parked: int = 0


class Past:
    """One aggregate up to a sequence, folded as its events are read; the newest of them are kept to be shown."""

    def __init__(self, key: Key, up_to_seq: int, shown_max: int) -> None:
        self.key = key
        self.up_to_seq = up_to_seq
        self.version = 0
        self.stream_seq = 0
        self.first_seq: int | None = None
        self.state: Any = InboxState() if key.aggregate == INBOX else catalogue.initial(key.aggregate)
        self.shown: deque[Recorded] = deque(maxlen=shown_max)

    def apply(self, records: Iterable[Recorded]) -> None:
        """Take the next events of the aggregate; later ones than asked for are passed over.

        Raises `BusError` when an event is missing or stands in the wrong place.
        """
        for record in records:
            event = record.event
            if self.first_seq is None:
                self.first_seq = record.stream_seq
            if record.stream_seq > self.up_to_seq:
                return
            if event.aggregateversion != self.version + 1 or event.subject != f"{self.key.aggregate}/{self.key.id}":
                raise BusError(
                    f"event {record.stream_seq} is version {event.aggregateversion} of {event.subject}, wanted version "
                    f"{self.version + 1} of {self.key.aggregate}/{self.key.id}: compare the log (tally audit)"
                )
            self.state = _evolved(self.key, self.state, record)
            self.version = event.aggregateversion
            self.stream_seq = record.stream_seq
            self.shown.append(record)


def _evolved(key: Key, state: Any, record: Recorded) -> Any:
    if key.aggregate != INBOX:
        return catalogue.evolve(key.aggregate, state, record.data, to_ms(record.event.time))
    decided: CommandsDecided = record.data
    return InboxState(
        batches=state.batches + 1,
        last_seq=decided.last_seq,
        accepted=state.accepted + decided.accepted,
        refused=state.refused + len(decided.refused),
        parked=state.parked + len(decided.parked),
    )


def parse_keys(texts: Sequence[str]) -> list[Key]:
    """Aggregates from `player/b19` and the like, each once; raises `TravelRefused`."""
    keys = []
    for text in dict.fromkeys(texts):
        aggregate, _, owner = text.partition("/")
        if aggregate not in AGGREGATES or not is_token(owner):
            wanted = " or ".join(f"{one}/ID" for one in AGGREGATES)
            raise TravelRefused(f"aggregate is {text[:80]!r}, wanted {wanted}, like player/b19")
        keys.append(Key(aggregate, owner))
    return keys


def parse_at(text: str) -> int | Moment:
    """A sequence, or a moment with its zone; raises `TravelRefused`."""
    if _SEQUENCE.fullmatch(text):
        return int(text)
    try:
        return Moment(text, to_ms(text))
    except (ValueError, OverflowError) as err:
        raise TravelRefused(
            f"--at is {text[:60]!r}, wanted a sequence from 1 or a time with its zone, like 2026-11-21T10:00:00Z"
        ) from err


async def sequence_at(at_ms: int, last_seq: int, recorded_ms: Callable[[int], Awaitable[int]]) -> int:
    """The last sequence recorded by then, 0 when there is none; `recorded_ms` tells when an event was recorded.

    Reads one event for each binary digit of the last sequence.
    """
    found = 0
    for power in reversed(range(last_seq.bit_length())):
        tried = found + (1 << power)
        if tried <= last_seq and await recorded_ms(tried) <= at_ms:
            found = tried
    return found


def is_cut(last: Recorded, following: Recorded | None) -> bool:
    """Whether a command's events go on behind this one: at that point nobody ever saw the stream."""
    return following is not None and last.event.causationid == following.event.causationid
