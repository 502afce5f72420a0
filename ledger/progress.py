r"""How far an interrupted audit came, in a file of the auditor's own.

    <hex SHA-256 of the rest> \n
    <JSON> \n

The file says what was computed from the entries, never what was published: hashes of the unfinished tiles, the chain's
link, the versions of the subjects. So the root that the resumed audit computes still has to meet the signed one. What
an earlier run has read is not read again; the report says how much that was.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from ledger.commands import Mark
from ledger.encoding import encode_json
from ledger.errors import WrongUse
from ledger.files import Folder
from ledger.hashing import EMPTY_ROOT, FIRST_LINK
from ledger.tiles import LEVEL_MAX, TILE_WIDTH

FORMAT: Final = "https://tallyroot.example/audit-progress/v2"
SAVE_EVERY_S: Final = 30.0
Kind = tuple[str, str]  # type of an event, month in which it says it was recorded


@dataclass(frozen=True, slots=True)
class State:
    """The log after some number of entries, as computed."""

    root: bytes = EMPTY_ROOT
    link: bytes = FIRST_LINK
    kinds: Counter[Kind] = field(default_factory=Counter)


def no_levels() -> list[list[bytes]]:
    return [[] for _ in range(LEVEL_MAX + 1)]


@dataclass(slots=True)
class Replayed:
    """What is known after whole bundles: hashes of unfinished levels from 1 up, and the states asked for so far.

    `command` is that of the last event; `runs` marks the scratch files of `CommandRuns`.
    """

    bundles: int = 0
    levels: list[list[bytes]] = field(default_factory=no_levels)
    link: bytes = FIRST_LINK
    kinds: Counter[Kind] = field(default_factory=Counter)
    versions: dict[str, int] = field(default_factory=dict)
    tenant: str | None = None
    command: str | None = None
    runs: list[Mark] = field(default_factory=list)
    key_entries: list[tuple[int, bytes]] = field(default_factory=list)
    states: dict[int, State] = field(default_factory=lambda: {0: State()})

    @property
    def entries(self) -> int:
        return self.bundles * TILE_WIDTH


@dataclass(frozen=True, slots=True)
class AuditProgress:
    """`options` are those under which the entries were read; `checkpoint` is the signed note that was audited."""

    options: dict[str, Any]
    checkpoint: bytes
    replayed: Replayed


def encode_progress(progress: AuditProgress) -> bytes:
    replayed = progress.replayed
    value = {
        "format": FORMAT,
        "options": progress.options,
        "checkpoint": progress.checkpoint.decode(),
        "bundles": replayed.bundles,
        "levels": [[value.hex() for value in hashes] for hashes in replayed.levels],
        "link": replayed.link.hex(),
        "kinds": _kinds(replayed.kinds),
        "versions": replayed.versions,
        "tenant": replayed.tenant,
        "command": replayed.command,
        "runs": replayed.runs,
        "keys": [[leaf_index, entry.decode()] for leaf_index, entry in replayed.key_entries],
        "states": [
            [size, state.root.hex(), state.link.hex(), _kinds(state.kinds)] for size, state in replayed.states.items()
        ],
    }
    body = encode_json(value) + b"\n"
    return sha256(body).hexdigest().encode() + b"\n" + body


def decode_progress(what: str, data: bytes) -> AuditProgress:
    """What `encode_progress` wrote; raises `WrongUse` for anything else."""
    digest, _, body = data.partition(b"\n")
    if digest != sha256(body).hexdigest().encode():
        raise WrongUse(
            f"{what}: remove it to begin again", expected="the progress of an audit", found="a damaged file, or another"
        )
    value = json.loads(body)
    if value["format"] != FORMAT:
        raise WrongUse(f"{what}: remove it to begin again", expected=FORMAT, found=value["format"])
    replayed = Replayed(
        bundles=value["bundles"],
        levels=[[bytes.fromhex(text) for text in hashes] for hashes in value["levels"]],
        link=bytes.fromhex(value["link"]),
        kinds=_counter(value["kinds"]),
        versions=value["versions"],
        tenant=value["tenant"],
        command=value["command"],
        runs=[(size, digest) for size, digest in value["runs"]],
        key_entries=[(leaf_index, entry.encode()) for leaf_index, entry in value["keys"]],
        states={
            size: State(bytes.fromhex(root), bytes.fromhex(link), _counter(kinds))
            for size, root, link, kinds in value["states"]
        },
    )
    return AuditProgress(value["options"], value["checkpoint"].encode(), replayed)


def _kinds(kinds: Counter[Kind]) -> list[list[str | int]]:
    return [[name, month, count] for (name, month), count in kinds.items()]


def _counter(kinds: list[tuple[str, str, int]]) -> Counter[Kind]:
    return Counter({(name, month): count for name, month, count in kinds})


class ProgressFile:
    """Where an audit remembers how far it came; `options` are what must be the same for it to go on.

    `scratch` is a folder beside it, for what is too large to be written again and again.
    """

    def __init__(self, path: Path, options: dict[str, Any]) -> None:
        self._path = path
        self._options = options
        self._saved_at_s = time.monotonic()
        self.scratch = path.with_name(f"{path.name}.commands")

    def load(self) -> AuditProgress | None:
        """What an interrupted audit left, None when there is nothing; raises `WrongUse` for that of another audit."""
        what = f"progress {self._path}"
        data = Folder(self._path.parent).read(self._path.name)
        if data is None:
            return None
        found = decode_progress(what, data)
        if found.options != self._options:
            raise WrongUse(
                f"{what}: name another file, or remove it", expected=f"{self._options}", found=f"{found.options}"
            )
        return found

    def is_due(self) -> bool:
        return time.monotonic() - self._saved_at_s >= SAVE_EVERY_S

    def save(self, checkpoint: bytes, replayed: Replayed) -> None:
        data = encode_progress(AuditProgress(self._options, checkpoint, replayed))
        Folder(self._path.parent).replace(self._path.name, data)
        self._saved_at_s = time.monotonic()

    def remove(self) -> None:
        """What holds no longer, or is needed no longer."""
        Folder(self._path.parent).remove(self._path.name)
        shutil.rmtree(self.scratch, ignore_errors=True)
