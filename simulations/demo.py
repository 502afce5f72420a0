"""The demo from the first command to a proof; `simulations/commands/demo.py` is its command line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from adapters.tenants import create_tenant, list_tenants
from simulations import marathon
from simulations.checks import Board, Finding
from simulations.installation import installation, is_up, run_async
from simulations.progress import Progress
from simulations.proof import Proof, prove_finish
from simulations.report import print_findings, print_lags, print_next_steps, print_proof, print_top


def play(data_dir: Path, tenant: str, players: int | None, *, as_json: bool) -> int:
    """Start, replay, check, prove, print; 0 when every check holds, else 1."""
    progress = Progress(is_quiet=as_json)

    def say(line: str = "") -> None:
        if not as_json:
            print(line, flush=True)

    began = time.monotonic()
    say("Tallyroot: the 2014 Boston Marathon, as commands on NATS")
    was_up = is_up(data_dir)
    if was_up:
        say(f"found       an installation that is up in {data_dir}")
    else:
        say(f"starting    NATS, PostgreSQL, Valkey, a worker, the signer and three projectors in {data_dir}")
    with installation(data_dir) as settings:
        say(f"            ready after {time.monotonic() - began:.1f} s, tenant {tenant}")
        run_async(create_tenant(settings, tenant))
        tenants = len(run_async(list_tenants(settings)))
        replay = run_async(marathon.replay(settings, tenant, players, progress))
        findings = run_async(marathon.check(settings, tenant, players, progress, replay.moments))
        findings.append(replay.refusals())
        board = run_async(marathon.top(settings, tenant, 10))
        proof = prove_finish(settings, tenant, board[0][0]) if board else None
    if proof is not None:
        findings.append(proof.finding)
    if as_json:
        print(json.dumps(_as_json(replay, findings, proof)))
    else:
        _print(replay, findings, board, proof, players=players)
        print_next_steps(data_dir, None if tenants == 1 else tenant, proof, is_up=was_up)
    return 0 if all(finding.ok for finding in findings) else 1


def _print(
    replay: marathon.Replay,
    findings: list[Finding],
    board: Board,
    proof: Proof | None,
    *,
    players: int | None,
) -> None:
    accepted, new = replay.client["accepted"], replay.events - replay.events_before
    rate = accepted / max(0.001, replay.seconds)
    print(f"replayed    {accepted:,} commands in {replay.seconds:.1f} s: {rate:,.0f}/s, each with its outcome")
    if new < accepted:
        print("            (most were answered from an earlier run: a command is executed once)")
    print(f"committed   {new:,} events now, {replay.events:,} in all; fsync before every outcome")
    print_lags(replay.lags)
    print_top(board, marathon.official_top(10, players))
    print_findings(findings)
    if proof is not None:
        print_proof(proof)


def _as_json(replay: marathon.Replay, findings: list[Finding], proof: Proof | None) -> dict[str, Any]:
    return {
        "ok": all(finding.ok for finding in findings),
        **replay.as_json(),
        "checks": [finding._asdict() for finding in findings],
        "proof": None if proof is None else proof.as_json(),
    }
