"""One process that is kept running: started again with back-off when it ends; polled, it never waits."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from adapters.embedded_process import Child

BACK_OFF_FIRST_S = 0.25
BACK_OFF_MAX_S = 10.0
# Who lived this long gets the short back-off again.
STEADY_AFTER_S = 30.0
# A process that never became ready is given up at start after this many ends; wrong use at once.
START_TRIES = 3
EXIT_WRONG_USE = 2


@dataclass(kw_only=True)
class Kept:
    """`start` begins the process without waiting; `serves` tells whether it does its work."""

    name: str
    start: Callable[[], Child]
    serves: Callable[[], bool]
    child: Child | None = None
    ready: bool = False
    was_ready: bool = False
    ends: int = 0
    last_exit_code: int | None = None
    last_ending: str = ""
    _back_off_s: float = BACK_OFF_FIRST_S
    _start_at: float = 0.0
    _started_at: float = 0.0

    def poll(self) -> str | None:
        """Look once, do what is due, and return one line for the person who watches when something happened."""
        now = time.monotonic()
        if self.child is None:
            if now >= self._start_at:
                self._started_at = now
                self.child = self.start()
            return None
        if not self.child.alive:
            return self._ended(now, self.child)
        if not self.ready and self.serves():
            self.ready = True
            back, self.was_ready = self.was_ready, True
            return f"{self.name} is back (process {self.child.pid})" if back else f"{self.name} is ready"
        if self.ready and now - self._started_at > STEADY_AFTER_S:
            self._back_off_s = BACK_OFF_FIRST_S
        return None

    def given_up(self) -> bool:
        """Tell whether it is pointless to go on at start: it ended too often, or says that it is used wrongly."""
        if self.was_ready or self.ends == 0:
            return False
        return self.ends >= START_TRIES or self.last_exit_code == EXIT_WRONG_USE

    def _ended(self, now: float, child: Child) -> str:
        self.child, self.ready = None, False
        self.ends += 1
        self.last_exit_code, self.last_ending = child.exit_code, child.ending()
        self._start_at = now + self._back_off_s
        line = f"{self.name} ended ({self.last_ending}); again in {self._back_off_s:g} s: see {child.log_path}"
        self._back_off_s = min(self._back_off_s * 2, BACK_OFF_MAX_S)
        return line
