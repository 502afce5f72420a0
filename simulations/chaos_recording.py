"""What a crash test records of one tenant, and what its check says of it; plain data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

ACCEPTED: Final = "command-accepted/1"
REFUSED: Final = "command-refused/1"
CLASSES: Final = ("ok", "recovered", "lost", "duplicated", "unexpected")


class Publish(NamedTuple):
    """One time that a command was published: the sender's count, and the sequence that the server acknowledged."""

    number: int
    at_ms: int
    seq: int | None


class Outcome(NamedTuple):
    """One outcome that was heard; the time of the answer is no part of it."""

    type: str
    subject: str
    data: Any
    heard_ms: int

    @property
    def content(self) -> bytes:
        """What must be the same however often it is heard."""
        return msgspec.json.encode((self.type, self.subject, self.data), order="sorted")


class Operation(NamedTuple):
    """One command: whom it addresses, what it moves when it is accepted, and what its sender knows of it."""

    command_id: str
    owner: str
    sender: int
    moves: tuple[tuple[str, int], ...]
    publishes: Sequence[Publish]
    outcomes: Sequence[Outcome]


class Recording(NamedTuple):
    """One tenant after a run; `may_forget`: a killed server may have forgotten commands that had no outcome."""

    tenant: str
    partitions: int
    may_forget: bool
    operations: Sequence[Operation]
    events: Sequence[tuple[int, bytes]]
    left: int = 0


class Batch(NamedTuple):
    """One transaction of a worker, as its inbox event describes it; `accepted` maps command id -> its events."""

    number: int
    event_seq: int
    recorded_ms: int
    partition: int
    first_seq: int
    last_seq: int
    accepted: Mapping[str, list[tuple[str, str, int]]]
    refused: Sequence[tuple[int, str, str, str]]


class Verdict(NamedTuple):
    """What the check found; `classes` counts the operations, `faults` says what is wrong."""

    tenant: str
    classes: Counter[str]
    counts: Mapping[str, int]
    faults: Sequence[str]
    faults_total: int
    batches: Sequence[Batch]

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, doubled, reordered or otherwise wrong."""
        return not self.faults_total and not any(self.classes[name] for name in CLASSES[2:])


def takeovers(kills_ms: Sequence[int], batches: Sequence[Batch], partitions: int) -> list[int]:
    """For each moment, the milliseconds until every partition had decided something again, -1 when one never did."""
    recorded: dict[int, list[int]] = defaultdict(list)
    for batch in batches:
        recorded[batch.partition].append(batch.recorded_ms)
    waits = []
    for kill_ms in kills_ms:
        after = [
            min((at for at in recorded[number] if at > kill_ms), default=kill_ms - 1) for number in range(partitions)
        ]
        waits.append(-1 if min(after) < kill_ms else max(after) - kill_ms)
    return waits


def partition_of(owner: str, partitions: int) -> int:
    """FNV-1a, 32 bits, modulo the count: what the server's subject transform computes."""
    value = 2166136261
    for byte in owner.encode():
        value = ((value ^ byte) * 16777619) % 2**32
    return value % partitions
