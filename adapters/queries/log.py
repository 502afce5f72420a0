"""The published log over NATS: its last checkpoint, and when an event is under one."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Final

import msgspec

from adapters.jetstream.messages import stream_info
from adapters.published_log import LogStatus, log_dir_of, log_status
from adapters.queries.endpoint import Asked, endpoint
from bus import subjects
from bus.queries import BAD_REQUEST, NOT_FOUND, UNAVAILABLE, QueryRefused, Request
from ledger.errors import LedgerError

WAIT_MS_MAX: Final = 4_000
_LOOK_EVERY_S: Final = 0.02
_EXAMPLE_ROOT: Final = "9f2c1d0e8b7a695847362514f0e1d2c3b4a5968778695a4b3c2d1e0f00112233"


class AskCheckpoint(Request, frozen=True, kw_only=True):
    """Nothing to choose."""


class LastCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The last published checkpoint; `behind_events` are stored and not yet under it, `age_ms` is that of the file."""

    tree_size: int
    root: str
    chain_head: str
    age_ms: int
    behind_events: int


class AskSigned(Request, frozen=True, kw_only=True):
    """How long to wait for a checkpoint that covers the event, at most 4,000 ms."""

    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=WAIT_MS_MAX)] = WAIT_MS_MAX


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """The event is leaf `leaf_index` of the tree of `tree_size` entries with this signed root."""

    stream_seq: int
    leaf_index: int
    tree_size: int
    root: str


@endpoint(
    "log.checkpoint",
    example=(
        AskCheckpoint(),
        LastCheckpoint(tree_size=40_213, root=_EXAMPLE_ROOT, chain_head=_EXAMPLE_ROOT, age_ms=140, behind_events=12),
    ),
)
async def checkpoint(asked: Asked[AskCheckpoint]) -> LastCheckpoint:
    """The last published checkpoint, its age, and how many events wait for the next one."""
    info = await stream_info(asked.sources.nats, subjects.events_stream(asked.tenant))
    found = await _status(asked)
    if found is None:
        raise QueryRefused(NOT_FOUND, f"{asked.tenant} has no checkpoint yet: does the signer run (tally status)?")
    return LastCheckpoint(
        tree_size=found.tree_size,
        root=found.root,
        chain_head=found.chain_head,
        age_ms=found.age_ms,
        behind_events=max(0, int(info["state"]["last_seq"]) - found.tree_size),
    )


@endpoint(
    "log.signed.{stream_seq}",
    example=(AskSigned(), Signed(stream_seq=40_213, leaf_index=40_212, tree_size=40_230, root=_EXAMPLE_ROOT)),
)
async def signed(asked: Asked[AskSigned]) -> Signed:
    """Answers when the event of this stream sequence, as an outcome names it, is under a published checkpoint."""
    text = asked.named["stream_seq"]
    stream_seq = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    if stream_seq < 1:
        raise QueryRefused(BAD_REQUEST, f"stream_seq is {text[:40]!r}, wanted a number from 1")
    deadline = time.monotonic() + asked.request.wait_ms / 1000
    while True:
        found = await _status(asked)
        if found is not None and found.tree_size >= stream_seq:
            return Signed(stream_seq=stream_seq, leaf_index=stream_seq - 1, tree_size=found.tree_size, root=found.root)
        if time.monotonic() >= deadline:
            size = found.tree_size if found else 0
            raise QueryRefused(
                NOT_FOUND, f"event {stream_seq} is under no checkpoint yet, the last one covers {size}; ask again"
            )
        await asyncio.sleep(_LOOK_EVERY_S)


async def _status(asked: Asked[Any]) -> LogStatus | None:
    try:
        return await asyncio.to_thread(log_status, log_dir_of(asked.sources.settings, asked.tenant))
    except (LedgerError, OSError) as err:
        raise QueryRefused(UNAVAILABLE, f"the log of {asked.tenant} cannot be read: {err}") from err


ENDPOINTS = (checkpoint, signed)
