"""One transaction in the making: commands decided over drafts of many actors, nothing changed until it is stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

from bus import subjects
from bus.envelope import (
    BODY_BYTES_MAX,
    CommandRequest,
    CommandsDecided,
    EventWriter,
    optional_attributes,
    stored_name,
)
from bus.errors import BusError
from bus.outcomes import EventRef
from bus.owners import Actor, Owner
from bus.ports import InboxHead, Message
from domain import catalogue
from domain.catalogue import Decided, Key, Plan
from domain.errors import Refused

#: A server takes 1,000 messages in a batch; the last one is the inbox event.
MESSAGES_MAX: Final = 999
#: An inbox event names every refusal and must stay below `BODY_BYTES_MAX`.
REFUSALS_MAX: Final = 80


class Accepted(NamedTuple):
    """A command that led to messages `first` up to but not including `stop` of the batch."""

    command_id: str
    subject: str
    first: int
    stop: int


class Repeated(NamedTuple):
    """A command that was executed before: its events begin at this sequence."""

    command_id: str
    subject: str
    stream_seq: int


class RefusedAnswer(NamedTuple):
    """A command that was refused, now or before."""

    command_id: str
    subject: str
    code: str
    message: str


class ParkedAnswer(NamedTuple):
    """A command that our own code cannot decide; it waits for an operator."""

    command_id: str
    subject: str
    reason: str


Answer = Accepted | Repeated | RefusedAnswer | ParkedAnswer


class _Draft:
    """An actor as it would be after the batch."""

    __slots__ = ("actor", "first", "last", "state", "subject", "version")

    def __init__(self, subject: str, actor: Actor) -> None:
        self.subject = subject
        self.actor = actor
        self.state: Any = actor.state
        self.version = actor.version
        self.first = -1
        self.last = -1


class BatchFull(Exception):
    """The next command's events do not fit any more: commit, then go on with it."""


class TooLarge(Refused):
    """An event would be larger than an entry of the log may be."""

    code = "too-large"


