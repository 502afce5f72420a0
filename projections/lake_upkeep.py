"""What maintenance of the lake does, decided from lists of files and snapshots. Pure: the shell carries it out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Final

import msgspec

from projections.errors import NotFound, ProjectionError

HOUR_MS: Final = 3_600_000
_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": HOUR_MS, "d": 24 * HOUR_MS}
_DURATION: Final = re.compile(r"(0|[1-9][0-9]{0,5})([smhd])", re.ASCII)


class LiveFile(msgspec.Struct, frozen=True, kw_only=True):
    """A data file of a snapshot; `ends_at_ms` is when the hour of its partition is over, 0 when it has none."""

    path: str
    partition: Hashable
    ends_at_ms: int
    added_at_ms: int
    rows: int
    size_bytes: int


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that lies in the warehouse."""

    path: str
    written_at_ms: int
    size_bytes: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot and the sequence up to which it holds the events."""

    snapshot_id: int
    stream_seq: int
    written_at_ms: int


def parse_duration(option: str, text: str) -> int:
    """Milliseconds from `90s`, `30m`, `12h` or `7d`; raises `ProjectionError`."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ProjectionError(f"{option} is {text[:40]!r}, wanted a whole number and s, m, h or d, like 90s or 7d")
    return int(found[1]) * _UNITS_MS[found[2]]


def to_compact(
    files: Iterable[LiveFile], *, now_ms: int, quiet_ms: int, target_bytes: int
) -> list[tuple[LiveFile, ...]]:
    """Groups of small files that are worth one file each: of one partition whose hour is over, and that is quiet.

    A partition is quiet when nothing was added to it for `quiet_ms`. A file of half the target or more is not small.
    """
    partitions: defaultdict[Hashable, list[LiveFile]] = defaultdict(list)
    for file in files:
        partitions[file.partition].append(file)
    groups: list[tuple[LiveFile, ...]] = []
    for found in partitions.values():
        if max(max(file.ends_at_ms, file.added_at_ms) for file in found) + quiet_ms > now_ms:
            continue
        group: list[LiveFile] = []
        for file in sorted(found, key=lambda file: (file.added_at_ms, file.path)):
            if 2 * file.size_bytes >= target_bytes:
                continue
            if sum(one.size_bytes for one in group) + file.size_bytes > target_bytes:
                groups.append(tuple(group))
                group = []
            group.append(file)
        groups.append(tuple(group))
    return [group for group in groups if len(group) > 1]


def to_expire(snapshots: Iterable[Standing], *, kept: Collection[int], now_ms: int, keep_ms: int) -> list[int]:
    """Snapshots that are older than `keep_ms`, but none of `kept`: heads, tags and what carries the position."""
    return [
        one.snapshot_id for one in snapshots if one.snapshot_id not in kept and one.written_at_ms + keep_ms < now_ms
    ]


def to_remove(
    stored: Iterable[StoredFile], referred: Collection[str], *, now_ms: int, grace_ms: int
) -> list[StoredFile]:
    """Files that nothing refers to and that are older than the grace: a younger one may belong to a coming commit."""
    return [one for one in stored if one.path not in referred and one.written_at_ms + grace_ms < now_ms]


def standing_at(table: str, standings: Sequence[Standing], stream_seq: int, *, is_cut: bool) -> Standing:
    """The snapshot that shows a table as it was at a sequence; `standings` from old to new. Raises `NotFound`.

    A table of events can be cut at a sequence (`is_cut`): the first snapshot that reaches so far will do. Any other is
    shown as it stood at the last position up to there.
    """
    if not standings:
        raise NotFound(f"{table} has no snapshot with a position yet: tally lake tables shows what there is")
    if is_cut:
        reaching = [one for one in standings if one.stream_seq >= stream_seq]
        if not reaching:
            raise NotFound(f"{table} reaches event {standings[-1].stream_seq}, wanted {stream_seq}: ask for an earlier")
        first = min(one.stream_seq for one in reaching)
        return [one for one in reaching if one.stream_seq == first][-1]
    until = [one for one in standings if one.stream_seq <= stream_seq]
    if not until:
        raise NotFound(
            f"the oldest snapshot of {table} stands at event {min(one.stream_seq for one in standings)}, wanted "
            f"{stream_seq} or before: older ones have expired (tally lake maintain --keep)"
        )
    return until[-1]
