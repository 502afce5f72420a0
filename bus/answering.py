"""From the answers of a stored batch to the outcomes that senders hear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

from bus import outcomes, subjects
from bus.batch import Accepted, Answer, Batch, ParkedAnswer, RefusedAnswer, Repeated
from bus.envelope import Recorded
from bus.ports import Delivery, EventStore

#: No command leads to more events than this; a duplicate's original outcome is found within so many.
EVENTS_PER_COMMAND_MAX: Final = 8
#: Events that one read brings at most, and how many of them may be in vain for each that is wanted.
READ_AT_ONCE: Final = 1_000
CLOSE_TOGETHER: Final = 40


async def outcomes_of(
    tenant: str, store: EventStore, batch: Batch, deliveries: Sequence[Delivery], first_seq: int, time: str
) -> list[tuple[str, bytes]]:
    """(subject, body) of each delivery's outcome; the batch is stored from `first_seq` on."""
    accepted = outcomes.AcceptedWriter(tenant, time)
    earlier = await _events_of(store, [answer for answer in batch.answers if isinstance(answer, Repeated)])

    def outcome_of(delivery: Delivery, answer: Answer) -> tuple[str, bytes]:
        if type(answer) is Accepted:  # what could be read has no reply subject that is not allowed
            command_id = answer.command_id
            body = accepted.body(answer.subject, command_id, first_seq + answer.first, batch.events_of(answer))
            return delivery.reply_to or subjects.outcome(tenant, command_id), body
        match answer:
            case Repeated(command_id, subject, stream_seq):
                refs = outcomes.refs_of(earlier[stream_seq], command_id)
                body = outcomes.accepted(tenant, time, subject, command_id, refs)
            case RefusedAnswer(command_id, subject, code, message):
                body = outcomes.refused(tenant, time, subject, command_id, code, message)
            case ParkedAnswer(command_id, subject, reason):
                body = outcomes.parked(tenant, time, subject, command_id, reason)
            case _:
                assert_never(answer)
        return reply_subject(tenant, delivery, answer.command_id), body

    return [outcome_of(delivery, answer) for delivery, answer in zip(deliveries, batch.answers, strict=True)]


async def _events_of(store: EventStore, repeated: Sequence[Repeated]) -> dict[int, list[Recorded]]:
    """The first events from each duplicate's place on; places that lie close together are read in one go."""
    found: dict[int, list[Recorded]] = {}
    seqs = sorted({answer.stream_seq for answer in repeated})
    while seqs:
        first = seqs[0]
        together = [seq for seq in seqs if seq < first + READ_AT_ONCE - EVENTS_PER_COMMAND_MAX]
        while together[-1] - first > CLOSE_TOGETHER * len(together):
            together.pop()
        records = await store.events_from(first, together[-1] - first + EVENTS_PER_COMMAND_MAX)
        found |= {seq: records[seq - first : seq - first + EVENTS_PER_COMMAND_MAX] for seq in together}
        seqs = seqs[len(together) :]
    return found


def reply_subject(tenant: str, delivery: Delivery, command_id: str) -> str:
    """Where a command's outcome goes: to whom it names, if that is allowed, else to the command's own subject."""
    reply_to = delivery.reply_to
    if reply_to is not None and subjects.is_reply_allowed(tenant, reply_to):
        return reply_to
    return subjects.outcome(tenant, command_id)
