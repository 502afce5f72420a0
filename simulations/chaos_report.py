"""What `tally simulate chaos` runs and prints."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from simulations.chaos import Result, Say, run
from simulations.chaos_recording import CLASSES
from simulations.chaos_schedule import LONG, SHORT
from simulations.installation import run_async

SEEDS: Final = 100_000


def chaos(args: argparse.Namespace) -> int:
    """0 when every check holds, 1 when one fails; what was recorded of a run that failed is kept."""
    seed = args.seed or 1 + secrets.randbelow(SEEDS)
    results = []
    for plan in LONG if args.long else (SHORT,):
        folder = Path(tempfile.mkdtemp(prefix="tally-chaos-"))
        if not args.json:
            print(f"chaos       {plan.name}, seed {seed} (--seed {seed} gives these faults again)", flush=True)
        is_ok = False
        try:
            result = run_async(run(plan, seed, folder, _say(is_quiet=args.json)))
            is_ok = result.ok
        except KeyboardInterrupt:
            is_ok = True
            raise
        finally:
            if is_ok:
                shutil.rmtree(folder, ignore_errors=True)
        results.append(result)
        if not args.json:
            print_result(result)
            if not is_ok:
                print(f"            logs and what was recorded stay in {folder}")
    ok = all(result.ok for result in results)
    if args.json:
        print(json.dumps({"ok": ok, "seed": seed, "runs": [result.as_json() for result in results]}))
    return 0 if ok else 1


def print_result(result: Result) -> None:
    """Counts for people; what is wrong at the end, where it is seen."""
    faults = Counter(struck.fault.kind for struck in result.struck)
    print(f"faults      {', '.join(f'{count} x {kind}' for kind, count in faults.items())} in {result.seconds:.0f} s")
    for kind, waits in result.waits_ms.items():
        known = sorted(wait for wait in waits if wait >= 0)
        if known:
            middle, worst = known[len(known) // 2], known[-1]
            never = f", {len(waits) - len(known)} never" if len(known) < len(waits) else ""
            title = "takeover" if kind == "kill worker" else "decides"
            print(f"{title:<12}after {kind}: median {middle / 1000:.1f} s, longest {worst / 1000:.1f} s{never}")
    print(f"fenced      {result.fenced} times a worker found its partition written by another")
    for verdict in result.verdicts:
        line = ", ".join(f"{verdict.classes[name]:,} {name}" for name in CLASSES)
        print(f"commands    {verdict.tenant}: {verdict.counts['operations']:,} sent: {line}")
        rest = (f"{count:,} {name}" for name, count in verdict.counts.items() if name != "operations" and count)
        print(f"            {', '.join(rest)}")
        for fault in verdict.faults:
            print(f"  NOT OK    {fault}")
        if verdict.faults_total > len(verdict.faults):
            print(f"  NOT OK    and {verdict.faults_total - len(verdict.faults):,} more")
    lost, doubled, reordered = (
        sum(verdict.classes[name] + verdict.counts.get(name, 0) for verdict in result.verdicts)
        for name in ("lost", "duplicated", "reordered")
    )
    print(f"{'ok' if result.ok else 'NOT OK':<12}{lost} lost, {doubled} doubled, {reordered} reordered", flush=True)


def _say(*, is_quiet: bool) -> Say:
    def say(line: str) -> None:
        if not is_quiet:
            print(f"            {line}", flush=True)

    return say
