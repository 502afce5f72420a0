"""One transaction in the making: commands decided over drafts of many actors, nothing changed until it is stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, final

import msgspec

from bus import subjects
from bus.envelope import (
    BODY_BYTES_MAX,
    CommandRequest,
    CommandsDecided,
    EventWriter,
    optional_attributes,
)
from bus.errors import BusError
from bus.owners import Actor, Owner
from bus.ports import Delivery, InboxHead, Message
from domain import catalogue
from domain.catalogue import Decided, Key, Plan
from domain.errors import Refused

#: A server takes 1,000 messages in a batch; the last one is the inbox event.
MESSAGES_MAX: Final = 999
#: An inbox event names every refusal, of up to a kilobyte, and must stay below `BODY_BYTES_MAX`.
REFUSALS_MAX: Final = 60


@final
class Accepted(msgspec.Struct, gc=False):
    """A command that led to messages `first` up to but not including `stop` of the batch."""

    command_id: str
    subject: str
    first: int
    stop: int


class Repeated(msgspec.Struct, gc=False):
    """A command that was executed before: its events begin at this sequence."""

    command_id: str
    subject: str
    stream_seq: int


class RefusedAnswer(msgspec.Struct, gc=False):
    """A command that was refused, now or before."""

    command_id: str
    subject: str
    code: str
    message: str


class ParkedAnswer(msgspec.Struct, gc=False):
    """A command that our own code cannot decide; it waits for an operator."""

    command_id: str
    subject: str
    reason: str


Answer = Accepted | Repeated | RefusedAnswer | ParkedAnswer


class _Draft(msgspec.Struct, gc=False):
    """An actor as it would be after the batch."""

    key: Key
    actor: Actor
    state: Any
    version: int
    is_foreign: bool
    subject: str
    #: As outcomes name the aggregate, `<aggregate>/<id>`.
    name: str
    #: What the ids of its events begin with.
    event_ids: str
    #: Its first and its last message in the batch.
    first: int = -1
    last: int = -1


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
        #: What got events though others write it too: of other owners' aggregates those of other partitions, and all
        #: that are only read as a rule (the supply of a quest).
        self.shared_written: set[Key] = set()
        self.doubtful: set[Key] = set()
        self._tenant = tenant
        self._recorded_time = recorded_time
        self._writer = EventWriter(tenant, recorded_time)
        self._owner = owner
        self._is_foreign = is_foreign
        self._drafts: dict[Key, _Draft] = {}
        self._known: dict[tuple[str, str], Accepted] = {}
        #: The addressed owner of each command in `_known`, in the same order.
        self._knowers: list[Owner] = []
        self._fences: dict[Key, None] = {}
        self._refusals: list[tuple[int, str, str, str]] = []
        #: To whom each of them was addressed.
        self._refused_subjects: list[str] = []
        #: By owner and command id.
        self._refused: dict[tuple[str, str], tuple[str, str]] = {}
        self._parked: list[tuple[int, str, str]] = []
        self._accepted = 0
        self._events: list[tuple[str, str]] = []
        self._inbox: tuple[int, CommandsDecided] | None = None

    @property
    def is_full(self) -> bool:
        """Whether another command may not be begun."""
        return len(self.messages) >= MESSAGES_MAX or len(self._refusals) + len(self._parked) >= REFUSALS_MAX

    def refused(self, owner_id: str, command_id: str) -> tuple[str, str] | None:
        """Code and message with which this batch has refused a command already."""
        return self._refused.get((owner_id, command_id))

    def refuse(self, stream_seq: int, command_id: str, subject: str, code: str, message: str) -> None:
        """Answer with a refusal that the inbox event will record."""
        owner_id = subjects.owner_of(subject)
        self._refusals.append((stream_seq, command_id, code, message))
        self._refused_subjects.append(subject if owner_id != subjects.NOBODY else subjects.NOBODY)
        self._refused[owner_id, command_id] = code, message
        self.answers.append(RefusedAnswer(command_id, subject, code, message))

    def park(self, stream_seq: int, command_id: str, subject: str, reason: str) -> None:
        """Answer that the command waits; the inbox event will record it."""
        self._parked.append((stream_seq, command_id, reason))
        self.answers.append(ParkedAnswer(command_id, subject, reason))

    def note_refusal(self, plan: Plan) -> None:
        """Note what a refusal looked at that others write: it may be out of date here, and the refusal wrong."""
        self.doubtful.update(key for key in plan.keys if key.aggregate in catalogue.SHARED or self._is_foreign(key.id))

    def decide(self, request: CommandRequest, subject: str, plan: Plan) -> None:
        """Decide one command; raises `Refused`, or `BatchFull` before anything of the command is taken in."""
        target = request.target
        told_apart_by = target.id, request.id
        known = self._known.get(told_apart_by)
        if known is not None:
            self.answers.append(known)
            return
        owner = self._owner(target.id)
        stream_seq = owner.known.get(request.id)
        if stream_seq is not None:
            self.answers.append(Repeated(request.id, subject, stream_seq))
            return
        drafts: dict[Key, _Draft] = {}
        states: dict[Key, Any] = {}
        for key in plan.keys:
            draft = drafts[key] = self._drafts.get(key) or self._draft(key, target.id, owner)
            states[key] = draft.state
        decided = catalogue.decide(plan, request.command, states, request.at_ms)
        first = len(self.messages)
        if first + len(decided) > MESSAGES_MAX:
            raise BatchFull
        self._record(request, decided, drafts, states)
        accepted = Accepted(request.id, subject, first, len(self.messages))
        self._known[told_apart_by] = accepted
        self._knowers.append(owner)
        self.answers.append(accepted)
        self._accepted += 1
        for key, draft in drafts.items():
            if draft.is_foreign and draft.first >= 0:
                self.shared_written.add(key)
        for key in plan.reads:
            draft = drafts[key]
            if draft.first >= 0:
                self.shared_written.add(key)
            elif draft.is_foreign:
                self._fences[key] = None

    def close(self, partition: int, head: InboxHead | None, first: Delivery, last: Delivery, batch_id: str) -> None:
        """Add the fences and the inbox event for the commands from the first to the last; the batch is complete."""
        self._fence_reads()
        version = 1 if head is None else head.version + 1
        decided = CommandsDecided(
            partition=partition,
            first_seq=first.stream_seq,
            last_seq=last.stream_seq,
            accepted=self._accepted,
            batch=batch_id,
            refused=tuple(self._refusals),
            parked=tuple(self._parked),
            refused_subjects=tuple(self._refused_subjects) or msgspec.UNSET,
            last_received_ns=last.received_ns,
        )
        self._inbox = (version, decided)
        event_id, name = f"{subjects.INBOX}.{partition}.{version}", f"{subjects.INBOX}/{partition}"
        _, body = self._writer.body(event_id, name, version, decided, self._recorded_time, batch_id)
        expected = 0 if head is None else head.stream_seq
        self.messages.append(Message(subjects.inbox(self._tenant, partition), body, expected, None))

    def subjects_of(self, keys: Iterable[Key]) -> dict[str, tuple[Key, int]]:
        """Subject -> (aggregate, last sequence that we know of) of aggregates that the batch looked at."""
        return {self._drafts[key].subject: (key, self._drafts[key].actor.stream_seq) for key in keys}

    @property
    def own_written(self) -> set[str]:
        """Every owner of this partition who gets an event."""
        return {key.id for key, draft in self._drafts.items() if draft.last >= 0 and not draft.is_foreign}

    @property
    def shared(self) -> Collection[Key]:
        """Every aggregate that the batch looked at and that others write too, as a rule."""
        return self.shared_written | {key for key, draft in self._drafts.items() if draft.is_foreign}

    @property
    def looked_at(self) -> Collection[Key]:
        """Every aggregate that the batch looked at."""
        return self._drafts.keys()

    def events_of(self, accepted: Accepted) -> Sequence[tuple[str, str]]:
        """Id and stored name of each event that a command led to."""
        return self._events[accepted.first : accepted.stop]

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
        for owner, accepted in zip(self._knowers, self._known.values(), strict=True):
            owner.known[accepted.command_id] = first_seq + accepted.first

    def _draft(self, key: Key, target_id: str, target: Owner) -> _Draft:
        """A draft of an aggregate that the batch has not looked at yet; the addressed owner is at hand."""
        aggregate, owner_id = key.aggregate, key.id
        is_addressed = owner_id == target_id  # and therefore of this partition
        actor = (target if is_addressed else self._owner(owner_id)).actor(aggregate)
        draft = self._drafts[key] = _Draft(
            key,
            actor,
            actor.state,
            actor.version,
            not is_addressed and self._is_foreign(owner_id),
            subjects.event(self._tenant, aggregate, owner_id),
            f"{aggregate}/{owner_id}",
            f"{aggregate}.{owner_id}.",
        )
        return draft

    def _record(
        self,
        request: CommandRequest,
        decided: list[Decided],
        drafts: Mapping[Key, _Draft],
        before: Mapping[Key, Any],
    ) -> None:
        """Take in the events of one command; raises `TooLarge` with everything as it was before."""
        optional = optional_attributes(request.correlationid, request.actor, request.traceparent)
        messages, events, write = self.messages, self._events, self._writer.body
        begin = len(messages)
        for key, event in decided:
            draft = drafts[key]
            version = draft.version + 1
            event_id = f"{draft.event_ids}{version}"
            name, body = write(event_id, draft.name, version, event, request.time, request.id, optional)
            if len(body) > BODY_BYTES_MAX:
                self._forget(begin, before)
                raise TooLarge(f"the event {name} would have {len(body)} bytes, at most {BODY_BYTES_MAX} can be logged")
            draft.state = catalogue.evolve(key.aggregate, draft.state, event, request.at_ms)
            draft.version = version
            draft.last = len(messages)
            expected = None
            if draft.first < 0:
                draft.first = draft.last
                expected = draft.actor.stream_seq
            messages.append(Message(draft.subject, body, expected, None))
            events.append((event_id, name))

    def _forget(self, begin: int, before: Mapping[Key, Any]) -> None:
        """Take back the messages from `begin` on, which are of one command; `before` holds the states before it."""
        taken_back = [message.subject for message in self.messages[begin:]]
        del self.messages[begin:], self._events[begin:]
        for key, state in before.items():
            draft = self._drafts[key]
            draft.state = state
            draft.version -= taken_back.count(draft.subject)
            earlier = [at for at, message in enumerate(self.messages) if message.subject == draft.subject]
            draft.first, draft.last = (earlier[0], earlier[-1]) if earlier else (-1, -1)

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
        if len(carriers) < len(fences):
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
