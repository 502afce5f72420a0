"""Load on a running installation or on a temporary one; `simulations/commands/simulate.py` is its command line."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.settings import Settings
from adapters.tenants import create_tenant
from simulations import burst, marathon
from simulations.checks import Finding
from simulations.installation import installation, is_up, run_async
from simulations.machine import describe
from simulations.progress import Progress
from simulations.report import print_burst, print_findings, print_lags


def simulate(args: argparse.Namespace) -> int:
    """Carry out what the command line says; 0 when every check holds, else 1."""
    progress = Progress(is_quiet=args.json)
    with _somewhere(args.data) as settings:
        tenant = args.tenant or args.what
        run_async(create_tenant(settings, tenant))
        work = _burst if args.what == "burst" else _marathon
        report, findings = work(settings, tenant, args, progress)
    ok = all(finding.ok for finding in findings)
    if args.json:
        checks = [finding._asdict() for finding in findings]
        print(json.dumps({"ok": ok, "tenant": tenant, **report, "checks": checks, "machine": describe(settings)}))
    else:
        print_findings(findings)
    return 0 if ok else 1


@contextmanager
def _somewhere(data_dir: Path) -> Iterator[Settings]:
    if is_up(data_dir):
        yield Settings.load(data_dir)
        return
    with tempfile.TemporaryDirectory(prefix="tally-simulate-") as folder, installation(Path(folder)) as settings:
        yield settings


def _burst(
    settings: Settings, tenant: str, args: argparse.Namespace, progress: Progress
) -> tuple[dict[str, Any], list[Finding]]:
    done, findings = run_async(burst.run(settings, tenant, args.completions, args.clients, progress))
    report = done.as_json()
    if not args.json:
        print_burst(report)
        print_lags(done.lags)
    return report, findings


def _marathon(
    settings: Settings, tenant: str, args: argparse.Namespace, progress: Progress
) -> tuple[dict[str, Any], list[Finding]]:
    replay = run_async(marathon.replay(settings, tenant, args.players, progress))
    findings = run_async(marathon.check(settings, tenant, args.players, progress, replay.moments))
    if not args.json:
        print(f"replayed    {replay.client['accepted']:,} commands in {replay.seconds:.1f} s, {replay.events:,} events")
        print_lags(replay.lags)
    return replay.as_json(), [*findings, replay.refusals()]
