"""Leaderboards as they were at moments of a replay, to be compared with a fold of the stream up to the same event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

EVERY_S: Final = 2.0
#: Until there is a first one, and then each after twice as long: a replay may be over within `EVERY_S`.
FIRST_AFTER_S: Final = 0.05
#: Later moments take the place of every second one, so that a long replay has no more than these.
KEPT_MAX: Final = 32


class Moment(NamedTuple):
    """What boards held after an event: name -> digest of their lines in order."""

    stream_seq: int
    boards: Mapping[str, str]


def digest(lines: Sequence[tuple[str, int]]) -> str:
    """One hash over the players and scores of a board, in order."""
    return sha256("".join(f"{player} {score}\n" for player, score in lines).encode()).hexdigest()


async def watch(look: Callable[[], Awaitable[Moment]], moments: list[Moment], every_s: float = EVERY_S) -> None:
    """Add a moment now and then, whenever something has changed, until cancelled."""
    wait_s = min(FIRST_AFTER_S, every_s)
    while True:
        moment = await look()
        if moment.stream_seq and (not moments or moments[-1].stream_seq != moment.stream_seq):
            moments.append(moment)
        if len(moments) > KEPT_MAX:
            del moments[::2]
        await asyncio.sleep(wait_s)
        if moments:
            wait_s = min(2 * wait_s, every_s)
