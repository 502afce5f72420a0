"""How this installation comes by its private keys: passphrases from the environment, other places by references.

A reference is `<scheme>:<rest>`, the one line of a `.ref` file. `env`, `file`, `exec` and `pkcs11` are ours; any other
scheme is an entry point of the group `tally.keys`: a function like `open_env` below, with `environ` left out.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.errors import TallyError
from ledger.errors import excerpt
from ledger.keys import KeyOpener, Passphrase, SigningKey, SigningService, split_secret
from ledger.passphrase import is_configured, passphrase_from
from ledger.primitives import require_random_seed

ENTRY_POINTS: Final = "tally.keys"
_OURS: Final = ("env", "file", "exec", "pkcs11")


def key_opener(environ: Mapping[str, str]) -> KeyOpener:
    """What opens keys without asking anybody; new ones are encrypted exactly when there is a passphrase."""
    return opener_with(environ, passphrase_from(environ), encrypts=is_configured(environ))


def opener_with(environ: Mapping[str, str], passphrase: Passphrase, *, encrypts: bool) -> KeyOpener:
    """What opens keys under this passphrase, and other places by their references."""

    def open_service(reference: str, name: str, algorithm: int) -> SigningService:
        scheme, colon, rest = reference.partition(":")
        match scheme:
            case _ if not colon or not rest:
                raise TallyError(f"key reference is {excerpt(reference)}, wanted <scheme>:<rest>, like env:LOG_KEY")
            case "env":
                return open_env(environ, rest, passphrase)
            case "file":
                return LocalKey(KeyOpener(passphrase=passphrase).open_file(Path(rest)))
            case "exec":
                from adapters.key_program import open_program

                return open_program(rest, name, algorithm)
            case "pkcs11":
                from adapters.key_pkcs11 import open_pkcs11

                return open_pkcs11(environ, reference, name, algorithm)
            case _:
                return _open_plugged(scheme, reference, name, algorithm)

    return KeyOpener(passphrase=passphrase, service=open_service, encrypts=encrypts)


@dataclass(frozen=True)
class LocalKey:
    """A private key that is in this process: a service for the sake of one way to open them all."""

    key: SigningKey

    @property
    def vkey(self) -> str:
        """The public half."""
        return str(self.key.key)

    def sign(self, message: bytes) -> bytes:
        """The bare signature."""
        return self.key.secret.sign(message)


def open_env(environ: Mapping[str, str], variable: str, passphrase: Passphrase) -> SigningService:
    """The private key that stands in an environment variable, encrypted or not."""
    text = environ.get(variable)
    if not text:
        raise TallyError(f"{variable} is not set: it must hold the private key, a line as in a .key file")
    secret = split_secret(text.removesuffix("\n"), passphrase)
    require_random_seed(variable, secret[3])
    return LocalKey(SigningKey.of_secret(*secret))


def _open_plugged(scheme: str, reference: str, name: str, algorithm: int) -> SigningService:
    plugged = {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if scheme not in plugged:
        known = ", ".join([*_OURS, *sorted(plugged)])
        raise TallyError(
            f"key reference is {excerpt(reference)}, wanted one of {known}; others are packages with an entry point "
            f"in the group {ENTRY_POINTS}"
        )
    service: SigningService = plugged[scheme].load()(reference, name, algorithm)
    return service


def passphrase_source(environ: Mapping[str, str], *, is_new: bool = False) -> Passphrase:
    """The passphrase of the environment, else what the person at the terminal types; a new one twice."""
    ask = (_ask_twice if is_new else getpass.getpass) if sys.stdin.isatty() else None
    return passphrase_from(environ, ask)


def _ask_twice(prompt: str) -> str:
    typed = getpass.getpass(prompt)
    while typed and getpass.getpass("the same again: ") != typed:
        typed = getpass.getpass(f"they differ; {prompt}")
    return typed
