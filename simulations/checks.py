"""What must hold after a replay or a burst: comparisons of plain data, each ending in one finding.

Who gathers the data from the real stores is `simulations/gather.py`. Each comparison has a test in which one altered
input, event or row makes it fail.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Final, NamedTuple

from simulations.fold import Fold
from simulations.moments import Moment
from simulations.prediction import DATA

Board = Sequence[tuple[str, int]]
"""A leaderboard in its own order: player and elapsed_ms."""


class Finding(NamedTuple):
    """One check: its name, whether it holds, and one line that says what was compared or what differs."""

    name: str
    ok: bool
    detail: str


class Official(NamedTuple):
    """A finisher in the official results of one division."""

    rank: int
    elapsed_ms: int


_MS_OF_A_MINUTE: Final = 60_000


def merge(name: str, findings: Sequence[Finding]) -> list[Finding]:
    """One finding for several that all hold; else those that fail."""
    failed = [finding for finding in findings if not finding.ok]
    if failed:
        return failed
    return [Finding(name, ok=True, detail=", ".join(finding.detail for finding in findings))]


def read_official(players: int | None = None) -> dict[str, dict[str, Official]]:
    """Official ranks and times by division and player, of the first finishers or of all."""
    with gzip.open(DATA, "rt", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:players]
    divisions: dict[str, dict[str, Official]] = {}
    for row in rows:
        kind = "wheelchairs" if row["bib"].startswith("W") else "runners"
        gender = {"F": "women", "M": "men"}[row["gender"]]
        elapsed = int(Decimal(row["official"]) * _MS_OF_A_MINUTE)
        for division, column in ((kind, "overall"), (f"{kind}-{gender}", "genderdiv")):
            divisions.setdefault(division, {})[f"b{row['bib']}"] = Official(int(row[column]), elapsed)
    return divisions


def check_board(division: str, board: Board, official: Mapping[str, Official]) -> Finding:
    """A board holds exactly the official finishers, with their times, and no two of them in the wrong order."""
    name = f"leaderboard of {division}"
    scores = dict(board)
    if len(scores) != len(board):
        return Finding(name, ok=False, detail=f"{len(board) - len(scores)} players stand on the board twice")
    missing, extra = official.keys() - scores.keys(), scores.keys() - official.keys()
    if missing or extra:
        example = min(missing or extra)
        return Finding(name, ok=False, detail=f"{len(missing)} missing, {len(extra)} too many, e.g. {example}")
    for player, elapsed in board:
        if elapsed != official[player].elapsed_ms:
            wanted = official[player].elapsed_ms
            return Finding(
                name, ok=False, detail=f"{player} stands there with {elapsed} ms, the official time is {wanted} ms"
            )
    inversions = _inversions(board, official)
    if inversions:
        ahead, behind = inversions[0]
        detail = f"{len(inversions)} inversions, e.g. {ahead} stands before {behind}, who ranks better and was faster"
        return Finding(name, ok=False, detail=detail)
    return Finding(name, ok=True, detail=f"{division} {len(board):,}")


def _inversions(board: Board, official: Mapping[str, Official]) -> list[tuple[str, str]]:
    """Neighbours in the wrong order, on the board by score, and in the official ranking by the board's scores."""
    by_score = [(a[0], b[0]) for a, b in pairwise(board) if a[1] > b[1]]
    ranked = sorted(board, key=lambda entry: official[entry[0]].rank)
    by_rank = [(b[0], a[0]) for a, b in pairwise(ranked) if a[1] > b[1]]
    return by_score + by_rank


