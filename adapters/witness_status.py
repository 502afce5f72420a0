"""How a log's witnesses stand, as its signer tells it: a file beside the log that `tally status` reads.

.witnesses    {"pending":{"tree_size":…,"since_ms":…}|null,
               "witnesses":[{"name":…,"url":…,"tree_size":…|null,"problem":…|null}, …]}
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

from ledger.files import Folder
from ledger.keyring import LAST_SIGNED
from ledger.writer import LogWriter

WITNESSES_FILE: Final = ".witnesses"
TELL_EVERY_MS: Final = 1_000


class WitnessTeller:
    """Writes the file when something changed, at most once a second; nothing for a log without a quorum."""

    def __init__(self, log_dir: Path) -> None:
        self._folder = Folder(log_dir)
        self._told = b""
        self._told_at_ms = 0
        self._pending: tuple[int, int] | None = None

    def tell(self, writer: LogWriter, now_ms: int) -> None:
        pending = writer.pending
        if pending is None:
            self._pending = None
        elif self._pending is None or self._pending[0] != pending.tree_size:
            self._pending = pending.tree_size, now_ms
        witnesses = writer.witnesses()
        if not witnesses or abs(now_ms - self._told_at_ms) < TELL_EVERY_MS:
            return
        waits = {"tree_size": self._pending[0], "since_ms": self._pending[1]} if self._pending else None
        standings = [dataclasses.asdict(standing) for standing in witnesses]
        told = json.dumps({"pending": waits, "witnesses": standings}, ensure_ascii=False).encode()
        if told != self._told:
            self._folder.replace(WITNESSES_FILE, told)
            self._told, self._told_at_ms = told, now_ms


def describe_witnesses(log_dir: Path, now_ms: int) -> tuple[str, ...]:
    """A line on the checkpoint that waits for its quorum, and one for each witness; none without a quorum."""
    data = Folder(log_dir).read(WITNESSES_FILE)
    try:
        told: dict[str, Any] = json.loads(data or b"{}")
        lines = [_standing(witness) for witness in told.get("witnesses", [])]
        pending = told.get("pending")
        if pending:
            since_s = max(0, now_ms - int(pending["since_ms"])) / 1000
            lines.insert(0, f"size {pending['tree_size']:,} waits for its quorum since {since_s:.1f} s")
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        return (f"{log_dir / WITNESSES_FILE} is unreadable ({err}): the signer writes it anew",)
    return tuple(lines)


def _standing(witness: dict[str, Any]) -> str:
    size = witness["tree_size"]
    at = "nothing cosigned yet" if size is None else f"cosigned {size:,}"
    problem = f"; {witness['problem']}" if witness["problem"] else ""
    return f"{witness['name']} ({witness['url']}): {at}{problem}"


def evidence_of_fork(keys_dir: Path) -> str | None:
    """What keeps a signer from signing: evidence that another history was signed under its keys."""
    kept = [name for name in Folder(keys_dir).names("") if name.startswith(f"{LAST_SIGNED}.evidence-")]
    return f"{keys_dir / kept[0]} says that another history was signed: nothing is signed" if kept else None
