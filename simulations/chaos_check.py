"""What a crash test recorded, checked: a pure function over the operations of the senders and the whole event stream.

Like `simulations/fold.py` it reads stored bytes and shares no code with what it checks. An operation is one command:
every time that it was published, and every outcome that its sender heard.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from simulations.chaos_recording import (
    ACCEPTED,
    CLASSES,
    REFUSED,
    Batch,
    Operation,
    Outcome,
    Recording,
    Verdict,
    partition_of,
)
from simulations.fold import INBOX_EVENT, Fold

FAULTS_KEPT: Final = 20


class _Envelope(msgspec.Struct, gc=False):
    id: str
    type: str
    subject: str
    recordedtime: str
    aggregateversion: int
    causationid: str
    data: msgspec.Raw


class _Decided(msgspec.Struct):
    partition: int
    first_seq: int
    last_seq: int
    accepted: int
    batch: str
    refused: list[tuple[int, str, str, str]] = []
    parked: list[tuple[int, str, str]] = []


class _Decision(NamedTuple):
    """What the stream says of one command."""

    batch: Batch
    content: tuple[str, Any]


class _Line(NamedTuple):
    """One decided command of a player: its batch, its first event (-1: none), where its receipts stand."""

    batch: int
    first: int
    command_id: str
    places: list[int]


_envelope_of: Final = msgspec.json.Decoder(_Envelope).decode
_decided_of: Final = msgspec.json.Decoder(_Decided).decode


def check(recording: Recording) -> Verdict:
    """Read everything once and classify every operation."""
    return _Check(recording).verdict()


class _Ranges:
    """The ranges of one partition; several cover a sequence only when a server gave it again."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []
        self._reach: list[int] = []

    def add(self, batch: Batch) -> None:
        """Take the next batch of the partition."""
        self._batches.append(batch)
        self._reach.clear()

    def covering(self, seq: int) -> list[Batch]:
        """Every batch whose range holds the sequence."""
        if not self._reach:
            self._batches.sort(key=lambda batch: batch.first_seq)
            for batch in self._batches:
                self._reach.append(max(batch.last_seq, self._reach[-1] if self._reach else 0))
        at = bisect_right(self._batches, seq, key=lambda batch: batch.first_seq) - 1
        found = []
        while at >= 0 and self._reach[at] >= seq:
            if self._batches[at].last_seq >= seq:
                found.append(self._batches[at])
            at -= 1
        return found


