"""Old versions of commands and events, brought to the current one when they are read; what is stored never changes.

A type on the wire or on disk is a name and a version, `xp-awarded/1`. When its data must change in a way that old
readers or old bodies cannot bear, the new form is `xp-awarded/2`, and one `Upcaster` says how data of version 1 become
data of version 2. Versions begin at 1 and go up one by one; a renamed type goes from its last version to a version of
the new name. One event stays one event: versions, sequences and leaves count them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from bus.errors import BusError

_STORED_NAME: Final = re.compile(r"([a-z][a-z0-9-]{0,62})/([1-9][0-9]{0,5})", re.ASCII)

Data = Mapping[str, Any]


class Upcaster(NamedTuple):
    """One step: a pure function from the decoded data of `source` to those of `target`."""

    source: str
    target: str
    upcast: Callable[[Data], Data]


#: The real chain. No type has a second version yet; a step is added here, with a line of the corpus (tests/schemas).
UPCASTERS: Final[tuple[Upcaster, ...]] = ()


class BrokenChain(BusError):
    """The upcasters do not fit together: nothing may start with them."""


class Chain:
    """Every way from an old stored name to a current one; raises `BrokenChain` when there is a fault in it."""

    def __init__(self, upcasters: Iterable[Upcaster], current: Collection[str]) -> None:
        steps: dict[str, Upcaster] = {}
        for step in upcasters:
            _add(steps, step, current)
        for step in steps.values():
            _require_target(step, steps, current)
        self._steps = steps
        self._targets = {source: _follow(source, steps) for source in steps}
        #: Every old name; looked at for each event that is read, so it is a plain set.
        self.sources: Final = frozenset(steps)
        _require_all_versions(self.sources, current)

    def target(self, name: str) -> str:
        """The current name of an old one; any other name is its own."""
        return self._targets.get(name, name)

    def upcast(self, name: str, data: Data) -> tuple[str, Data]:
        """Current name and data of an old version."""
        while (step := self._steps.get(name)) is not None:
            name, data = step.target, step.upcast(data)
        return name, data


def split_name(stored_name: str) -> tuple[str, int]:
    """Name and version of a stored name; raises `BusError` for any other text."""
    match = _STORED_NAME.fullmatch(stored_name)
    if match is None:
        raise BusError(f"stored name is {stored_name[:80]!r}, wanted a name and a version from 1, like xp-awarded/1")
    return match[1], int(match[2])


def _add(steps: dict[str, Upcaster], step: Upcaster, current: Collection[str]) -> None:
    for name in (step.source, step.target):
        split_name(name)
    if step.source in steps:
        raise BrokenChain(
            f"two upcasters start from {step.source}, to {steps[step.source].target} and to {step.target}: keep one"
        )
    if step.source in current:
        raise BrokenChain(
            f"{step.source} is a current version and has an upcaster to {step.target}: remove one of them"
        )
    steps[step.source] = step


def _require_target(step: Upcaster, steps: Mapping[str, Upcaster], current: Collection[str]) -> None:
    (family, old), (target_family, new) = split_name(step.source), split_name(step.target)
    if step.target not in steps and step.target not in current:
        raise BrokenChain(
            f"the upcaster from {step.source} leads to {step.target}, which is neither current nor upcast further: "
            "add the missing step, or the type"
        )
    if family == target_family and new != old + 1:
        raise BrokenChain(
            f"the upcaster from {step.source} leads to {step.target}, wanted {family}/{old + 1}: one by one"
        )


def _follow(source: str, steps: Mapping[str, Upcaster]) -> str:
    seen = [source]
    while (step := steps.get(seen[-1])) is not None:
        if step.target in seen:
            raise BrokenChain(f"the upcasters go round in a circle: {' -> '.join([*seen, step.target])}: remove a step")
        seen.append(step.target)
    return seen[-1]


def _require_all_versions(sources: Collection[str], current: Collection[str]) -> None:
    newest: dict[str, str] = {}
    for name in sorted(current, key=split_name):
        family, _ = split_name(name)
        if family in newest:
            raise BrokenChain(f"{newest[family]} and {name} are both current: keep the newer, upcast the older")
        newest[family] = name
    for name in (*sources, *current):
        family, version = split_name(name)
        if version > 1 and f"{family}/{version - 1}" not in sources:
            raise BrokenChain(f"{name} is known, but nothing upcasts {family}/{version - 1}: add that step")
