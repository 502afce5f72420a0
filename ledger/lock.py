"""One active signer, or witness, for a folder."""

from __future__ import annotations

import os
from pathlib import Path

from ledger.errors import SignerLocked, Unsupported

try:
    import fcntl
except ImportError:  # Windows, where auditors may be; nobody signs there
    fcntl = None  # type: ignore[assignment]


class Lock:
    """An advisory lock that the system releases when the process ends."""

    def __init__(self, path: Path) -> None:
        if fcntl is None:
            raise Unsupported("signing: this system has no file locks; use Linux or macOS")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            os.close(self._descriptor)
            self._descriptor = -1
            raise SignerLocked(
                f"{path.parent} is in use by another signer or witness: stop that one, or let this one wait for it"
            ) from err

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
