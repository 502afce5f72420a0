"""Where the passphrase of encrypted keys comes from: a file, the environment, a person at a terminal; in this order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from ledger.errors import WrongUse
from ledger.keys import Passphrase, is_private

FILE_VARIABLE: Final = "TALLY_KEYS_PASSPHRASE_FILE"
VARIABLE: Final = "TALLY_KEYS_PASSPHRASE"


def is_configured(environ: Mapping[str, str]) -> bool:
    return bool(environ.get(FILE_VARIABLE) or environ.get(VARIABLE))


def passphrase_from(environ: Mapping[str, str], ask: Callable[[str], str] | None = None) -> Passphrase:
    """A source that is asked once and remembers; `ask` is for those with a terminal. It raises `WrongUse`."""

    @cache
    def once() -> str:
        path = environ.get(FILE_VARIABLE)
        found = _read(Path(path)) if path else environ.get(VARIABLE, "")
        if not found and ask is not None:
            found = ask("passphrase of the keys: ")
        if not found:
            raise WrongUse(
                f"the keys are encrypted: name a file with their passphrase in {FILE_VARIABLE} (or set {VARIABLE})"
            )
        return found

    return lambda _label: once()


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        is_open = not is_private(path)
    except (OSError, ValueError) as err:
        raise WrongUse(f"{FILE_VARIABLE}: {path} cannot be read ({err})") from err
    if is_open:
        raise WrongUse(f"{FILE_VARIABLE}: others can read {path}: chmod 600")
    if not text.strip("\n"):
        raise WrongUse(f"{FILE_VARIABLE}: {path}", expected="a passphrase on its first line", found="nothing")
    return text.split("\n", 1)[0]
