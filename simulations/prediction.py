"""What the marathon must leave in the ledger, computed from the data file alone; nothing of Tallyroot is imported.

    python -m simulations.prediction [--json] [--players N]

Written apart from the client that publishes the race and from the rules that decide it, so that a mistake in one of the
three shows as a difference. The columns of official ranks are not read here.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).resolve().parent / "data" / "boston-2014.csv.gz"
MATS: Final = ("5k", "10k", "20k", "half", "25k", "30k", "35k", "40k")
XP_OF_A_FINISH: Final = 1000
XP_OF_A_MAT: Final = 10
TOKENS_OF_A_FINISH: Final = 26
MS_OF_A_MINUTE: Final = 60_000


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Counts and values per player; a finisher is named by player id (`b19`), an order lists (player, elapsed_ms)."""

    players: int
    crossings: int
    finishers_who_missed_a_mat: int
    commands: Mapping[str, int]
    events: Mapping[str, int]
    commands_total: int
    events_total: int
    xp_total: int
    tokens_total: int
    treasury: int
    xp: Mapping[str, int]
    tokens: Mapping[str, int]
    order: Mapping[str, Sequence[tuple[str, int]]]


def read_rows(players: int | None = None) -> list[dict[str, str]]:
    """The first finishers of the data file; all of them when no number is given."""
    with gzip.open(DATA, "rt", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows[:players]


def predict(rows: Sequence[Mapping[str, str]]) -> Prediction:
    """What a replay of these rows must leave."""
    reached = {f"b{row['bib']}": sum(1 for mat in MATS if row[mat]) for row in rows}
    finishers, steps = len(reached), sum(reached.values())
    xp = {player: XP_OF_A_FINISH + XP_OF_A_MAT * count for player, count in reached.items()}
    tokens = dict.fromkeys(reached, TOKENS_OF_A_FINISH)
    commands = {
        "publish-quest/1": 1,
        "register-player/1": finishers,
        "accept-quest/1": finishers,
        "reach-step/1": steps,
        "complete-quest/1": finishers,
    }
    events = {
        "quest-published/1": 1,
        "player-registered/1": finishers,
        "quest-accepted/1": finishers,
        "step-reached/1": steps,
        "quest-completed/1": finishers,
        "xp-awarded/1": finishers,
        "badge-awarded/1": finishers,
        "tokens-minted/1": finishers,
    }
    return Prediction(
        players=finishers,
        crossings=steps + finishers,
        finishers_who_missed_a_mat=sum(1 for count in reached.values() if count < len(MATS)),
        commands=commands,
        events=events,
        commands_total=sum(commands.values()),
        events_total=sum(events.values()),
        xp_total=sum(xp.values()),
        tokens_total=sum(tokens.values()),
        treasury=-sum(tokens.values()),
        xp=xp,
        tokens=tokens,
        order=_orders(rows),
    )


def _orders(rows: Sequence[Mapping[str, str]]) -> dict[str, list[tuple[str, int]]]:
    timed: dict[str, list[tuple[str, int]]] = {}
    for row in rows:
        kind = "wheelchairs" if row["bib"].startswith("W") else "runners"
        finish = (f"b{row['bib']}", int(Decimal(row["official"]) * MS_OF_A_MINUTE))
        for division in (kind, kind + {"F": "-women", "M": "-men"}[row["gender"]]):
            timed.setdefault(division, []).append(finish)
    return {division: sorted(finishes, key=lambda finish: finish[1]) for division, finishes in sorted(timed.items())}


def main() -> int:
    """Print the prediction, as a table or with everything in it as JSON."""
    parser = argparse.ArgumentParser(prog="prediction", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="everything, with XP, tokens and place of each finisher")
    parser.add_argument("--players", type=int, metavar="N", help="only the first N finishers")
    arguments = parser.parse_args()
    prediction = predict(read_rows(arguments.players))
    if arguments.json:
        json.dump(asdict(prediction), sys.stdout)
        print()
        return 0
    print(f"{'players':<28}{prediction.players:>12,}")
    print(f"{'crossings':<28}{prediction.crossings:>12,}")
    print(f"{'missed a mat, finished':<28}{prediction.finishers_who_missed_a_mat:>12,}")
    for title, counts in (("commands", prediction.commands), ("domain events", prediction.events)):
        print(f"{title:<28}{sum(counts.values()):>12,}")
        for name, count in counts.items():
            print(f"  {name:<26}{count:>12,}")
    print(f"{'XP':<28}{prediction.xp_total:>12,}")
    print(f"{'tokens':<28}{prediction.tokens_total:>12,}")
    for division, order in prediction.order.items():
        print(f"{division:<28}{len(order):>12,}   first: {order[0][0]} after {order[0][1] / 1000:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
