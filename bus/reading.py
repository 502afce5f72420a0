"""From a delivery to a task that can be decided, or to the refusal of what cannot be read."""

from __future__ import annotations

from typing import Final

import msgspec

from bus import subjects
from bus.batch import RefusedAnswer
from bus.envelope import CommandRequest, command_id_of, decode_command
from bus.errors import Malformed
from bus.ports import Delivery
from domain.catalogue import Plan, plan
from domain.values import to_time

#: Clocks may differ by so much.
AHEAD_MAX_MS: Final = 10 * 60 * 1000


class Task(msgspec.Struct, gc=False):
    """A command that can be decided, with what it needs."""

    request: CommandRequest
    #: The addressed aggregate as outcomes name it, `<aggregate>/<id>`.
    subject: str
    plan: Plan

    @property
    def owner_ids(self) -> list[str]:
        """Everybody whose aggregates the command writes or looks at; some may stand there twice."""
        return [key.id for key in self.plan.keys]


def read(tenant: str, delivery: Delivery, now_ms: int) -> Task | RefusedAnswer:
    """What a delivery asks for, or the refusal of what cannot be read."""
    address = subjects.split_command(delivery.subject)
    subject = f"{address[0]}/{address[1]}"
    try:
        _require_reply_allowed(tenant, delivery.reply_to)
        request = decode_command(tenant, delivery.stream_seq, address, delivery.body)
        _require_come(request, now_ms)
    except Malformed as refusal:
        command_id = command_id_of(delivery.body, delivery.stream_seq)
        return RefusedAnswer(command_id, subject, refusal.code, refusal.message)
    return Task(request, subject, plan(request.target, request.command))


def _require_come(request: CommandRequest, now_ms: int) -> None:
    """What happened may be reported late, by years; nobody can know what will have happened."""
    if request.at_ms > now_ms + AHEAD_MAX_MS:
        code = "time-ahead"
        raise Malformed(code, f"time is {request.time}, here it is {to_time(now_ms)}: set the sender's clock")


def _require_reply_allowed(tenant: str, reply_to: str | None) -> None:
    if reply_to is not None and not subjects.is_reply_allowed(tenant, reply_to):
        code = "forbidden-reply"
        raise Malformed(code, f"Tally-Reply-To is {reply_to[:80]!r}, wanted _INBOX.… or tally.out.{tenant}.…")
