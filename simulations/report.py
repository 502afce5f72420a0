"""What the simulations print for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulations.checks import Board, Finding
from simulations.lag import Lag

if TYPE_CHECKING:
    from simulations.proof import Proof


def clock(elapsed_ms: int) -> str:
    """A time as it stands on a finisher's certificate: 2:08:37.2."""
    seconds, ms = divmod(elapsed_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}.{ms // 100}"


def print_lags(lags: Mapping[str, Lag]) -> None:
    """How far each projection was behind the stream."""
    print("behind      the event stream, from commit to visible  median      p99    worst")
    for name, lag in lags.items():
        late = "" if lag.complete_at is not None else "   NOT at the end"
        print(f"            {name:<42}{lag.median_s:>6.2f} s {lag.p99_s:>6.2f} s {lag.worst_s:>6.2f} s{late}")


def print_burst(report: Mapping[str, Any]) -> None:
    """Rates and latencies of a burst."""
    print(f"burst       {report['completions']:,} completions at one moment, by {report['clients']} client processes")
    rows = {"accepted (acknowledged)": report["accepted"], "outcomes received": report["outcomes"]}
    rows |= {"events committed": report["committed"]}
    rows |= {f"visible: {name}": rate for name, rate in report["visible"].items()}
    for name, rate in rows.items():
        print(f"            {name:<24}{rate['count']:>10,} in {rate['seconds']:>7.2f} s {rate['per_second']:>10,.0f}/s")
    latencies = "  ".join(f"{name} {ms:,.0f} ms" for name, ms in report["latency_ms"].items())
    print(f"outcome     after the intended start: {latencies}")


def print_top(board: Board, official: Sequence[tuple[int, str, str, int]]) -> None:
    """The leaderboard beside the official results."""
    print("top ten     leaderboard            official")
    for place, ((player, elapsed), (rank, known, country, time)) in enumerate(zip(board, official, strict=False), 1):
        same = "" if elapsed == time else "   differs"
        print(f"       {place:>4} {player:<7} {clock(elapsed)}   {rank:>4} {known:<7} {country} {clock(time)}{same}")


def print_findings(findings: Sequence[Finding]) -> None:
    """One line per check; those that fail last, where they are seen."""
    failed = sum(not finding.ok for finding in findings)
    print(
        f"checks      {len(findings) - failed} ok, {failed} not ok" if failed else f"checks      all {len(findings)} ok"
    )
    for finding in sorted(findings, key=lambda each: not each.ok):
        print(f"  {'ok    ' if finding.ok else 'NOT OK'}    {finding.name:<30} {finding.detail}")


def print_proof(proof: Proof) -> None:
    """The receipt and the month's root."""
    for title, line in proof.lines():
        print(f"{title:<12}{line}")


def print_next_steps(data_dir: Path, tenant: str | None, proof: Proof | None, *, is_up: bool) -> None:
    """What to try with what is left on the disk."""
    options = ("" if str(data_dir) == ".tally" else f" --data {data_dir}") + (f" --tenant {tenant}" if tenant else "")
    spend = """'{"amount": 6, "reason": "a coffee"}'"""
    if not is_up:
        print(f"next        all processes are stopped; the data stay in {data_dir}. Bring them back in one terminal:")
        print(f"              .venv/bin/tally up{options.partition(' --tenant')[0]}")
    print(
        "next        publish a command of your own, and look at what it did:"
        if is_up
        else "            then in another:"
    )
    for line in (
        f"send SpendTokens b19 {spend}",
        "account b19",
        "leaderboard around b19 --quest boston-2014",
        "status",
    ):
        print(f"              .venv/bin/tally {line}{options}")
    if proof is not None:
        print("            or check it as an auditor would, with nothing running:")
        print(f"              .venv/bin/tally verify {proof.receipt} --policy {proof.policy}")
        print(f"              .venv/bin/tally audit {proof.log} --policy {proof.policy}")
