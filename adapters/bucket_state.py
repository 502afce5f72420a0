"""How far a log's publication in a bucket came: a file beside the log, for the publisher and for `tally status`.

.bucket.json   place        s3://bucket/prefix/tenant; what is said of another place counts for nothing
               whole        entries whose full bundles, chain files and tiles are there; those after them may be
               partials     partial files that may be there, until their full ones are under the checkpoint there
               roots        file under roots/ -> SHA-256 of what was put
               tree_size    of the last checkpoint that was put, null before the first
               signed_ms    when that one was published in the log's folder
               problem      why nothing newer is there, of the last try
               alarm        the same when somebody has to look: the bucket, or the log, is not what it was
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Final

from adapters.errors import TallyError
from adapters.published_log import log_dir_of
from adapters.root_settings import load_roots_config, store_place
from adapters.settings import Settings
from ledger.checkpoint import parse_checkpoint
from ledger.errors import LedgerError
from ledger.files import Folder
from ledger.tiles import CHECKPOINT

STATE: Final = ".bucket.json"


@dataclass(slots=True, kw_only=True)
class BucketState:
    """What the file says."""

    place: str
    whole: int = 0
    partials: list[str] = field(default_factory=list)
    roots: dict[str, str] = field(default_factory=dict)
    tree_size: int | None = None
    signed_ms: int = 0
    problem: str = ""
    alarm: str = ""


def read_state(folder: Folder, place: str) -> BucketState | None:
    """What is known of a place; None when nothing is, or the file is torn: then everything is put again."""
    try:
        state = BucketState(**json.loads(folder.read(STATE) or b"{}"))
    except (ValueError, TypeError):
        return None
    return state if state.place == place else None


def write_state(folder: Folder, state: BucketState) -> None:
    folder.replace(STATE, json.dumps(asdict(state), indent=1).encode() + b"\n")


def signed_ms_of(folder: Folder) -> int:
    """When the checkpoint in a log's folder was published."""
    return (folder.root / CHECKPOINT).stat().st_mtime_ns // 1_000_000


@dataclass(frozen=True, kw_only=True)
class PublicationStatus:
    """How far the bucket is behind the folder: `behind_s` lies between their checkpoints."""

    place: str
    tree_size: int | None
    behind_entries: int
    behind_s: float
    problem: str = ""
    alarm: str = ""


def publication_status(settings: Settings, tenant: str) -> PublicationStatus | None:
    """Read from files, nobody is asked; None when no bucket is configured or nothing is signed yet."""
    folder = Folder(log_dir_of(settings, tenant))
    try:
        publication = load_roots_config(settings).publication
        note = folder.read(CHECKPOINT)
        if publication is None or note is None:
            return None
        size, signed_ms = parse_checkpoint(CHECKPOINT, note)[0].tree_size, signed_ms_of(folder)
    except (TallyError, LedgerError, OSError) as err:
        return PublicationStatus(place="", tree_size=None, behind_entries=0, behind_s=0.0, problem=str(err))
    place = store_place(publication, tenant)
    state = read_state(folder, place) or BucketState(place=place)
    is_begun = state.tree_size is not None
    return PublicationStatus(
        place=place,
        tree_size=state.tree_size,
        behind_entries=max(0, size - (state.tree_size or 0)),
        behind_s=max(0, signed_ms - state.signed_ms) / 1000 if is_begun else 0.0,
        problem=state.problem,
        alarm=state.alarm,
    )
