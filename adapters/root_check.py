"""Each closed month against what is kept of it elsewhere: time stamps under the policy, copies byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adapters.errors import TallyError
from adapters.published_log import log_dir_of
from adapters.root_keeper import closed_months, copied_paths, open_worm
from adapters.root_settings import RootsConfig, load_roots_config, store_place
from adapters.settings import Settings
from ledger.beside import checkpoint_path, read_stamps, require_closing, verify_stamps
from ledger.errors import LedgerError
from ledger.files import Folder, require
from ledger.months import MonthStatement, certificate_path, open_month
from ledger.policy import Policy


@dataclass(frozen=True, kw_only=True)
class RootCheck:
    """One thing that was compared."""

    month: str
    is_good: bool
    detail: str


def check_roots(settings: Settings, tenant: str, policy: Policy, only: str | None) -> list[RootCheck]:
    """Check one closed month, or all; what does not hold is a line of its own, and the others are checked still."""
    config = load_roots_config(settings)
    folder = Folder(log_dir_of(settings, tenant))
    months = closed_months(folder)
    if only is not None and only not in months:
        raise TallyError(f"{only} has no certificate in {folder.root}: tally roots list shows which months are closed")
    return [line for month in months if only in {None, month} for line in _check(tenant, folder, month, policy, config)]


def _check(tenant: str, folder: Folder, month: str, policy: Policy, config: RootsConfig) -> Iterator[RootCheck]:
    path = certificate_path(month)
    try:
        statement = open_month(path, require(folder, path), policy)
        require_closing(checkpoint_path(month), require(folder, checkpoint_path(month)), statement)
    except LedgerError as err:
        yield RootCheck(month=month, is_good=False, detail=str(err))
        return
    yield RootCheck(month=month, is_good=True, detail=f"certificate, root {statement.closing_root.hex()}")
    yield from _check_stamps(folder, statement, policy, config)
    yield from _check_copies(tenant, folder, month, policy, config)


def _check_stamps(folder: Folder, month: MonthStatement, policy: Policy, config: RootsConfig) -> Iterator[RootCheck]:
    stamps = read_stamps(folder, month.month, policy)
    wanted = {*policy.stamping(month.month), *(authority.name for authority in config.authorities)}
    for name in sorted({*stamps, *wanted}):
        what = f"time stamp of {name}"
        if name not in stamps:
            yield RootCheck(month=month.month, is_good=False, detail=f"{what}: missing, tally status says why")
            continue
        try:
            found = verify_stamps(month.name, month, {name: stamps[name]}, policy)[name]
        except LedgerError as err:
            yield RootCheck(month=month.month, is_good=False, detail=str(err))
        else:
            detail = "not checked: the policy names no such authority" if found is None else str(found)
            yield RootCheck(month=month.month, is_good=True, detail=f"{what}: {detail}")


def _check_copies(tenant: str, folder: Folder, month: str, policy: Policy, config: RootsConfig) -> Iterator[RootCheck]:
    worm = config.worm
    if worm is None:
        return
    for path in copied_paths(folder, month, policy):
        try:
            with open_worm(worm) as store:
                copy = store.compare(tenant, path, require(folder, path))
        except (TallyError, LedgerError) as err:
            yield RootCheck(month=month, is_good=False, detail=str(err))
            continue
        if copy is None:
            detail = f"{store_place(worm, tenant, path)}: missing, tally status says why"
            yield RootCheck(month=month, is_good=False, detail=detail)
        else:
            detail = f"{copy.place}: the same bytes, locked until {copy.until:%Y-%m-%d}"
            yield RootCheck(month=month, is_good=True, detail=detail)
