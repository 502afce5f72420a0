"""Where a tenant's published log and its keys stand, and what can be told from them without the signer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import TallyError
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from bus.subjects import require_token
from ledger.checkpoint import parse_checkpoint
from ledger.errors import ObjectMissing
from ledger.files import Folder, require
from ledger.keyfolder import POLICY
from ledger.policy import Policy, parse_policy
from ledger.reader import LogReader
from ledger.tiles import CHECKPOINT


@dataclass(frozen=True, kw_only=True)
class LogStatus:
    """The last published checkpoint; `age_ms` is that of its file."""

    tree_size: int
    root: str
    chain_head: str
    age_ms: int


def log_tenant(settings: Settings, named: str | None) -> str:
    """The named tenant, else the only one with a log; works while the servers are down."""
    if named:
        return require_token("the tenant", named)
    names = [name for name in Folder(settings.log_dir).names("") if not name.startswith(".")]
    return names[0] if len(names) == 1 else which_tenant(settings, None)


def log_dir_of(settings: Settings, tenant: str) -> Path:
    return settings.log_dir / tenant


def keys_dir_of(settings: Settings, tenant: str) -> Path:
    return settings.keys_dir / tenant


def load_policy(settings: Settings, tenant: str, named: Path | None = None) -> Policy:
    """The policy file that was named, else the one beside the tenant's keys."""
    path = named or keys_dir_of(settings, tenant) / POLICY
    try:
        return parse_policy(f"policy {path}", path.read_bytes())
    except FileNotFoundError as err:
        raise TallyError(
            f"{path} is not there: name a policy with --policy, or start the signer, which makes one"
        ) from err


def log_status(log_dir: Path) -> LogStatus | None:
    """The last checkpoint of a log with its age, None when nothing is published yet."""
    folder = Folder(log_dir)
    try:
        note = require(folder, CHECKPOINT)
        published_at = (log_dir / CHECKPOINT).stat().st_mtime
    except (ObjectMissing, FileNotFoundError):
        return None
    checkpoint, _ = parse_checkpoint(CHECKPOINT, note)
    link = LogReader(folder, checkpoint.tree_size).link(checkpoint.tree_size)
    return LogStatus(
        tree_size=checkpoint.tree_size,
        root=checkpoint.root.hex(),
        chain_head=link.hex(),
        age_ms=max(0, round((time.time() - published_at) * 1000)),
    )
