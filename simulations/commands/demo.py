"""`tally demo`: the 2014 Boston Marathon from the first command to a proof, on this machine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from adapters.tenants import create_tenant, list_tenants
from simulations import marathon
from simulations.checks import Board, Finding
from simulations.installation import EXIT_INTERRUPTED, installation, interruptible, is_up, run_async
from simulations.progress import Progress
from simulations.proof import Proof, prove_finish
from simulations.report import print_findings, print_lags, print_next_steps, print_proof, print_top

HELP = "replay the 2014 Boston Marathon, check everything, prove the winner's finish"
TENANT = "boston"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "examples:\n"
        "  tally demo                   # the whole race, in .tally\n"
        "  tally demo --players 1000    # a small one\n"
        "Run it again, or after Ctrl-C: nothing is executed twice."
    )
    parser.add_argument("--players", type=_count, metavar="N", help="only the first N finishers (default: all 31,984)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, nothing else")


def run(args: argparse.Namespace) -> int:
    """0 when every check holds, 1 when one fails, 130 after Ctrl-C."""
    with interruptible():
        try:
            return _run(args.data, args.tenant or TENANT, args.players, as_json=args.json)
        except KeyboardInterrupt:
            print("\ntally: interrupted, everything is stopped; run it again and it goes on", file=sys.stderr)
            return EXIT_INTERRUPTED


def _run(data_dir: Path, tenant: str, players: int | None, *, as_json: bool) -> int:
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
        findings = run_async(marathon.check(settings, tenant, players, progress))
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


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        message = f"{text!r} is no number of players, 1 or more is wanted"
        raise argparse.ArgumentTypeError(message)
    return int(text)
