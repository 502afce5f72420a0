"""A process of the installation that imports everything, says so, and begins its work when it is told to.

    python -m benchmarks.held GROUP --data DIR

So a clock can start when the process may begin: the start of the interpreter and the imports lie before, connecting,
joining the others and restoring state lie after. It touches the file TALLY_HELD_FILE and waits for SIGUSR1.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from adapters.cli import main
from adapters.commands import run


def hold() -> None:
    """Say that all is imported, wait for SIGUSR1."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    Path(os.environ["TALLY_HELD_FILE"]).touch()
    signal.sigwait({signal.SIGUSR1})


if __name__ == "__main__":
    hold()
    sys.exit(main([run.__name__.rpartition(".")[2], *sys.argv[1:]]))
