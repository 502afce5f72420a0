"""What the auditors' commands share: reading their files, and saying what holds and what does not."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ledger.errors import LedgerError, WrongUse
from ledger.files import Folder, Source
from ledger.months import month_of
from ledger.policy import Policy, parse_policy
from ledger.receipt import Claim
from ledger.remote import Website


def read_file(what: str, path: Path) -> bytes:
    """The bytes of a file that the command line names; raises `WrongUse`."""
    try:
        return path.read_bytes()
    except OSError as err:
        raise WrongUse(f"{what} {path} cannot be read ({err.strerror}): name an existing file") from err


def load_policy(path: Path) -> Policy:
    """The policy of a file, as of now; raises `WrongUse`, `Malformed` or `KeyRefused`."""
    return parse_policy(f"policy {path}", read_file("policy", path)).as_of(int(time.time()))


def open_log(text: str) -> Source:
    """The folder or web address that the command line names; raises `WrongUse`."""
    if "://" in text:
        return Website(text, month_of(int(time.time() * 1000)))
    if not Path(text).is_dir():
        raise WrongUse(f"{text} is no folder: name the folder or the URL that has the log's checkpoint below it")
    return Folder(Path(text))


class Report:
    """One line per checked claim (`ok`) or what is not claimed (`--`), or one JSON object at the end."""

    def __init__(self, *, is_json: bool) -> None:
        self._is_json = is_json
        self._claims: list[Claim] = []

    def claim(self, claim: Claim) -> None:
        self._claims.append(claim)
        if not self._is_json:
            print(f"{'ok' if claim.is_checked else '--':<7} {claim.name:<11} {claim.detail}")

    def finish(self, failure: LedgerError | None, extra: dict[str, Any] | None = None) -> int:
        """Say how it ended; returns the exit code."""
        if self._is_json:
            claims = [claim._asdict() for claim in self._claims]
            value = {"ok": failure is None, "claims": claims, "failure": None if failure is None else str(failure)}
            print(json.dumps(value | (extra or {}), ensure_ascii=False))
        elif failure is not None:
            print(f"FAILED  {failure}")
        else:
            print("verified")
        return 0 if failure is None else failure.exit_code


def progress_bar(label: str) -> Callable[[int, int], None] | None:
    """A bar on the terminal's error output, None when there is no terminal."""
    if not sys.stderr.isatty():
        return None
    width = 30

    def show(done: int, total: int) -> None:
        filled = width if not total else done * width // total
        end = "\r\x1b[K" if done == total else ""
        print(f"\r{label} [{'#' * filled:<{width}}] {done}/{total}", end=end, file=sys.stderr, flush=True)

    return show
