"""`python -m benchmarks`: runs the measurements, prints a table, writes benchmarks/results.json."""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from adapters.errors import TallyError
from benchmarks.big_log import kept_logs
from benchmarks.measurement import Measurement
from benchmarks.pace import pace_ms
from simulations.installation import EXIT_INTERRUPTED, interruptible

RESULTS: Final = Path(__file__).resolve().parent / "results.json"
#: name -> module and function; a module is imported when one of its measurements is wanted.
MEASUREMENTS: Final = {
    "commit_vs_bare": "benchmarks.commits:commit_vs_bare",
    "commit_all_running_vs_bare": "benchmarks.commits:commit_all_running_vs_bare",
    "accept_rate": "benchmarks.intake:accept_rate",
    "burst_1700": "benchmarks.intake:burst_1700",
    "commit_vs_eventsourcing_postgres": "benchmarks.eventsourcing_postgres:commit_vs_eventsourcing_postgres",
    "workers_1_2_4": "benchmarks.scaling:workers_1_2_4",
    "cold_vs_warm": "benchmarks.cold:cold_vs_warm",
    "hot_quest_vs_ordinary": "benchmarks.hot:hot_quest_vs_ordinary",
    "command_p99_ms_at_2000": "benchmarks.latency:command_p99_ms_at_2000",
    "intake_durable_vs_fast": "benchmarks.intake_modes:intake_durable_vs_fast",
    "segment_p99_ms": "benchmarks.segments:segment_p99_ms",
    "rank_us": "benchmarks.ranks:rank_us",
    "worker_bytes_per_actor": "benchmarks.memory:worker_bytes_per_actor",
    "passivation": "benchmarks.passivation:passivation",
    "signer_vs_hashlib": "benchmarks.hashing:signer_vs_hashlib",
    "signer_vs_bare": "benchmarks.signing:signer_vs_bare",
    "rebuild_redis_vs_reader": "benchmarks.rebuilds:rebuild_redis_vs_reader",
    "rebuild_postgres_vs_reader": "benchmarks.rebuilds:rebuild_postgres_vs_reader",
    "rebuild_iceberg_vs_reader": "benchmarks.rebuilds:rebuild_iceberg_vs_reader",
    "freshness_p99_ms": "benchmarks.freshness:freshness_p99_ms",
    "audit_entries_per_s": "benchmarks.auditing:audit_entries_per_s",
    "proof_p99_ms": "benchmarks.proving:proof_p99_ms",
}
#: Names for several; those that share a log stand in the order in which it grows.
GROUPS: Final = {"large_log": ("audit_entries_per_s", "proof_p99_ms")}


def main(arguments: list[str] | None = None) -> int:
    """0 when every wanted measurement was taken."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure; each figure beside its baseline.")
    parser.add_argument("--only", action="append", choices=(*MEASUREMENTS, *GROUPS), metavar="NAME", help="one of them")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="medians are taken over so many (default 3)")
    parser.add_argument("--size", type=int, default=100_000, metavar="N", help="players (default 100,000)")
    wanted = parser.parse_args(arguments)
    names = [name for only in wanted.only or MEASUREMENTS for name in GROUPS.get(only, (only,))]
    with interruptible():
        try:
            with kept_logs():
                for name in names:
                    _measure(name, rounds=wanted.rounds, size=wanted.size)
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        except TallyError as err:
            print(f"bench: {err}", file=sys.stderr)
            return 1
    _print(_read())
    return 0


def _measure(name: str, *, rounds: int, size: int) -> None:
    module, _, function = MEASUREMENTS[name].partition(":")
    print(f"{name} ...", file=sys.stderr, flush=True)
    paces = [pace_ms()]
    began = time.monotonic()
    measurement: Measurement = getattr(import_module(module), function)(rounds=rounds, size=size)
    seconds = time.monotonic() - began
    paces.append(pace_ms())
    measurement.details["pace_ms_before_and_after"] = paces
    results = _read()
    results[name] = measurement.as_json(seconds=seconds)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _read() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _print(results: dict[str, Any]) -> None:
    print(f"{'measurement':<30}{'value':>14} {'unit':<26}{'baseline':>14}  of what")
    for name, result in results.items():
        baseline = "" if result["baseline"] is None else f"{result['baseline']:,.1f}"
        print(f"{name:<30}{result['value']:>14,.3f} {result['unit']:<26}{baseline:>14}  {result['details']['of']}")


if __name__ == "__main__":
    sys.exit(main())
