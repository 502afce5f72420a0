"""How this installation comes by its private keys: passphrases from the environment, services by their references."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Mapping

from ledger.keys import KeyOpener, Passphrase
from ledger.passphrase import is_configured, passphrase_from


def key_opener(environ: Mapping[str, str]) -> KeyOpener:
    """What opens keys without asking anybody; new ones are encrypted exactly when there is a passphrase."""
    return KeyOpener(passphrase=passphrase_from(environ), encrypts=is_configured(environ))


def passphrase_source(environ: Mapping[str, str], *, is_new: bool = False) -> Passphrase:
    """The passphrase of the environment, else what the person at the terminal types; a new one twice."""
    ask = (_ask_twice if is_new else getpass.getpass) if sys.stdin.isatty() else None
    return passphrase_from(environ, ask)


def _ask_twice(prompt: str) -> str:
    typed = getpass.getpass(prompt)
    while typed and getpass.getpass("the same again: ") != typed:
        typed = getpass.getpass(f"they differ; {prompt}")
    return typed
