"""Stamps the time of each month that has closed and copies it to WORM storage; beside the signer, never in its way.

What fails is tried again, waiting longer each time, and told by `tally status`. What is done is known from the files:
a time stamp stands in the log, a copy is noted in `.kept.json` beside it. What was written is never written again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from adapters.authorities import stamp
from adapters.errors import CheckFailed, TallyError
from adapters.root_settings import Authority, RootsConfig, Worm, store_place
from ledger.beside import checkpoint_path, read_stamps, stamp_path
from ledger.errors import LedgerError, SignerLocked
from ledger.files import Folder, require
from ledger.lock import Lock
from ledger.months import ROOTS, certificate_path, open_month, split_root_name
from ledger.policy import Policy, parse_policy

if TYPE_CHECKING:
    from adapters.worm import WormStore

log = logging.getLogger(__name__)

KEPT: Final = ".kept.json"
LOCK: Final = ".kept.lock"
LOOK_EVERY_S: Final = 1.0
WAIT_MAX_S: Final = 300.0
#: How long a folder that cannot be read is left alone.
AWAY_S: Final = 10.0
WORM: Final = "worm"


@dataclass(frozen=True, slots=True)
class Kept:
    """What `.kept.json` says: copies by path (place, version, until), problems by month and by what has it."""

    copies: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: dict[str, dict[str, str]] = field(default_factory=dict)
    alarms: dict[str, str] = field(default_factory=dict)


def read_kept(folder: Folder) -> Kept:
    """What is noted; nothing when the file is missing or torn: then the copies are compared again."""
    try:
        value = json.loads(folder.read(KEPT) or b"{}")
        return Kept(value.get("copies", {}), value.get("problems", {}), value.get("alarms", {}))
    except (ValueError, AttributeError):
        return Kept()


def closed_months(folder: Folder) -> list[str]:
    names = [found for name in folder.names(ROOTS) if (found := split_root_name(name)) is not None]
    return sorted(month for month, is_provisional in names if not is_provisional)


def copied_paths(folder: Folder, month: str, policy: Policy) -> list[str]:
    """What of a month is copied: certificate, closing checkpoint, time stamps; no entries, nothing personal."""
    stamps = (stamp_path(month, name) for name in read_stamps(folder, month, policy))
    return [certificate_path(month), checkpoint_path(month), *stamps]


class RootKeeper:
    """The months of one log; `keep` does what can be done now."""

    def __init__(self, tenant: str, log_dir: Path, policy_file: Path, config: RootsConfig) -> None:
        self._tenant = tenant
        self._folder = Folder(log_dir)
        self._policy_file = policy_file
        self._config = config
        self._kept = read_kept(self._folder)

    def keep(self, stop: threading.Event) -> bool:
        """Stamp and copy what is missing; returns whether nothing is left to do."""
        policy = parse_policy(f"policy {self._policy_file}", self._policy_file.read_bytes())
        found = Kept(dict(self._kept.copies))
        try:
            for month in closed_months(self._folder):
                if stop.is_set():
                    return False
                self._stamp_all(month, policy, found)
                self._copy_all(month, policy, found)
        finally:
            if not stop.is_set() and found != self._kept:
                self._folder.replace(KEPT, json.dumps(asdict(found), indent=1).encode() + b"\n")
                self._kept = found
        return not found.problems

    def _stamp_all(self, month: str, policy: Policy, found: Kept) -> None:
        for authority in self._config.authorities:
            path = stamp_path(month, authority.name)
            if self._folder.read(path) is not None:
                continue
            try:
                response = self._stamp(month, authority, policy)
            except (TallyError, LedgerError) as err:
                self._problem(found, month, authority.name, err)
            else:
                self._folder.replace(path, response)
                log.info("%s of %s: stamped by %s", month, self._tenant, authority.name)

    def _stamp(self, month: str, authority: Authority, policy: Policy) -> bytes:
        path = certificate_path(month)
        statement = open_month(path, require(self._folder, path), policy)
        closing = policy.open(path, statement.closing.checkpoint, origin=statement.origin)
        response, _ = stamp(authority, closing.note, closing.at_seconds)
        return response

    def _copy_all(self, month: str, policy: Policy, found: Kept) -> None:
        worm = self._config.worm
        if worm is None:
            return
        places = {path: store_place(worm, self._tenant, path) for path in copied_paths(self._folder, month, policy)}
        missing = [path for path, place in places.items() if found.copies.get(path, {}).get("place") != place]
        if not missing:
            return
        try:
            with open_worm(worm) as store:
                for path in missing:
                    self._copy(store, month, path, found)
        except (TallyError, LedgerError, ModuleNotFoundError) as err:
            self._problem(found, month, WORM, err)

    def _copy(self, store: WormStore, month: str, path: str, found: Kept) -> None:
        try:
            copy = store.keep(self._tenant, path, require(self._folder, path))
        except CheckFailed as err:  # the others are copied all the more
            found.alarms[path] = str(err)
            self._problem(found, month, WORM, err)
        else:
            found.copies[path] = {"place": copy.place, "version": copy.version, "until": copy.until.isoformat()}

    def _problem(self, found: Kept, month: str, what: str, err: Exception) -> None:
        found.problems.setdefault(month, {})[what] = str(err)
        if self._kept.problems.get(month, {}).get(what) != str(err):
            log.warning("%s of %s, %s: %s; tried again later", month, self._tenant, what, err)

    def run(self, stop: threading.Event) -> None:
        """Keep going until `stop` is set."""
        wait_s = LOOK_EVERY_S
        tried: list[str] | None = None
        due = pause_s = 0.0
        while not stop.wait(pause_s):
            pause_s = LOOK_EVERY_S
            try:
                months = closed_months(self._folder)
                if months == tried and time.monotonic() < due:
                    continue
                lock = Lock(self._folder.root / LOCK)
            except SignerLocked:  # one that was told to stop is still waiting for an answer
                continue
            except OSError as err:  # a file system that is away for a while must not end the thread
                log.warning("monthly roots of %s: %s; looked for again later", self._tenant, err)
                pause_s = AWAY_S
                continue
            try:
                is_done = self.keep(stop)
            except Exception as err:  # noqa: BLE001 (whatever an answer holds, the months to come are kept)
                log.warning("monthly roots of %s: %s: %s", self._tenant, type(err).__name__, err)
                is_done = False
            finally:
                lock.release()
            wait_s = LOOK_EVERY_S if months != tried else min(2 * wait_s, WAIT_MAX_S)
            tried, due = months, float("inf") if is_done else time.monotonic() + wait_s


def open_worm(config: Worm) -> contextlib.closing[WormStore]:
    """The store while it is needed; boto3, of the extra `worm`, is imported only then."""
    from adapters.worm import WormStore

    return contextlib.closing(WormStore(config))


def start_keeper(tenant: str, log_dir: Path, policy_file: Path, config: RootsConfig, stop: threading.Event) -> None:
    """Run a keeper in a thread of its own until `stop` is set; nothing to do, no thread."""
    if not config.is_empty:
        keeper = RootKeeper(tenant, log_dir, policy_file, config)
        threading.Thread(target=keeper.run, args=(stop,), name=f"roots-{tenant}", daemon=True).start()
