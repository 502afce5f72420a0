"""Snapshots: an owner's actors and known commands in one body, so that a cold worker need not read every history.

A snapshot is a cache of the event stream and nothing rests on it: what it says is checked by the versions that every
commit expects, and a body of another format is passed over. The watermark of a partition says up to which sequence of
the event stream its snapshots are complete; later events are the tail, which is read in one go.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import msgspec

from bus.owners import Actor, Owner
from domain.player import PlayerState
from domain.quest import QuestState
from domain.token import TokenState

State = TypeVar("State")
#: Changes with the shape of any state: older snapshots are then passed over, and histories read instead.
FORMAT: Final = "owner-snapshot/2"
#: In place of the format: there is a history, read that.
HISTORY: Final = "owner-history/1"
WATERMARK_FORMAT: Final = "snapshot-watermark/2"
#: Without `refusals`: the inbox tells them.
WATERMARK_FORMAT_1: Final = "snapshot-watermark/1"
#: Somebody who has sent more commands than this is restored from history: a body must stay small.
KNOWN_MAX: Final = 1_000


class Kept(msgspec.Struct, Generic[State], frozen=True, array_like=True):
    """An actor: version, sequence of the last event, state."""

    version: int
    stream_seq: int
    state: State


class OwnerSnapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All actors of one owner, and where the events of each command begin that was addressed to it."""

    format: str
    player: Kept[PlayerState] | None = None
    token: Kept[TokenState] | None = None
    quest: Kept[QuestState] | None = None
    known: dict[str, int]


class Watermark(msgspec.Struct, frozen=True, kw_only=True):
    """Up to `stream_seq` of the event stream a partition's snapshots are complete, and its refusals.

    `refusals` are the slots of the latter, the oldest first; None when they are not kept.
    """

    format: str = WATERMARK_FORMAT
    partition: int
    stream_seq: int
    refusals: tuple[int, ...] | None = None


_ACTORS: Final = ("player", "token", "quest")
_decoder: Final = msgspec.json.Decoder(OwnerSnapshot)
_watermark_decoder: Final = msgspec.json.Decoder(Watermark)
_encoder: Final = msgspec.json.Encoder()


def encode(owner: Owner | None) -> bytes:
    """An owner as a body; one who cannot be restored, knows too many commands, or is the log, as a note to read on."""
    if owner is None or len(owner.known) > KNOWN_MAX or owner.ledger is not None:
        return _encoder.encode(OwnerSnapshot(format=HISTORY, known={}))
    actors: dict[str, Any] = {
        name: Kept(actor.version, actor.stream_seq, actor.state)
        for name, actor in owner.actors.items()
        if actor.version
    }
    return _encoder.encode(OwnerSnapshot(format=FORMAT, known=owner.known, **actors))


def decode(body: bytes) -> Owner | None:
    """The owner that a body describes; None when it is of another format or cannot be read."""
    try:
        snapshot = _decoder.decode(body)
    except msgspec.MsgspecError:
        return None
    if snapshot.format != FORMAT:
        return None
    owner = Owner()
    owner.known = dict(snapshot.known)
    for name in _ACTORS:
        actor = getattr(snapshot, name)
        if actor is not None:
            setattr(owner, name, Actor(actor.state, actor.version, actor.stream_seq))
    return owner


def encode_watermark(watermark: Watermark) -> bytes:
    """The body of a watermark."""
    return _encoder.encode(watermark)


def decode_watermark(partition: int, body: bytes) -> Watermark:
    """What a watermark says; one that cannot be read says nothing: then everything is tail."""
    try:
        found = _watermark_decoder.decode(body)
    except msgspec.MsgspecError:
        return Watermark(partition=partition, stream_seq=0)
    is_known = found.format in {WATERMARK_FORMAT, WATERMARK_FORMAT_1} and found.partition == partition
    return found if is_known else Watermark(partition=partition, stream_seq=0)
