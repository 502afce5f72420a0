"""What `tally simulate corruption` and `tally simulate crashes` run and print."""

from __future__ import annotations

import argparse
import json
import secrets
from collections import Counter
from typing import Final

from adapters.errors import TallyError
from simulations import corruption, crashes
from simulations.progress import Progress

SEEDS: Final = 100_000
CASES: Final = 1_000
TOLD_MAX: Final = 20


def faults(args: argparse.Namespace) -> int:
    """0 when all were found, or survived; 1 when not."""
    progress = Progress(is_quiet=args.json)
    if args.what == "corruption":
        seed = args.seed or 1 + secrets.randbelow(SEEDS)
        if not args.json:
            print(f"corruption  seed {seed} (--seed {seed} gives these cases again)", flush=True)
        found = corruption.run(
            args.cases or CASES, seed, jobs=args.jobs, show=lambda done, total: progress.show("corruption", done, total)
        )
        problems = {"missed": found.missed, "tracebacks": found.crashed, "object not named": found.unnamed}
        return _tell(args, "found and named", found.tried, problems, seed)
    reason = crashes.missing()
    if reason is not None:
        raise TallyError(f"the signer cannot be crashed at its system calls: {reason}")
    survived = crashes.run(args.cases, jobs=args.jobs, show=lambda done, total: progress.show("crashes", done, total))
    return _tell(args, "survived", survived.tried, {"not survived": survived.problems}, None)


def _tell(
    args: argparse.Namespace, verb: str, tried: Counter[str], problems: dict[str, list[str]], seed: int | None
) -> int:
    failed = sum(map(len, problems.values()))
    if args.json:
        print(json.dumps({"ok": not failed, "seed": seed, "tried": tried} | problems, ensure_ascii=False))
        return 1 if failed else 0
    print()
    for kind, count in sorted(tried.items()):
        print(f"            {count:>6,}  {kind}")
    print(f"{args.what:<12}{tried.total() - failed:,} of {tried.total():,} {verb}")
    for name, cases in problems.items():
        for case in cases[:TOLD_MAX]:
            print(f"            {name}: {case}")
        if len(cases) > TOLD_MAX:
            print(f"            and {len(cases) - TOLD_MAX} more")
    return 1 if failed else 0