class Batch:
    """Decides commands one after another; `messages` and `answers` say what to store and what to answer."""

    def __init__(
        self,
        tenant: str,
        recorded_time: str,
        owner: Callable[[str], Owner],
        is_foreign: Callable[[str], bool],
    ) -> None:
        self.messages: list[Message] = []
        self.answers: list[Answer] = []
        self.foreign_written: set[Key] = set()
        self.doubtful: set[Key] = set()
        self._tenant = tenant
        self._recorded_time = recorded_time
        self._writer = EventWriter(tenant, recorded_time)
        self._owner = owner
        self._is_foreign = is_foreign
        self._drafts: dict[Key, _Draft] = {}
        self._known: dict[tuple[str, str], Accepted] = {}
        self._fences: dict[Key, None] = {}
        self._refusals: list[tuple[int, str, str, str]] = []
        self._refused: dict[str, tuple[str, str]] = {}
        self._parked: list[tuple[int, str, str]] = []
        self._accepted = 0
        self._refs: list[tuple[str, str]] = []
        self._inbox: tuple[int, CommandsDecided] | None = None

    @property
    def is_full(self) -> bool:
        """Whether another command may not be begun."""
        return len(self.messages) >= MESSAGES_MAX or len(self._refusals) + len(self._parked) >= REFUSALS_MAX

    @property
    def refusals(self) -> Sequence[tuple[int, str, str, str]]:
        """[command sequence, command id, code, message] of what this batch refuses."""
        return self._refusals

    def refused(self, command_id: str) -> tuple[str, str] | None:
        """Code and message with which this batch has refused a command already."""
        return self._refused.get(command_id)

    def refuse(self, stream_seq: int, command_id: str, subject: str, code: str, message: str) -> None:
        """Answer with a refusal that the inbox event will record."""
        self._refusals.append((stream_seq, command_id, code, message))
        self._refused[command_id] = code, message
        self.answers.append(RefusedAnswer(command_id, subject, code, message))

    def park(self, stream_seq: int, command_id: str, subject: str, reason: str) -> None:
        """Answer that the command waits; the inbox event will record it."""
        self._parked.append((stream_seq, command_id, reason))
        self.answers.append(ParkedAnswer(command_id, subject, reason))

    def note_refusal(self, plan: Plan) -> None:
        """Note what a refusal looked at that others write: it may be out of date here, and the refusal wrong."""
        keys = (*plan.writes, *plan.reads, *plan.facts)
        self.doubtful.update(key for key in keys if key.aggregate in catalogue.SHARED or self._is_foreign(key.id))

    def decide(self, request: CommandRequest, plan: Plan) -> None:
        """Decide one command; raises `Refused`, or `BatchFull` before anything of the command is taken in."""
        target = request.target
        subject = f"{target.aggregate}/{target.id}"
        known = self._known.get((target.id, request.id))
        if known is not None:
            self.answers.append(known)
            return
        stream_seq = self._owner(target.id).known.get(request.id)
        if stream_seq is not None:
            self.answers.append(Repeated(request.id, subject, stream_seq))
            return
        drafts = {key: self._draft(key) for key in (*plan.writes, *plan.reads, *plan.facts)}
        states = {key: draft.state for key, draft in drafts.items()}
        decided = catalogue.decide(target, request.command, states, request.at_ms)
        if len(self.messages) + len(decided) > MESSAGES_MAX:
            raise BatchFull
        first = len(self.messages)
        self._record(request, decided, drafts)
        accepted = Accepted(request.id, subject, first, len(self.messages))
        self._known[target.id, request.id] = accepted
        self.answers.append(accepted)
        self._accepted += 1
        for key, draft in drafts.items():
            if key.id != target.id and self._is_foreign(key.id):
                if draft.first >= 0:
                    self.foreign_written.add(key)
                elif key in plan.reads:
                    self._fences[key] = None

    def close(self, partition: int, head: InboxHead | None, seqs: tuple[int, int], batch_id: str) -> None:
        """Add the fences and the inbox event for command sequences `seqs[0]` to `seqs[1]`; the batch is complete."""
        self._fence_reads()
        version = 1 if head is None else head.version + 1
        decided = CommandsDecided(
            partition=partition,
            first_seq=seqs[0],
            last_seq=seqs[1],
            accepted=self._accepted,
            batch=batch_id,
            refused=tuple(self._refusals),
            parked=tuple(self._parked),
        )
        self._inbox = (version, decided)
        key = Key(subjects.INBOX, str(partition))
        body = self._writer.body(key, version, decided, self._recorded_time, batch_id)
        expected = 0 if head is None else head.stream_seq
        self.messages.append(Message(subjects.inbox(self._tenant, partition), body, expected, None))

    def subjects_of(self, keys: Iterable[Key]) -> dict[str, tuple[Key, int]]:
        """Subject -> (aggregate, last sequence that we know of) of aggregates that the batch looked at."""
        return {self._drafts[key].subject: (key, self._drafts[key].actor.stream_seq) for key in keys}

    @property
    def written(self) -> set[str]:
        """Every owner who gets an event."""
        return {key.id for key, draft in self._drafts.items() if draft.last >= 0}

    @property
    def looked_at(self) -> Collection[Key]:
        """Every aggregate that the batch looked at."""
        return self._drafts.keys()

    def refs(self, first_seq: int) -> list[EventRef]:
        """What outcomes say of each message but the last, the batch beginning at this sequence."""
        return [EventRef(event_id, name, first_seq + at) for at, (event_id, name) in enumerate(self._refs)]

    def head(self, first_seq: int) -> InboxHead:
        """The inbox event of the closed batch, which begins at this sequence."""
        if self._inbox is None:
            message = "the batch is not closed; close it before it is stored"
            raise BusError(message)
        version, decided = self._inbox
        return InboxHead(first_seq + len(self.messages) - 1, version, decided)

    def commit(self, first_seq: int) -> None:
        """The batch is stored and begins at this sequence: let the actors be what they were drafted to be."""
        for draft in self._drafts.values():
            if draft.last >= 0:
                draft.actor.state = draft.state
                draft.actor.version = draft.version
                draft.actor.stream_seq = first_seq + draft.last
        for (owner_id, command_id), accepted in self._known.items():
            self._owner(owner_id).known[command_id] = first_seq + accepted.first

    def _draft(self, key: Key) -> _Draft:
        draft = self._drafts.get(key)
        if draft is None:
            draft = self._drafts[key] = _Draft(
                subjects.event(self._tenant, key.aggregate, key.id), self._owner(key.id).actor(key.aggregate)
            )
        return draft

    def _record(self, request: CommandRequest, decided: list[Decided], drafts: dict[Key, _Draft]) -> None:
        bodies = self._bodies(request, decided, drafts)
        for (key, event), body in zip(decided, bodies, strict=True):
            draft = drafts[key]
            draft.state = catalogue.evolve(key.aggregate, draft.state, event, request.at_ms)
            draft.version += 1
            draft.last = len(self.messages)
            expected = None
            if draft.first < 0:
                draft.first = draft.last
                expected = draft.actor.stream_seq
            self.messages.append(Message(draft.subject, body, expected, None))
            self._refs.append((f"{key.aggregate}.{key.id}.{draft.version}", stored_name(event)))

    def _bodies(self, request: CommandRequest, decided: list[Decided], drafts: dict[Key, _Draft]) -> list[bytes]:
        """The bytes of every event, before any draft changes; raises `TooLarge`."""
        optional = optional_attributes(request.correlationid, request.actor, request.traceparent)
        versions: dict[Key, int] = {}
        bodies = []
        for key, event in decided:
            version = versions[key] = versions.get(key, drafts[key].version) + 1
            body = self._writer.body(key, version, event, request.time, request.id, optional)
            if len(body) > BODY_BYTES_MAX:
                name = stored_name(event)
                raise TooLarge(f"the event {name} would have {len(body)} bytes, at most {BODY_BYTES_MAX} can be logged")
            bodies.append(body)
        return bodies

    def _fence_reads(self) -> None:
        """Let a message of the batch carry the version of each aggregate that was only read (DESIGN.md 4).

        The carrier is a message that expects nothing itself, or else the first one of a player: nobody but this
        partition writes to its players, so the inbox event's expectation guards them already.
        """
        fences = [key for key in self._fences if self._drafts[key].first < 0]
        if not fences:
            return
        player = f"tally.evt.{self._tenant}.player."
        carriers = [at for at, message in enumerate(self.messages) if message.expected is None]
        carriers += [
            at
            for at, message in enumerate(self.messages)
            if message.expected is not None and message.subject.startswith(player)
        ]
        if len(carriers) < len(fences):
            raise BusError(
                f"{len(fences)} aggregates read, {len(carriers)} messages to fence them; wanted one for each"
            )
        for key, at in zip(fences, carriers, strict=False):
            carried = self.messages[at]
            fence = subjects.event(self._tenant, key.aggregate, key.id)
            expected = self._drafts[key].actor.stream_seq
            self.messages[at] = Message(carried.subject, carried.body, expected, fence)