class _Check:
    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._faults: list[str] = []
        self._faults_total = 0
        self._counts: Counter[str] = Counter()
        self._batches: list[Batch] = []
        self._decisions: dict[str, list[_Decision]] = defaultdict(list)
        self._ranges: dict[int, _Ranges] = defaultdict(_Ranges)
        self._fold = Fold()

    def verdict(self) -> Verdict:
        """Take the checks one after another."""
        self._read_events()
        self._check_ranges()
        self._check_covered()
        classes = Counter(dict.fromkeys(CLASSES, 0))
        classes.update(self._classify(operation) for operation in self._recording.operations)
        self._check_strangers()
        self._check_order()
        self._check_balances()
        if self._recording.left:
            self._fault(f"{self._recording.left} commands lie in the command stream, undecided")
        recorded = self._recording
        self._counts["operations"] = len(recorded.operations)
        self._counts["events"] = len(recorded.events)
        self._counts["batches"] = len(self._batches)
        self._counts["sent again"] = sum(max(0, len(each.publishes) - 1) for each in recorded.operations)
        self._counts["heard again"] = sum(max(0, len(each.outcomes) - 1) for each in recorded.operations)
        self._counts["refused"] = sum(len(batch.refused) for batch in self._batches)
        return Verdict(recorded.tenant, classes, self._counts, self._faults, self._faults_total, self._batches)

    def _read_events(self) -> None:
        accepted: dict[str, list[tuple[str, str, int]]] = {}
        for seq, body in self._recording.events:
            self._fold.add(seq, body)
            try:
                event = _envelope_of(body)
                decided = _decided_of(event.data) if event.subject.startswith("inbox/") else None
            except msgspec.MsgspecError as err:
                self._fault(f"event {seq} cannot be read: {err}")
                continue
            if event.id != f"{event.subject.replace('/', '.')}.{event.aggregateversion}":
                self._fault(f"event {seq} calls itself {event.id}")
            if decided is None:
                accepted.setdefault(event.causationid, []).append((event.id, event.type, seq))
                continue
            self._take_batch(seq, event, decided, accepted)
            accepted = {}
        if accepted:
            self._fault(f"{len(accepted)} commands have events that no inbox event closes")
        for line in self._fold.faults:
            self._fault(line)
        self._faults_total += self._fold.faults_total - len(self._fold.faults)

    def _take_batch(
        self, seq: int, event: _Envelope, decided: _Decided, accepted: dict[str, list[tuple[str, str, int]]]
    ) -> None:
        number = len(self._batches)
        at_ms = _ms_of(event.recordedtime)
        seqs = decided.first_seq, decided.last_seq
        batch = Batch(number, seq, at_ms, decided.partition, *seqs, accepted, decided.refused)
        self._batches.append(batch)
        if (event.subject, event.type) != (f"inbox/{decided.partition}", INBOX_EVENT):
            self._fault(f"{event.id} is {event.type} and speaks for partition {decided.partition}")
        if event.causationid != decided.batch:
            self._fault(f"{event.id} was caused by {event.causationid}, its batch is {decided.batch}")
        if decided.accepted != len(accepted):
            self._fault(f"{event.id} counts {decided.accepted} accepted commands, {len(accepted)} left events")
        if decided.parked:
            self._fault(f"{event.id} parked {len(decided.parked)} commands: {decided.parked[0][2]}")
        for command_id, events in accepted.items():
            refs = [{"id": event_id, "type": kind, "stream_seq": seq} for event_id, kind, seq in events]
            self._decisions[command_id].append(_Decision(batch, (ACCEPTED, refs)))
        for command_seq, command_id, code, message in decided.refused:
            if not seqs[0] <= command_seq <= seqs[1]:
                self._fault(f"{event.id} refuses command {command_seq}, outside its range {seqs}")
            self._decisions[command_id].append(_Decision(batch, (REFUSED, [code, message])))

    def _check_ranges(self) -> None:
        """No command sequence is decided twice; only a server that forgot commands gives their sequences again."""
        reached: dict[int, int] = defaultdict(int)
        for batch in self._batches:
            first, last, number = batch.first_seq, batch.last_seq, batch.partition
            if first > last:
                self._fault(f"batch {batch.number} decided {first} to {last}")
            if first <= reached[number]:
                if self._recording.may_forget:
                    self._counts["sequences given again"] += 1
                else:
                    self._fault(f"partition {number} decided from {first} on, after it was at {reached[number]}")
            reached[number] = last
            self._ranges[number].add(batch)

    def _check_covered(self) -> None:
        """Every sequence that the server acknowledged was decided after it was sent, unless the server forgot it."""
        received: dict[int, set[int | None]] = defaultdict(set)
        for operation in self._recording.operations:
            partition = partition_of(operation.owner, self._recording.partitions)
            ranges = self._ranges[partition]
            received[partition].update(publish.seq for publish in operation.publishes)
            for publish in operation.publishes:
                if publish.seq is None:
                    self._counts["not acknowledged"] += 1
                    continue
                covering = ranges.covering(publish.seq)
                if any(batch.recorded_ms >= publish.at_ms for batch in covering):
                    continue
                if covering or not self._recording.may_forget:
                    self._counts["skipped"] += 1
                    self._fault(f"{operation.command_id} was received as {publish.seq} and skipped")
                else:
                    self._counts["forgotten by the server"] += 1
        if not self._counts["not acknowledged"]:
            for batch in self._batches:
                if not {batch.first_seq, batch.last_seq} <= received[batch.partition]:
                    self._fault(f"batch {batch.number} decided {batch.first_seq} to {batch.last_seq}, not received so")

    def _classify(self, operation: Operation) -> str:
        name = operation.command_id
        decisions = self._decisions.get(name, [])
        contents = {outcome.content for outcome in operation.outcomes}
        if not contents or not decisions:
            heard = "an outcome" if contents else "no outcome"
            self._fault(f"{name} has {heard} and {len(decisions)} decisions in the stream")
            return "unexpected" if decisions else "lost"
        if len(contents) > 1 or len(decisions) > 1:
            self._fault(f"{name} has {len(contents)} different outcomes and {len(decisions)} decisions")
            return "duplicated"
        outcome, (batch, content) = operation.outcomes[0], decisions[0]
        told = _told(outcome)
        if told != content:
            self._fault(f"{name} was told {told}, the stream says {content}")
            return "unexpected"
        if batch.partition != partition_of(operation.owner, self._recording.partitions):
            self._fault(f"{name} of {operation.owner} was decided by partition {batch.partition}")
            return "unexpected"
        return self._receipt(operation, batch)

    def _receipt(self, operation: Operation, batch: Batch) -> str:
        """Its first receipt was decided; only a server that may forget lets a later one be the first that counts."""
        received = [each for each in operation.publishes if each.seq is not None]
        seqs = [each.seq for each in received if each.seq is not None]
        within = [each for each in received if each.seq is not None and batch.first_seq <= each.seq <= batch.last_seq]
        by = f"{batch.first_seq} to {batch.last_seq} of partition {batch.partition} (event {batch.event_seq})"
        if not within and len(received) == len(operation.publishes):
            self._fault(f"{operation.command_id} was received as {seqs}, and decided by {by}")
            return "unexpected"
        earlier = [seq for seq in seqs if seq < batch.first_seq]
        if self._recording.may_forget:
            is_again = within and received[0].number < within[0].number
            return "recovered" if earlier or is_again else "ok"
        if not earlier:
            return "ok"
        self._fault(f"{operation.command_id} was received as {seqs}, and not decided with the first but by {by}")
        return "unexpected"

    def _check_strangers(self) -> None:
        known = {operation.command_id for operation in self._recording.operations}
        strangers = sorted(self._decisions.keys() - known)
        if strangers:
            self._fault(f"{len(strangers)} commands were decided that nobody sent, e.g. {strangers[0]}")

    def _check_order(self) -> None:
        """The commands of one player are decided as they were received: some receipt of each, in growing order."""
        by_owner: dict[tuple[int, str], list[_Line]] = defaultdict(list)
        for operation in self._recording.operations:
            places = self._places(operation)
            for batch, (kind, refs) in self._decisions.get(operation.command_id, [])[:1]:
                first = refs[0]["stream_seq"] if kind == ACCEPTED else -1
                line = _Line(batch.number, first, operation.command_id, places)
                by_owner[operation.sender, operation.owner].append(line)
        for (_, owner), lines in by_owner.items():
            lines.sort()
            late = _first_late(lines, by_batch=True) or _first_late(
                [line for line in lines if line.first >= 0], by_batch=False
            )
            if late is not None:
                self._fault(f"{late.command_id} of {owner} was decided after one that came later")
                self._counts["reordered"] += 1

    def _places(self, operation: Operation) -> list[int]:
        """Where each receipt stands; sequences tell, unless the server gave some of them again."""
        if self._recording.may_forget:
            return [each.number for each in operation.publishes]
        places = [each.seq for each in operation.publishes if each.seq is not None]
        return places if len(places) == len(operation.publishes) else []

    def _check_balances(self) -> None:
        """Balances are what the accepted operations move, never below zero; the books sum to zero."""
        wanted: Counter[str] = Counter()
        for operation in self._recording.operations:
            if any(outcome.type == ACCEPTED for outcome in operation.outcomes):
                for owner, amount in operation.moves:
                    wanted[owner] += amount
        tokens = self._fold.tokens
        for owner in wanted.keys() | tokens.keys():
            if tokens.get(owner, 0) != wanted[owner] or wanted[owner] < 0:
                self._fault(f"{owner} has {tokens.get(owner, 0)} tokens, the outcomes add up to {wanted[owner]}")
        if sum(tokens.values()) + self._fold.treasury != 0:
            self._fault(f"accounts hold {sum(tokens.values())} tokens, the treasury {self._fold.treasury}")

    def _fault(self, line: str) -> None:
        self._faults_total += 1
        if len(self._faults) < FAULTS_KEPT:
            self._faults.append(line)


def _told(outcome: Outcome) -> tuple[str, Any]:
    if outcome.type == ACCEPTED:
        return ACCEPTED, outcome.data.get("events")
    return outcome.type, [outcome.data.get("code"), outcome.data.get("message")]


def _first_late(lines: Sequence[_Line], *, by_batch: bool) -> _Line | None:
    """The first command none of whose receipts comes after those before it; of one batch only its events tell."""
    last = reached = 0
    at_batch = -1
    for line in lines:
        if line.batch != at_batch or not by_batch:
            at_batch, last = line.batch, reached
        if not line.places:
            continue
        chosen = min((place for place in line.places if place > last), default=None)
        if chosen is None:
            return line
        reached = max(reached, chosen)
    return None


def _ms_of(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
