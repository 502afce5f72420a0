"""The gist of an event: whose it is, when it happened, what happened; read in one pass for those who read all of them.

An envelope holds much that a fold does not ask for. Here the type chooses the struct (a tag, as msgspec calls it), so
that the data are decoded with the few attributes around them, in less than half the time of envelope and data. What
does not fit goes the long way, which upcasts old versions and says what is wrong.
"""

from __future__ import annotations

from typing import Any, Final, Union

import msgspec

from bus.envelope import COMMANDS_DECIDED, Recorded
from domain.catalogue import EVENTS


class Gist(msgspec.Struct, gc=False):
    """Base of all of them; a kind with `data` is chosen by the event's type."""

    subject: str
    time: str


class Decided(Gist, gc=False, tag_field="type", tag=COMMANDS_DECIDED):
    """An inbox event, whose data concern nobody here."""


#: Stored name -> the struct of its gist, with the domain event in `data`.
KINDS: Final[dict[str, type[Any]]] = {
    name: msgspec.defstruct(
        f"Gist{number}", [("data", kind)], bases=(Gist,), gc=False, tag_field="type", tag=name, module=__name__
    )
    for number, (name, kind) in enumerate(EVENTS.items())
} | {COMMANDS_DECIDED: Decided}

_decoder: Final = msgspec.json.Decoder(Union[tuple(KINDS.values())])  # noqa: UP007 - made from a table


def gist_of(record: Recorded) -> Any:
    """The gist, None for a type that this version does not know; raises `WireError` when the body is no event."""
    gist = record.gist
    if gist is None:
        try:
            gist = _decoder.decode(record.body)
        except msgspec.MsgspecError:
            gist = _the_long_way(record)
        record.gist = gist
    return gist


def _the_long_way(record: Recorded) -> Any:
    event = record.event
    kind = KINDS.get(event.type)
    if kind is None:
        return None
    if kind is Decided:
        return Decided(event.subject, event.time)
    return kind(event.subject, event.time, record.data)
