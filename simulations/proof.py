"""The winner's finish proven and verified, with the commands that a person would use."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adapters.settings import Settings
from simulations.checks import Finding
from simulations.installation import client_environment
from simulations.stores import Stores

RECEIPTS: Final = "receipts"
TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A receipt on the disk, what the verifier said of it, and the latest root."""

    event_id: str
    receipt: Path
    finding: Finding
    root: str

    def lines(self) -> list[tuple[str, str]]:
        """What a person should read."""
        return [("receipt", f"{self.receipt} proves {self.event_id}"), ("root", self.root)]

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {"event": self.event_id, "receipt": str(self.receipt), "verified": self.finding.ok, "root": self.root}


def prove_finish(settings: Settings, tenant: str, player: str) -> Proof | None:
    """Make a receipt of the player's completion and verify it offline; None when there is no completion."""
    event_id = asyncio.run(_finish_of(settings, tenant, player))
    if event_id is None:
        return None
    receipts = settings.data_dir / RECEIPTS
    receipts.mkdir(exist_ok=True)
    receipt = receipts / f"{event_id}.receipt"
    common = ("--data", str(settings.data_dir), "--tenant", tenant)
    made = _tally("prove", event_id, "-o", str(receipt), *common)
    verified = _tally("verify", str(receipt), "--policy", str(settings.log_dir / tenant / "policy"))
    said = made if made.returncode else verified
    ok = made.returncode == 0 and verified.returncode == 0
    line = (said.stdout if ok else said.stderr).strip().splitlines() or [""]
    finding = Finding("receipt of the winner's finish", ok, line[0])
    roots = _tally("roots", "show", "--json", *common)
    return Proof(event_id=event_id, receipt=receipt, finding=finding, root=_root(roots))


def _root(roots: subprocess.CompletedProcess[str]) -> str:
    try:
        return str(json.loads(roots.stdout))
    except ValueError:
        return roots.stderr.strip() or "unknown"


def _tally(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "adapters.cli", *arguments]
    return subprocess.run(
        command, env=client_environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


async def _finish_of(settings: Settings, tenant: str, player: str) -> str | None:
    async with Stores(settings, tenant) as stores:
        return await stores.event_id(player, "quest-completed/1")
