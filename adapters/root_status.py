"""What of the closed months still waits for a time stamp or a copy, and why; read from files, nobody is asked."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.errors import TallyError
from adapters.published_log import keys_dir_of, load_policy, log_dir_of
from adapters.root_keeper import WORM, Kept, closed_months, copied_paths, read_kept
from adapters.root_settings import RootsConfig, load_roots_config, store_place
from adapters.settings import Settings
from ledger.beside import stamp_path
from ledger.errors import LedgerError
from ledger.files import Folder
from ledger.keyfolder import POLICY
from ledger.policy import Policy


@dataclass(frozen=True, kw_only=True)
class RootsStatus:
    """One line for each thing that waits, with the last answer; alarms are copies that say something else."""

    waiting: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()


def roots_status(settings: Settings, tenant: str) -> RootsStatus:
    """Compare what is configured with what is there."""
    folder = Folder(log_dir_of(settings, tenant))
    kept = read_kept(folder)
    try:
        config, months = load_roots_config(settings), closed_months(folder)
        if config.is_empty and not (months and (keys_dir_of(settings, tenant) / POLICY).is_file()):
            return RootsStatus()
        policy = load_policy(settings, tenant)
        waiting = [line for month in months for line in _waiting(tenant, folder, month, policy, config, kept)]
        waiting += _ended(months, policy, config)
    except (TallyError, LedgerError, OSError) as err:
        return RootsStatus(waiting=(str(err),))
    return RootsStatus(waiting=tuple(waiting), alarms=tuple(kept.alarms.values()))


def _ended(months: list[str], policy: Policy, config: RootsConfig) -> list[str]:
    """Authorities that are not asked any more and that the policy still promises: audits would miss their stamps."""
    configured = {authority.name for authority in config.authorities}
    names = policy.stamping(months[-1]) if months else []
    return [
        f"time stamps of {name}: the policy says that it stamps every month, and nobody asks it: "
        f"add it to the settings, or say in the policy until when it did (# tally-stamps {name} <first> <last month>)"
        for name in names
        if name not in configured
    ]


def _waiting(tenant: str, folder: Folder, month: str, policy: Policy, config: RootsConfig, kept: Kept) -> list[str]:
    problems = kept.problems.get(month, {})
    names = [a.name for a in config.authorities if folder.read(stamp_path(month, a.name)) is None]
    lines = [f"{month}: time stamp of {name}: {problems.get(name, 'to be asked')}" for name in names]
    worm = config.worm
    if worm is not None:
        missing = [
            path
            for path in copied_paths(folder, month, policy)
            if kept.copies.get(path, {}).get("place") != store_place(worm, tenant, path)
        ]
        if missing:
            lines.append(f"{month}: {len(missing)} copies to {worm.bucket}: {problems.get(WORM, 'to be made')}")
    return lines
