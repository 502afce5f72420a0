"""Whether a limited supply went to exactly the first, read from the events as they were committed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final

COMPLETED, TAKEN, BADGE = "quest-completed/1", "supply-taken/1", "badge-awarded/1"
KINDS: Final = (COMPLETED, TAKEN, BADGE)


def faults(
    bodies: Iterable[bytes], quest: str, *, supply: int, completions: int, turn: Callable[[str], tuple[Any, int]]
) -> list[str]:
    """What is wrong with these events, in stream order; empty when the supply went where it had to go.

    `turn(player)` is (queue, number): commands of one queue were sent in the order of their numbers, over one
    connection, to one partition.
    """
    players: dict[str, list[str]] = {kind: [] for kind in KINDS}
    taken: list[int] = []
    for body in bodies:
        event = json.loads(body)
        kind, data = event["type"], event["data"]
        if kind == TAKEN and event["subject"] == f"quest/{quest}":
            taken.append(data["taken"])
            players[TAKEN].append(data["player"])
        elif kind in {COMPLETED, BADGE} and data["quest"] == quest:
            players[kind].append(event["subject"].partition("/")[2])
    wanted = min(supply, completions)
    first = players[COMPLETED][:wanted]
    completed, different = len(players[COMPLETED]), len(set(players[COMPLETED]))
    found = {
        f"{completed:,} completions by {different:,} players, wanted {completions:,}": (
            completed == different == completions
        ),
        f"supply taken {len(taken):,} times, wanted {wanted:,}, counted from 1": taken == list(range(1, wanted + 1)),
        f"{len(players[BADGE]):,} badges, not to the first {wanted:,} completions in order": players[BADGE] == first,
        "supply was not taken by the first completions in order": players[TAKEN] == first,
        "completions of one partition are not in the order of the commands": _is_in_order(players[COMPLETED], turn),
    }
    return [line for line, holds in found.items() if not holds]


def _is_in_order(players: Iterable[str], turn: Callable[[str], tuple[Any, int]]) -> bool:
    queues: dict[Any, list[int]] = {}
    for player in players:
        queue, number = turn(player)
        queues.setdefault(queue, []).append(number)
    return all(before < after for numbers in queues.values() for before, after in pairwise(numbers))
