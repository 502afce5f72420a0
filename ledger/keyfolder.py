"""The names in a folder of keys, and how each key stands: what it may sign, where its private half is.

log-ed25519                  signs checkpoints, type 0x01
log-mldsa44                  signs checkpoints, type 0x06, where the build of `cryptography` has ML-DSA-44
certificate-ed25519          signs monthly certificates (DSSE)
<role>-2, <role>-3, ...      the role's next keys, one for each rotation
policy                       the auditors' trust root; written last, so that it marks a complete set
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger import keycrypt
from ledger.files import Folder
from ledger.keys import one_line, read_line, read_public
from ledger.note import VerifierKey
from ledger.policy import parse_policy

LOG_KEY: Final = "log-ed25519"
LOG_PQ_KEY: Final = "log-mldsa44"
CERTIFICATE_KEY: Final = "certificate-ed25519"
POLICY: Final = "policy"
LOG, CERTIFICATE = "log", "certificate"
ENCRYPTED, PLAIN, DESTROYED = "encrypted", "plain", "destroyed"
ROLES: Final = {LOG_KEY: LOG, LOG_PQ_KEY: LOG, CERTIFICATE_KEY: CERTIFICATE}
_NAME: Final = re.compile(rf"({'|'.join(ROLES)})(?:-([2-9]|[1-9][0-9]+))?\.vkey", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyStanding:
    """A key by its name in the folder; without sizes when the policy does not know it (yet)."""

    name: str
    role: str
    key: VerifierKey
    first_size: int | None
    last_size: int | None
    kept: str


def key_names(folder: Path, role: str | None = None) -> list[str]:
    """Names of the keys in a folder, each role's in the order in which they were made."""
    found = [match for name in Folder(folder).names("") if (match := _NAME.fullmatch(name))]
    found.sort(key=lambda match: (list(ROLES).index(match[1]), int(match[2] or 1)))
    return [match[0].removesuffix(".vkey") for match in found if role in {None, match[1]}]


def name_of(folder: Path, key: VerifierKey) -> str | None:
    """The name of a key in a folder; None when it is not there."""
    return next((name for name in key_names(folder) if read_public(folder / f"{name}.vkey") == key), None)


def is_kept(folder: Path, name: str) -> bool:
    """Whether the private half of a key is there, or a reference to it."""
    files = Folder(folder)
    return files.read(f"{name}.key") is not None or files.read(f"{name}.ref") is not None


def role_of(name: str) -> str:
    """`log-ed25519-2` -> `log-ed25519`."""
    return next(role for role in ROLES if name == role or name.startswith(f"{role}-"))


def next_name(folder: Path, role: str) -> str:
    """The name that the next key of a role gets."""
    names = key_names(folder, role)
    return f"{role}-{int(names[-1].removeprefix(role).lstrip('-') or 1) + 1}" if names else role


def list_keys(folder: Path) -> list[KeyStanding]:
    """Every key of a folder, without opening any."""
    path = folder / POLICY
    policy = parse_policy(str(path), path.read_bytes())
    ranges = {ranged.key: ranged for ranged in (*policy.logs, *policy.certificates)}
    found = []
    for name in key_names(folder):
        key = read_public(folder / f"{name}.vkey")
        ranged = ranges.get(key)
        first, last = (ranged.first_size, ranged.last_size_or_none) if ranged else (None, None)
        found.append(KeyStanding(name, ROLES[role_of(name)], key, first, last, _kept(folder, name)))
    return found


def _kept(folder: Path, name: str) -> str:
    files = Folder(folder)
    reference = files.read(f"{name}.ref")
    if reference is not None:
        return one_line(folder / f"{name}.ref", reference)
    if files.read(f"{name}.key") is None:
        return DESTROYED
    return ENCRYPTED if read_line(folder / f"{name}.key").startswith(keycrypt.ENCRYPTED) else PLAIN
