"""Generations of a projection: what two of them hold, compared; the names that a past state may have. Pure.

The live generation is the one that readers see. A rebuild fills `next` beside it; after the switch the former live one
is `previous`. Any other name is a past state that somebody asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final

import msgspec

from bus.follower import Position
from projections.errors import NotFound, RebuildRefused

LIVE: Final = ""
NEXT: Final = "next"
PREVIOUS: Final = "previous"
#: Digits alone are how generations are told apart in Redis.
_NAME: Final = re.compile(r"(?![0-9]+\Z)[A-Za-z0-9_-]{1,32}", re.ASCII)
_MODULUS: Final = 1 << 256


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a generation stands, by which version of its projector it was made, what is parked in one line."""

    position: Position
    version: int
    parked: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation holds at one sequence: rows by table, and the order-independent hash of each table."""

    stream_seq: int
    version: int
    rows: dict[str, int]
    hashes: dict[str, str]


class RowsHash:
    """The sum of the SHA-256 of every row modulo 2^256: the same for the same rows in any order."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, rows: Iterable[bytes]) -> None:
        """Take rows in their canonical form, each once."""
        total, counted = 0, 0
        for row in rows:
            total += int.from_bytes(sha256(row).digest(), "big")
            counted += 1
        self._sum = (self._sum + total) % _MODULUS
        self.rows += counted

    @property
    def hex(self) -> str:
        """64 hexadecimal digits."""
        return f"{self._sum:064x}"


def differences(found: State, wanted: State) -> list[str]:
    """One line for each table that differs; both states must be at the same sequence."""
    lines = []
    for table in sorted({*found.rows, *wanted.rows}):
        got, live = found.rows.get(table, 0), wanted.rows.get(table, 0)
        if got != live:
            lines.append(f"{table}: {got:,} rows, the live one has {live:,}")
        elif found.hashes.get(table, "") != wanted.hashes.get(table, ""):
            lines.append(f"{table}: {got:,} rows in both, and not the same ones")
    return lines


def state_hash(hashes: Mapping[str, str]) -> str:
    """One hash over all tables: SHA-256 of `<table> <hash>` lines in the order of the names."""
    return sha256("".join(f"{table} {hashes[table]}\n" for table in sorted(hashes)).encode()).hexdigest()


def no_past_state(projection: str, tenant: str, name: str) -> NotFound:
    """Nobody built a past state of that name."""
    return NotFound(
        f"{projection} of {tenant} has no past state {name}: build it ("
        f"tally rebuild {projection} --at TIME --as {name})"
    )


def require_name(name: str) -> str:
    """A name for a past state; raises `RebuildRefused`."""
    if name in {NEXT, PREVIOUS, "live"} or not _NAME.fullmatch(name):
        raise RebuildRefused(
            f"the name of a past state is {name[:60]!r}, wanted 1 to 32 letters, digits, - or _, not digits alone, "
            f"and none of live, {NEXT}, {PREVIOUS}"
        )
    return name
