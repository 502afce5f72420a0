"""Becomes a server: ties its life to the parent's, gives up root where the server refuses it, then executes it.

Run as `python -m adapters.embedded_launch PARENT_PID DIE_SIGNAL UID PROGRAM ARGUMENT...` (UID `-` keeps the user).
It is a program of its own because code between fork and exec of a threaded parent may deadlock.
"""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522
EXIT_CANNOT_LAUNCH = 127


def main(arguments: list[str]) -> None:
    parent_pid, die_signal, uid, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    if uid != "-":
        _give_up_root(libc, int(uid), needs=(command[0], str(Path.cwd())))
    # After the change of user, which clears it. Where there is no prctl (macOS), an orderly stop is what is left.
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, int(die_signal), 0, 0, 0)
    if os.getppid() != int(parent_pid):
        sys.exit(EXIT_CANNOT_LAUNCH)  # the parent died before the line above: nobody would stop the server
    os.execv(command[0], command)  # noqa: S606 (no shell is the point)


def _give_up_root(libc: ctypes.CDLL, uid: int, needs: tuple[str, ...]) -> None:
    """PostgreSQL refuses to run as root. A path that is closed to others (/root) stays open by one capability."""
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if all(os.access(path, os.R_OK | os.X_OK) for path in needs):
        _set_capabilities(libc, 0)
    else:
        _set_capabilities(libc, 1 << CAP_DAC_OVERRIDE)
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def _set_capabilities(libc: ctypes.CDLL, mask: int) -> None:
    """Set effective, permitted and inheritable to `mask`: capget(2), two words each, low word first."""
    if not hasattr(libc, "capset"):
        return
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    # A container may have taken the capability away: then the program says itself what it cannot read.
    libc.capset(header, data)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            main(sys.argv[1:])
        except OSError as err:
            print(f"cannot start {sys.argv[4]}: {err.strerror}", file=sys.stderr, flush=True)  # noqa: T201 (the log)
            sys.exit(EXIT_CANNOT_LAUNCH)
