"""`tally simulate burst|marathon`: load on a running installation, or on a temporary one."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.settings import Settings
from adapters.tenants import create_tenant
from simulations import burst, marathon
from simulations.checks import Finding
from simulations.installation import EXIT_INTERRUPTED, installation, interruptible, is_up, run_async
from simulations.machine import describe
from simulations.progress import Progress
from simulations.report import print_burst, print_findings, print_lags

HELP = "put load on an installation and check that nothing was lost: burst, marathon"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "examples:\n"
        "  tally simulate burst --completions 100000 --clients 3\n"
        "  tally simulate marathon --players 1000 --tenant trial\n"
        "With an installation up in --data it runs there, else on a temporary one that is gone afterwards."
    )
    parser.add_argument("what", choices=("burst", "marathon"), help="all at one moment, or the Boston Marathon of 2014")
    parser.add_argument(
        "--completions", type=_count, default=10_000, metavar="N", help="burst: players (default 10,000)"
    )
    parser.add_argument("--clients", type=_count, default=3, metavar="N", help="burst: client processes (default 3)")
    parser.add_argument("--players", type=_count, metavar="N", help="marathon: only the first N finishers")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(args: argparse.Namespace) -> int:
    """0 when every check holds, 1 when one fails, 130 after Ctrl-C."""
    progress = Progress(is_quiet=args.json)
    with interruptible():
        try:
            with _somewhere(args.data) as settings:
                tenant = args.tenant or args.what
                run_async(create_tenant(settings, tenant))
                work = _burst if args.what == "burst" else _marathon
                report, findings = work(settings, tenant, args, progress)
        except KeyboardInterrupt:
            print("\ntally: interrupted, everything that was started here is stopped", file=sys.stderr)
            return EXIT_INTERRUPTED
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
    findings = run_async(marathon.check(settings, tenant, args.players, progress))
    if not args.json:
        print(f"replayed    {replay.client['accepted']:,} commands in {replay.seconds:.1f} s, {replay.events:,} events")
        print_lags(replay.lags)
    return replay.as_json(), [*findings, replay.refusals()]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        message = f"{text!r} is no count, 1 or more is wanted"
        raise argparse.ArgumentTypeError(message)
    return int(text)
