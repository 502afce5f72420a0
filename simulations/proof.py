"""The winner's finish proven and verified, with the commands that a person would use."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adapters.settings import Settings
from simulations.checks import Finding
from simulations.installation import client_environment, run_async
from simulations.stores import Stores

RECEIPTS: Final = "receipts"
POLICY: Final = "policy"
TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A receipt on the disk, what the verifier said of it, and the root of the month as far as it goes."""

    event_id: str
    receipt: Path
    policy: Path
    log: Path
    finding: Finding
    month: Mapping[str, Any]

    def lines(self) -> list[tuple[str, str]]:
        """What a person should read."""
        found = [("receipt", f"{self.receipt} (event {self.event_id})")]
        if self.month:
            kind = "provisional" if self.month["provisional"] else "certified"
            found.append(("month", f"{self.month['month']}, {kind} root {self.month['root']}"))
        return found

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "event": self.event_id,
            "receipt": str(self.receipt),
            "verified": self.finding.ok,
            "claims": self.finding.detail,
            "month": dict(self.month),
        }


def prove_finish(settings: Settings, tenant: str, player: str) -> Proof | None:
    """Make a receipt of the player's completion and verify it offline; None when there is no completion."""
    event_id = run_async(_finish_of(settings, tenant, player))
    if event_id is None:
        return None
    receipt = shown(settings.data_dir / RECEIPTS / f"{event_id}.receipt")
    policy = shown(settings.keys_dir / tenant / POLICY)
    receipt.parent.mkdir(exist_ok=True)
    installation = ("--data", str(settings.data_dir), "--tenant", tenant)
    made = _tally("prove", event_id, "-o", str(receipt), *installation)
    verified = _tally("verify", str(receipt), "--policy", str(policy), "--json") if made.returncode == 0 else made
    finding = Finding("receipt of the winner's finish", verified.returncode == 0, _claims(verified))
    roots = _tally("roots", "--json", *installation, "list")
    months = json.loads(roots.stdout) if roots.returncode == 0 else []
    month = months[-1] if months else {}
    return Proof(
        event_id=event_id,
        receipt=receipt,
        policy=policy,
        log=shown(settings.log_dir / tenant),
        finding=finding,
        month=month,
    )


def shown(path: Path) -> Path:
    """The path as short as it can be typed from here."""
    with suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def _claims(verified: subprocess.CompletedProcess[str]) -> str:
    """What was proven besides the entry itself, or what failed."""
    if verified.returncode != 0:
        return (verified.stderr or verified.stdout).strip().replace("\n", "; ")
    claims = {claim["name"]: claim["detail"] for claim in json.loads(verified.stdout)["claims"]}
    return f"{claims.get('inclusion', 'included')}, signatures and proof verified offline"


def _tally(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "adapters.cli", *arguments]
    return subprocess.run(
        command, env=client_environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


async def _finish_of(settings: Settings, tenant: str, player: str) -> str | None:
    async with Stores(settings, tenant) as stores:
        return await stores.event_id(player, "quest-completed/1")
