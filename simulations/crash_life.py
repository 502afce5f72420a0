"""A signer's life in a process of its own, for strace to end or to fail at any system call.

    python -m simulations.crash_life BASE SYNCED_AT_ONCE [FILE_BYTES_MAX]

Exit code 0 when all is signed, 3 when a failure stopped the signer and it refused to go on, 4 when it did not refuse.
"""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path
from typing import Final

from ledger.errors import LedgerError, WrongUse
from ledger.files import SYNCED_AT_ONCE, Folder
from ledger.keyring import ensure_keys
from ledger.writer import LogWriter
from simulations.corruption import DECEMBER_MS, NOVEMBER_MS, TENANT, sample_event

STOPPED: Final = 3
WENT_ON: Final = 4
#: Tree size and the signer's clock at each checkpoint: full and partial tiles, and a month that ends.
STAGES: Final = ((3, NOVEMBER_MS), (250, NOVEMBER_MS + 1_500), (270, NOVEMBER_MS + 3_000), (290, DECEMBER_MS))
FINAL_SIZE: Final = STAGES[-1][0]
EVENTS: Final = [sample_event(number, NOVEMBER_MS) for number in range(FINAL_SIZE)]


def live(base: Path, synced_at_once: int = SYNCED_AT_ONCE) -> int:
    """Sign all stages, from wherever the log stands."""
    folder = Folder(base / "log", synced_at_once=synced_at_once)
    writer = LogWriter.open(folder.root, ensure_keys(base / "keys", TENANT), NOVEMBER_MS, folder=folder)
    try:
        for size, now_ms in STAGES:
            if writer.tree_size < size:
                writer.append(EVENTS[writer.tree_size : size])
            writer.sign(now_ms)
        writer.close(DECEMBER_MS + 1_000)
    except (LedgerError, OSError) as err:
        print(f"{type(err).__name__}: {err}", file=sys.stderr)
        return STOPPED if _refuses(writer) else WENT_ON
    finally:
        writer.abandon()
    return 0


def _refuses(writer: LogWriter) -> bool:
    try:
        writer.sign(DECEMBER_MS)
    except WrongUse:
        return True
    return False


def main() -> int:
    """Live, with files that may not grow beyond a size when one is named: the last write is then a short one."""
    base, synced_at_once, *limits = sys.argv[1:]
    for limit in map(int, limits):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        return live(Path(base), int(synced_at_once))
    except (LedgerError, OSError) as err:  # while opening: nothing is open that could go on
        print(f"{type(err).__name__}: {err}", file=sys.stderr)
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
