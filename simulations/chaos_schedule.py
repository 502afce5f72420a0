"""Which fault strikes when, and whom: from a seed alone, so that a run can be had again."""

from __future__ import annotations

import random
from typing import Final, Literal, NamedTuple

Kind = Literal[
    "kill worker", "kill server", "stop worker", "kill leader", "stop leader", "stop node",
    "cut leader", "cut routes", "cut node",
]  # fmt: skip

#: Kind of fault -> (shortest, longest) time in seconds after which what was struck comes back.
BACK_AFTER_S: Final[dict[Kind, tuple[float, float]]] = {
    "kill worker": (0.5, 8.0),
    "kill server": (0.1, 1.5),
    "stop worker": (6.0, 9.0),
    "kill leader": (1.0, 6.0),
    "stop leader": (5.0, 12.0),
    "stop node": (5.0, 12.0),
    "cut leader": (6.0, 14.0),
    "cut routes": (6.0, 14.0),
    "cut node": (6.0, 14.0),
}
#: Kind of fault -> (shortest, longest) time in seconds until the next one strikes.
NEXT_AFTER_S: Final[dict[Kind, tuple[float, float]]] = {
    "kill worker": (5.0, 9.0),
    "kill server": (3.0, 8.0),
    "stop worker": (11.0, 13.0),
    "kill leader": (8.0, 14.0),
    "stop leader": (16.0, 20.0),
    "stop node": (16.0, 20.0),
    "cut leader": (18.0, 22.0),
    "cut routes": (18.0, 22.0),
    "cut node": (18.0, 22.0),
}


class Fault(NamedTuple):
    """One fault: `at_s` after the start it strikes number `victim` (modulo how many there are), for `lasts_s`."""

    at_s: float
    kind: Kind
    victim: int
    lasts_s: float


class Plan(NamedTuple):
    """How many faults of each kind, and how much load."""

    name: str
    faults: dict[Kind, int]
    workers: int
    nodes: int
    rate: float
    senders: int = 2
    players: int = 40
    partitions: int = 4
    first_after_s: float = 2.0
    hurry: float = 1.0


SHORT: Final = Plan(
    "one server",
    {"kill worker": 2, "kill server": 2, "stop worker": 1},
    workers=2,
    nodes=1,
    rate=100,
    first_after_s=0.5,
    hurry=0.5,
)
SHORT_CLUSTER: Final = Plan(
    "three nodes, in short",
    {"cut leader": 1, "kill leader": 1},
    workers=2,
    nodes=3,
    rate=60,
    players=10,
    first_after_s=0.5,
    hurry=0.3,
)
LONG: Final = (
    Plan("one server", {"kill worker": 50, "kill server": 20, "stop worker": 6}, workers=3, nodes=1, rate=150),
    Plan(
        "three nodes",
        {
            "kill leader": 6,
            "stop leader": 2,
            "stop node": 2,
            "kill worker": 4,
            "cut leader": 3,
            "cut routes": 3,
            "cut node": 3,
        },
        workers=3,
        nodes=3,
        rate=150,
    ),
)


def schedule(plan: Plan, seed: int) -> list[Fault]:
    """The faults of a plan in order of time; the same seed gives the same."""
    chance = random.Random(f"{seed}/{plan.name}")
    kinds = [kind for kind, count in plan.faults.items() for _ in range(count)]
    chance.shuffle(kinds)
    at_s = plan.first_after_s
    faults = []
    for kind in kinds:
        lasts_s = chance.uniform(*BACK_AFTER_S[kind])
        faults.append(Fault(round(at_s, 3), kind, chance.randrange(1_000), round(lasts_s, 3)))
        next_s = chance.uniform(*NEXT_AFTER_S[kind])
        if kind.startswith("kill"):
            next_s *= plan.hurry
        at_s += next_s
    return faults


def duration_s(plan: Plan, faults: list[Fault]) -> float:
    """How long the load lasts: until the last fault is over and has been recovered from."""
    return max((fault.at_s + fault.lasts_s for fault in faults), default=plan.first_after_s) + 3.0
