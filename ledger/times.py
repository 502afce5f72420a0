"""Between which moments the entries of a log were recorded, as far as signed checkpoints tell.

An entry that follows a checkpoint was not there when the log signed it, and one that it covers was: so an event that
says otherwise was backdated, or recorded by a clock that was ahead. Only the time in a verified signature counts. That
of a cosignature or a time stamp bounds what the checkpoint covers, not what follows: it may have come long after.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final, NamedTuple

from ledger.events import Window

CLOCK_SKEW_S: Final = 300  # clocks differ, and a decision waits for its commit
_SECONDS_MAX: Final = 253_402_300_799  # 9999-12-31T23:59:59Z


class Moment(NamedTuple):
    """A checkpoint in time, in seconds where known: when the log signed it, and when it existed at the latest."""

    tree_size: int
    signed_at: int | None
    seen_at: int | None


def time_windows(moments: Iterable[Moment], tree_size: int, clock_skew_s: int) -> list[Window]:
    """Windows that cover `[0, tree_size)`, from signed and stamped checkpoints.

    Nothing is said of what came before the first entry was signed: a signer may start late.
    """
    known = [moment for moment in moments if moment.seen_at is not None and 0 < moment.tree_size <= tree_size]
    cuts = sorted({0, tree_size, *(moment.tree_size for moment in known)})
    windows = []
    for start, end in pairwise(cuts):
        before = max((at for size, at, _ in known if size <= start and at is not None), default=None)
        after = min((at for size, _, at in known if size >= end and at is not None), default=None)
        earliest = "" if before is None else _text(before - clock_skew_s)
        latest = "~" if after is None else _text(after + clock_skew_s)
        windows.append(Window(start, end, earliest, latest))
    return windows


def _text(seconds: int) -> str:
    moment = datetime.fromtimestamp(min(max(seconds, 0), _SECONDS_MAX), UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"
