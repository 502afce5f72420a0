"""Entries that an audit reads, hashes and checks per second, and what it holds in memory, for two sizes of the log."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.big_log import SUBJECTS, BigLog, Built, big_log, entry
from benchmarks.hashing import bare_digests_per_second
from benchmarks.measurement import Measurement
from benchmarks.usage import used_by

ENTRIES_PER_PLAYER: Final = (10, 100)
JOBS: Final = (1, 2)
SAMPLE: Final = 25_600


def audit_entries_per_s(*, rounds: int, size: int) -> Measurement:
    """Entries/s of `tally audit` in one process; with two, and memory at both sizes, in the details."""
    del rounds
    found, built = {}, {}
    for factor in ENTRIES_PER_PLAYER:
        with big_log(size * factor) as log:
            found[log.tree_size] = audits_on(log)
            built[log.tree_size] = log.built
    return as_measurement(found, built)


def audits_on(log: BigLog) -> dict[str, dict[str, float]]:
    """One audit for each number of processes."""
    return {str(jobs): _audit(log, jobs) for jobs in JOBS}


def as_measurement(found: dict[int, dict[str, dict[str, float]]], built: dict[int, Built]) -> Measurement:
    """The largest log's rate with one process; what audit and signer held in memory at each size."""
    sizes = sorted(found)
    audits = ", ".join(f"{found[size]['1']['largest_process_bytes'] / 1e6:.1f}" for size in sizes)
    signers = ", ".join(f"{built[size].process_bytes / 1e6:.1f}" for size in sizes)
    entries = ", ".join(f"{size:,}" for size in sizes)
    return Measurement(
        value=found[sizes[-1]]["1"]["entries_per_second"],
        unit="entries/s",
        of=(
            f"auditing {sizes[-1]:,} entries, one process; baseline: entries/s of three bare SHA-256 over them; MB at "
            f"{entries} entries: audit {audits}, signer {signers}"
        ),
        baseline=bare_digests_per_second([entry(number) for number in range(SAMPLE)]),
        details={
            "by_entries_and_processes": {str(size): found[size] for size in sizes},
            "signer_by_entries": {str(size): built[size]._asdict() for size in sizes},
            "subjects": SUBJECTS,
            "signer": "the process that built the log: the signer's LogWriter, its files not synced",
        },
    )


def _audit(log: BigLog, jobs: int) -> dict[str, float]:
    with TemporaryDirectory(prefix="tally-bench-") as folder:
        policy = Path(folder) / "policy"
        policy.write_bytes(log.policy_text)
        audit = ["audit", str(log.folder.root), "--policy", str(policy), "--jobs", str(jobs), "--json"]
        used = used_by([sys.executable, "-m", "ledger.cli", *audit])
    return {
        "entries_per_second": round(log.tree_size / used.seconds, 1),
        "cpu_seconds": used.cpu_seconds,
        "largest_process_bytes": used.largest_process_bytes,
    }
