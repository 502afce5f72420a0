"""From the answers of a stored batch to the outcomes that senders hear, and the refusals that are remembered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

from bus import outcomes, subjects
from bus.batch import Accepted, Answer, Batch, ParkedAnswer, RefusedAnswer, Repeated
from bus.ports import Delivery, EventStore

REFUSALS_KEPT_MS: Final = 24 * 3600 * 1000
#: No command leads to more events than this; a duplicate's original outcome is found within so many.
EVENTS_PER_COMMAND_MAX: Final = 8


class Refusals:
    """What was refused within the last day: the same command id gets the same answer."""

    def __init__(self) -> None:
        self._by_id: dict[str, tuple[str, str, int]] = {}

    def get(self, command_id: str) -> tuple[str, str] | None:
        """Code and message of an earlier refusal."""
        found = self._by_id.get(command_id)
        return None if found is None else found[:2]

    def remember(self, refused: Sequence[tuple[int, str, str, str]], now_ms: int) -> None:
        """Take in what an inbox event names; forget what is older than a day."""
        for _, command_id, code, message in refused:
            self._by_id[command_id] = (code, message, now_ms)
        while self._by_id:
            oldest = next(iter(self._by_id))
            if now_ms - self._by_id[oldest][2] <= REFUSALS_KEPT_MS:
                return
            del self._by_id[oldest]


async def outcomes_of(
    tenant: str, store: EventStore, batch: Batch, deliveries: Sequence[Delivery], first_seq: int, time: str
) -> list[tuple[str, bytes]]:
    """(subject, body) of each delivery's outcome; the batch is stored from `first_seq` on."""
    events = batch.refs(first_seq)

    async def body_of(answer: Answer) -> bytes:
        match answer:
            case Accepted(command_id, subject, first, stop):
                return outcomes.accepted(tenant, time, subject, command_id, events[first:stop])
            case Repeated(command_id, subject, stream_seq):
                records = await store.events_from(stream_seq, EVENTS_PER_COMMAND_MAX)
                return outcomes.accepted(tenant, time, subject, command_id, outcomes.refs_of(records, command_id))
            case RefusedAnswer(command_id, subject, code, message):
                return outcomes.refused(tenant, time, subject, command_id, code, message)
            case ParkedAnswer(command_id, subject, reason):
                return outcomes.parked(tenant, time, subject, command_id, reason)
            case _:
                assert_never(answer)

    return [
        (_reply_subject(tenant, delivery, answer.command_id), await body_of(answer))
        for delivery, answer in zip(deliveries, batch.answers, strict=True)
    ]


def _reply_subject(tenant: str, delivery: Delivery, command_id: str) -> str:
    reply_to = delivery.reply_to
    if reply_to is not None and subjects.is_reply_allowed(tenant, reply_to):
        return reply_to
    return subjects.outcome(tenant, command_id)
