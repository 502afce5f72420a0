"""One active signer for a folder. Apart from the other files, as auditors on Windows have no `fcntl`."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ledger.errors import SignerLocked


class Lock:
    """One active signer for a folder: an advisory lock that the system releases when the process ends."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            os.close(self._descriptor)
            self._descriptor = -1
            raise SignerLocked(
                f"{path.parent} is in use by another signer: stop that one, or let this one wait for it"
            ) from err

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
