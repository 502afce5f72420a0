"""The players by zone, quest status, level, balance and activity, as bitmaps in memory (ADR 0036).

Each registered player has a number, in the order of registration; a set of players is a roaring bitmap of numbers.
Level, balance and the last second of activity are bit-sliced (O'Neil and Quass, 1997): one bitmap for each binary
digit, so that a comparison is a few set operations however many values there are.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, Self

import msgspec
from pyroaring import BitMap

from projections.segments import GROUPS, NUMBERS, STATUSES, Fact, Group, Number


class Sliced:
    """A number of each player, 0 where none was said."""

    def __init__(self) -> None:
        self.values = array("Q")
        self.digits: list[BitMap] = []

    def put(self, player: int, value: int) -> None:
        """Change a player's number."""
        changed = self.values[player] ^ value
        self.values[player] = value
        while changed >> len(self.digits):
            self.digits.append(BitMap())
        for digit, players in enumerate(self.digits):
            if changed >> digit & 1:
                if value >> digit & 1:
                    players.add(player)
                else:
                    players.discard(player)

    def at_least(self, value: int, among: BitMap) -> BitMap:
        """The players of `among` whose number is not below a value."""
        if value >> len(self.digits):
            return BitMap()
        above, equal = BitMap(), among
        for digit in reversed(range(len(self.digits))):
            if value >> digit & 1:
                equal = equal & self.digits[digit]
            else:
                above |= equal & self.digits[digit]
                equal = equal - self.digits[digit]
        return above | equal


class SegmentIndex:
    """`projections.segments.Index` over bitmaps; what it gives out is a copy or new."""

    def __init__(self) -> None:
        self.players: list[str] = []
        self._number_of: dict[str, int] = {}
        self._everyone = BitMap()
        self._groups: dict[str, dict[str, BitMap]] = {group: {} for group in GROUPS}
        self._group_of: dict[str, dict[int, str]] = {group: {} for group in GROUPS}
        self._quests: dict[str, dict[str, BitMap]] = {}
        self._numbers = {number: Sliced() for number in NUMBERS}

    def __len__(self) -> int:
        return len(self.players)

    # -- asking

    def everyone(self) -> BitMap:
        """All who are registered."""
        return self._everyone.copy()

    def in_group(self, group: Group, name: str) -> BitMap:
        """The players of a zone, region or cohort."""
        found = self._groups[group].get(name)
        return BitMap() if found is None else found.copy()

    def with_status(self, quest: str, status: str) -> BitMap:
        """The players whose latest attempt at a quest has this status."""
        found = self._quests.get(quest)
        return BitMap() if found is None else found[status].copy()

    def at_least(self, number: Number, value: int) -> BitMap:
        """The players whose number is not below a value."""
        return self._numbers[number].at_least(value, self._everyone)

    # -- following

    def apply(self, facts: Iterable[Fact]) -> None:
        """Take in facts; a player whom nobody registered is none."""
        for player, kind, name, value in facts:
            if kind == "registered":
                self._register(player)
                continue
            number = self._number_of.get(player)
            if number is None:
                continue
            if kind == "number":
                sliced = self._numbers[name]  # type: ignore[index] # NUMBERS name it
                if name != "second" or value > sliced.values[number]:
                    sliced.put(number, value)
            elif kind == "quest":
                self._attempt(number, name, value)
            else:
                self._move(number, name, value)

    def _register(self, player: str) -> None:
        if player in self._number_of:
            return
        self._number_of[player] = number = len(self.players)
        self.players.append(player)
        self._everyone.add(number)
        for sliced in self._numbers.values():
            sliced.values.append(0)
        self._numbers["level"].put(number, 1)

    def _attempt(self, player: int, quest: str, status: str) -> None:
        by_status = self._quests.get(quest)
        if by_status is None:
            by_status = self._quests[quest] = {each: BitMap() for each in STATUSES}
        for each, players in by_status.items():
            if each == status:
                players.add(player)
            else:
                players.discard(player)

    def _move(self, player: int, group: str, name: str | None) -> None:
        before = self._group_of[group].pop(player, None)
        if before is not None:
            self._groups[group][before].discard(player)
        if name is not None:
            self._group_of[group][player] = name
            self._groups[group].setdefault(name, BitMap()).add(player)

    # -- keeping

    def encode(self) -> bytes:
        """The whole index as bytes (docs/formats.md)."""
        return msgspec.msgpack.encode(
            {
                "players": self.players,
                "groups": {group: _packed(found) for group, found in self._groups.items()},
                "quests": {quest: _packed(found) for quest, found in self._quests.items()},
                "numbers": {name: sliced.values.tolist() for name, sliced in self._numbers.items()},
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """An index from its bytes; raises `ValueError` or `KeyError` when they are none."""
        found: dict[str, Any] = msgspec.msgpack.decode(data)
        index = cls()
        index.players = found["players"]
        index._number_of = {player: number for number, player in enumerate(index.players)}
        index._everyone = BitMap(range(len(index.players)))
        index._groups = {group: _unpacked(found["groups"][group]) for group in GROUPS}
        for group, by_name in index._groups.items():
            index._group_of[group] = {player: name for name, players in by_name.items() for player in players}
        index._quests = {quest: _unpacked(packed) for quest, packed in found["quests"].items()}
        for name, sliced in index._numbers.items():
            sliced.values = array("Q", found["numbers"][name])
            sliced.digits = _digits(sliced.values)
        return index


def _packed(found: dict[str, BitMap]) -> dict[str, bytes]:
    return {name: players.serialize() for name, players in found.items()}


def _unpacked(packed: dict[str, bytes]) -> dict[str, BitMap]:
    return {name: BitMap.deserialize(data) for name, data in packed.items()}


def _digits(values: array[int]) -> list[BitMap]:
    """The bitmap of each binary digit; as often as a digit is set, not as often as there are players."""
    width = max(values, default=0).bit_length()
    return [BitMap([player for player, value in enumerate(values) if value >> digit & 1]) for digit in range(width)]
