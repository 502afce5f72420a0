"""Between which moments the entries of a log were recorded, as far as signed checkpoints tell.

An entry that follows a checkpoint was not there when it was signed, and one that it covers was: so an event that says
otherwise was backdated, or recorded by a clock that was ahead. Only the time in a verified signature counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from ledger.events import Window

CLOCK_SKEW_S: Final = 300  # clocks differ, and a decision waits for its commit
_SECONDS_MAX: Final = 253_402_300_799  # 9999-12-31T23:59:59Z


def time_windows(moments: Iterable[tuple[int, int | None]], tree_size: int, clock_skew_s: int) -> list[Window]:
    """Windows that cover `[0, tree_size)`, from (tree size, time in seconds or None) of signed checkpoints.

    Nothing is said of what came before the first entry was signed: a signer may start late.
    """
    known = [(size, seconds) for size, seconds in moments if seconds is not None and 0 < size <= tree_size]
    cuts = sorted({0, tree_size, *(size for size, _ in known)})
    windows = []
    for start, end in pairwise(cuts):
        before = max((seconds for size, seconds in known if size <= start), default=None)
        after = min((seconds for size, seconds in known if size >= end), default=None)
        earliest = "" if before is None else _text(before - clock_skew_s)
        latest = "~" if after is None else _text(after + clock_skew_s)
        windows.append(Window(start, end, earliest, latest))
    return windows


def _text(seconds: int) -> str:
    moment = datetime.fromtimestamp(min(max(seconds, 0), _SECONDS_MAX), UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"
