"""Names and bytes of the persistence module: streams, subjects, and what one message holds (docs/eventsourcing.md)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote

import msgspec
from eventsourcing.persistence import DataError

from bus import subjects

EVENTS: Final = "events"
POSITIONS: Final = "positions"
TRACKING: Final = "tracking"
#: A subject travels in one protocol line, of which the server takes 4,096 bytes.
TOKEN_CHARS_MAX: Final = 1_000


class Record(msgspec.Struct, frozen=True, array_like=True, tag="stored-event/1"):
    """One stored event or one tracked position, as MessagePack: an array that begins with its name and version.

    `highest` is the highest version on this subject, this record included: where records come in order it is `version`.
    """

    insert_id: bytes  # the same for all records of one insert: how an insert without an answer is found again
    version: int  # of the originator, or the notification id of a position
    highest: int
    is_uuid: bool  # what the token of the subject was made from
    topic: str
    state: bytes


_DECODER: Final = msgspec.msgpack.Decoder(Record)
_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(record: Record) -> bytes:
    """The body of a message."""
    return _ENCODER.encode(record)


def decode(stream: str, stream_seq: int, body: bytes) -> Record:
    """The record in a body; raises `DataError` for a message that something else wrote."""
    try:
        return _DECODER.decode(body)
    except msgspec.MsgspecError as err:
        line = (
            f"message {stream_seq} of stream {stream} is not a stored event ({err}): who else writes to its subjects?"
        )
        raise DataError(line) from err


class Names(NamedTuple):
    """The names of one store: one application, one purpose."""

    prefix: str
    purpose: str
    application: str

    @property
    def stream(self) -> str:
        """The name of the stream."""
        return f"{self.prefix}_{token(self.purpose).replace('_', '%5F')}_{token(self.application)}"

    @property
    def all_events(self) -> str:
        """The filter of all events."""
        return self._subject(self.purpose, "*")

    @property
    def all_positions(self) -> str:
        """The filter of all tracked positions."""
        return self._subject(self._positions, "*")

    def event(self, originator_id: object) -> str:
        """The subject of an originator's events."""
        return self._subject(self.purpose, token(str(originator_id)))

    def position(self, upstream: str) -> str:
        """The subject of the positions in an upstream application."""
        return self._subject(self._positions, token(upstream))

    @property
    def _positions(self) -> str:
        return POSITIONS if self.purpose == EVENTS else self.purpose

    def _subject(self, purpose: str, last: str) -> str:
        return f"{self.prefix}.{token(purpose)}.{token(self.application)}.{last}"


def checked_names(prefix: str, purpose: str, application: str) -> Names:
    """Names whose prefix may stand in a subject; raises `OSError`, as the library does for an unusable setting."""
    if not subjects.is_token(prefix):
        line = f"JETSTREAM_PREFIX is {prefix[:80]!r}, wanted 1 to 64 of letters, digits, '-' and '_'"
        raise OSError(line)
    return Names(prefix, purpose, application)


def token(text: str) -> str:
    """Any text as one token of a subject, reversible; raises `DataError` when it cannot be."""
    try:
        quoted = quote(text, safe="", errors="strict").replace(".", "%2E") or "%"
    except UnicodeEncodeError as err:
        line = f"id is {text[:80]!r}, which is not valid Unicode"
        raise DataError(line) from err
    if len(quoted) > TOKEN_CHARS_MAX:
        line = f"id has {len(quoted)} characters when escaped, {TOKEN_CHARS_MAX} at most: {text[:40]!r}…"
        raise DataError(line)
    return quoted


def text_of(subject: str) -> str:
    """The text from which the last token of a subject was made."""
    last = subject.rpartition(".")[2]
    return "" if last == "%" else unquote(last, errors="strict")


def stream_config(names: Names, replicas: int) -> dict[str, Any]:
    """What a store's stream must be: events for ever, snapshots until an operator purges them, the last position."""
    is_history = names.purpose == EVENTS
    filters = [names.all_events, names.all_positions] if is_history else [names.all_events]
    return {
        "name": names.stream,
        "subjects": filters,
        "retention": "limits",
        "discard": "old" if names.purpose == TRACKING else "new",
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": 1 if names.purpose == TRACKING else -1,
        "storage": "file",
        "num_replicas": replicas,
        "deny_delete": is_history,
        "deny_purge": is_history,
        "allow_atomic": True,
        "allow_direct": True,
    }
