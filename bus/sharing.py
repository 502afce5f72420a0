"""Who runs which partition: a function of what every worker says of itself. A hint, never a right (DESIGN.md 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

FORMAT: Final = "worker-beat/1"


class Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker says of itself; partitions by tenant.

    `serves` names its tenants (None: all); `ends` are partitions that it runs still and gives up. One that is `away`
    was not seen for so long that others may have taken its partitions; one that leaves takes no more.
    """

    format: str = FORMAT
    serves: tuple[str, ...] | None = None
    runs: dict[str, tuple[int, ...]] = {}
    ends: dict[str, tuple[int, ...]] = {}
    is_away: bool = False
    is_leaving: bool = False

    def has(self, tenant: str, number: int) -> bool:
        """Whether it has a partition in hand, to keep or to give up."""
        return number in self.runs.get(tenant, ()) or number in self.ends.get(tenant, ())


def shares(partitions: int, tenant: str, members: Mapping[str, Member]) -> dict[int, str]:
    """Partition -> worker: everybody has as many as any other or one less, and keeps what he runs as far as that goes.

    Of two that run the same one it stays with who was not away, then with the first by name.
    """
    serving = sorted(
        name
        for name, member in members.items()
        if not member.is_leaving and (member.serves is None or tenant in member.serves)
    )
    if not serving:
        return {}
    turn = sum(tenant.encode()) % len(serving)
    serving = serving[turn:] + serving[:turn]
    runs = {name: sorted({at for at in members[name].runs.get(tenant, ()) if at < partitions}) for name in serving}
    least, more = divmod(partitions, len(serving))
    longest_first = sorted(serving, key=lambda name: -len(runs[name]))
    room = {name: least + (at < more) for at, name in enumerate(longest_first)}
    given: dict[int, str] = {}

    def give(number: int, name: str) -> None:
        if number not in given and room[name]:
            given[number] = name
            room[name] -= 1

    for name in sorted(serving, key=lambda name: (members[name].is_away, name)):
        for number in runs[name]:
            give(number, name)
    for number in range(partitions):
        for name in serving:
            give(number, name)
    return given
