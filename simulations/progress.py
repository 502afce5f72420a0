"""Progress for people: one line that is rewritten on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Final

BAR_CELLS: Final = 16
LINE_EVERY_S: Final = 5.0
DRAW_EVERY_S: Final = 0.1


class Progress:
    """Shows how far a piece of work is; a context manager that leaves the last line standing."""

    def __init__(self, *, is_quiet: bool = False) -> None:
        self._is_terminal = sys.stdout.isatty() and not is_quiet
        self._is_quiet = is_quiet
        self._cell = "━" if (sys.stdout.encoding or "").lower().startswith("utf") else "="
        self._shown_at = 0.0
        self._finished = ""
        self._width = 0

    def show(self, title: str, done: int, total: int, remark: str = "") -> None:
        """Show a state; most calls do nothing."""
        now = time.monotonic()
        due_s = DRAW_EVERY_S if self._is_terminal else LINE_EVERY_S
        if title != self._finished:
            self._finished = ""
        if self._is_quiet or self._finished or (now - self._shown_at < due_s and done < total):
            return
        self._shown_at = now
        self._finished = title if done >= total else ""
        share = done / total if total else 1.0
        if self._is_terminal:
            filled = int(BAR_CELLS * share)
            bar = self._cell * filled + " " * (BAR_CELLS - filled)
            self._draw(f"{title:<12}[{bar}] {share:4.0%}  {remark}")
        else:
            print(f"{title:<12}{share:4.0%}  {remark}", flush=True)

    def clear(self) -> None:
        """Take the line away, so that something else can be printed."""
        if self._is_terminal:
            self._draw("")
            print("\r", end="", flush=True)

    def _draw(self, line: str) -> None:
        columns = shutil.get_terminal_size().columns - 1
        line = line[:columns]
        print(f"\r{line}{' ' * max(0, self._width - len(line))}", end="", flush=True)
        self._width = len(line)