def check_moments(moments: Sequence[Moment], folded: Mapping[int, Mapping[str, str]]) -> Finding:
    """At every moment that was looked at, each board held what the fold of the stream up to that event gives."""
    name = "boards all along = fold"
    if not moments:
        return Finding(name, ok=False, detail="no moment of the replay was looked at")
    for moment in moments:
        wanted = folded.get(moment.stream_seq, {})
        for board, found in moment.boards.items():
            if found != wanted.get(board):
                return Finding(name, ok=False, detail=f"{board} after event {moment.stream_seq:,} is not its fold")
    first, last = moments[0], moments[-1]
    detail = f"{len(first.boards)} boards at {len(moments)} moments, events {first.stream_seq:,} to {last.stream_seq:,}"
    return Finding(name, ok=True, detail=detail)


def check_sizes(events: int, leaves: int, rows: int) -> Finding:
    """Events in the stream, leaves in the log and rows in Iceberg are as many."""
    same = events == leaves == rows
    return Finding("events = leaves = rows", same, f"{events:,} events, {leaves:,} leaves, {rows:,} rows in Iceberg")


def check_leaves(stream_digest: str, log_digest: str) -> Finding:
    """The leaf hashes in the log are those of the events in the stream, one by one and in order."""
    if stream_digest != log_digest:
        detail = f"digest over the stream {stream_digest[:16]}.., over the log {log_digest[:16]}.."
        return Finding("leaves are the events", ok=False, detail=detail)
    return Finding("leaves are the events", ok=True, detail="every leaf hash is that of its event, byte for byte")


def check_types(name: str, counted: Mapping[str, int], predicted: Mapping[str, int]) -> Finding:
    """Domain events by type are what the input predicts, exactly."""
    for kind in sorted(counted.keys() | predicted.keys()):
        found, wanted = counted.get(kind, 0), predicted.get(kind, 0)
        if found != wanted:
            return Finding(name, ok=False, detail=f"{kind}: {found:,} found, {wanted:,} predicted")
    return Finding(name, ok=True, detail=f"{sum(counted.values()):,} of {len(counted)} types, equal for each")


def check_totals(name: str, sources: Mapping[str, Mapping[str, int]]) -> Finding:
    """Several sources give every player the same total; who is absent has 0."""
    (first, reference), *others = sources.items()
    for source, totals in others:
        for player in reference.keys() | totals.keys():
            wanted, found = reference.get(player, 0), totals.get(player, 0)
            if wanted != found:
                return Finding(name, ok=False, detail=f"{player} has {wanted:,} by {first} and {found:,} by {source}")
    detail = f"{sum(reference.values()):,} by {', '.join(sources)}, equal for each of {len(reference):,}"
    return Finding(name, ok=True, detail=detail)


def check_books(accounts: Mapping[str, int], treasury: int) -> Finding:
    """Double entry: all accounts and the treasury sum to zero."""
    balance = sum(accounts.values())
    rest = balance + treasury
    detail = f"{balance:,} in {len(accounts):,} accounts {treasury:+,} in the treasury = {rest:,}"
    return Finding("books sum to zero", rest == 0, detail)


def check_history(fold: Fold) -> Finding:
    """The stream has no gap, no version out of turn, no wrong total, and no command was executed twice."""
    name = "every command once, in turn"
    if fold.faults:
        return Finding(name, ok=False, detail=f"{fold.faults_total:,} faults, e.g. {fold.faults[0]}")
    return Finding(
        name, ok=True, detail=f"{fold.commands:,} commands left {fold.stream_seq:,} events, versions without a gap"
    )


def check_completions(quest: str, expected: Sequence[str], fold: Fold) -> Finding:
    """Each of these players, and nobody else, completed the quest exactly once."""
    counted = {player: times for (player, of), times in fold.completions.items() if of == quest}
    lost = [player for player in expected if player not in counted]
    doubled = [player for player, times in counted.items() if times > 1]
    unexpected = len(counted.keys() - set(expected))
    detail = f"{len(expected):,} expected, {len(lost):,} lost, {len(doubled):,} doubled, {unexpected:,} unexpected"
    example = (lost or doubled or [""])[0]
    ok = not (lost or doubled or unexpected)
    return Finding(f"completions of {quest}", ok, detail + (f", e.g. {example}" if example else ""))
