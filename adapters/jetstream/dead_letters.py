"""Parked commands in a stream of their own, until an operator redrives or discards them (DESIGN.md 5)."""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.client import Client

from adapters.jetstream.append import ACK_TIMEOUT_S
from adapters.jetstream.connection import api
from adapters.jetstream.messages import direct_get, subjects_of
from bus import subjects
from bus.errors import StoreUnavailable
from bus.ports import Delivery
from domain.catalogue import Key

COMMAND_ID_HEADER: Final = "Tally-Command-Id"
COMMAND_SEQ_HEADER: Final = "Tally-Command-Seq"
COMMAND_HEADER: Final = "Tally-Command"
REASON_HEADER: Final = "Tally-Reason"
REPLY_TO_HEADER: Final = "Tally-Reply-To"
#: An operator's word on a parked command: the sequence of the dead letter.
REDRIVE_HEADER: Final = "Tally-Redrive"
DISCARD_HEADER: Final = "Tally-Discard"


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One parked command; `command` is the last token of the subject to which it was published."""

    dead_seq: int
    aggregate: str
    owner: str
    command: str
    command_id: str
    reason: str
    parked_at: str
    reply_to: str | None
    body: bytes


class JetStreamDeadLetters:
    """`bus.ports.DeadLetters` over one tenant's stream of parked commands."""

    def __init__(self, client: Client, tenant: str) -> None:
        self._client = client
        self._tenant = tenant
        self._stream = subjects.dead_stream(tenant)

    async def park(self, target: Key, delivery: Delivery, command_id: str, reason: str) -> None:
        """Keep a command; the server drops the same command when it comes again soon under the same sequence."""
        headers = {
            "Nats-Msg-Id": f"{delivery.stream_seq}.{delivery.received_ns}",
            COMMAND_ID_HEADER: command_id,
            COMMAND_SEQ_HEADER: str(delivery.stream_seq),
            COMMAND_HEADER: subjects.split_command(delivery.subject)[2],
            REASON_HEADER: "".join(c if " " <= c <= "~" else "?" for c in reason),
        }
        if delivery.reply_to is not None:
            headers[REPLY_TO_HEADER] = delivery.reply_to
        subject = subjects.dead(self._tenant, target.aggregate, target.id)
        try:
            await self._client.jetstream().publish(subject, delivery.body, headers=headers, timeout=ACK_TIMEOUT_S)
        except (nats.errors.Error, TimeoutError) as err:
            raise StoreUnavailable(f"stream {self._stream} did not take a parked command: {err}") from err

    async def parked(self) -> set[Key]:
        """Every aggregate that has a command parked."""
        found = await subjects_of(self._client, self._stream, subjects.dead(self._tenant, "*", "*"))
        return {Key(*subject.split(".")[3:5]) for subject in found}

    async def holds(self, target: Key, dead_seq: int, command_id: str) -> bool:
        """Whether this command of this aggregate is parked under this sequence."""
        letter = await self.get(dead_seq)
        return letter is not None and (Key(letter.aggregate, letter.owner), letter.command_id) == (target, command_id)

    async def letters(self) -> list[DeadLetter]:
        """Every parked command, in the order in which they were parked."""
        found: list[DeadLetter] = []
        wanted = subjects.dead(self._tenant, "*", "*")
        after = 0
        while True:
            request = {"seq": after + 1, "batch": 100, "next_by_subj": wanted}
            page = await direct_get(self._client, self._stream, request)
            for seq, _, _ in page:
                letter = await self.get(seq)
                found += [letter] if letter is not None else []
                after = seq
            if len(page) < 100:
                return found

    async def get(self, dead_seq: int) -> DeadLetter | None:
        """The command that is parked under a sequence, from the leader."""
        answer = await api(self._client, f"STREAM.MSG.GET.{self._stream}", {"seq": dead_seq})
        if "error" in answer:
            return None
        message: dict[str, Any] = answer["message"]
        lines = base64.b64decode(message.get("hdrs", "")).decode().split("\r\n")[1:]
        headers = dict(line.split(": ", 1) for line in lines if ": " in line)
        _, _, _, aggregate, owner = message["subject"].split(".")
        return DeadLetter(
            dead_seq=dead_seq,
            aggregate=aggregate,
            owner=owner,
            command=headers.get(COMMAND_HEADER, ""),
            command_id=headers.get(COMMAND_ID_HEADER, ""),
            reason=headers.get(REASON_HEADER, ""),
            parked_at=message["time"],
            reply_to=headers.get(REPLY_TO_HEADER),
            body=base64.b64decode(message.get("data", "")),
        )

    async def remove(self, dead_seq: int) -> None:
        """Forget a command that has its final outcome."""
        await api(self._client, f"STREAM.MSG.DELETE.{self._stream}", {"seq": dead_seq, "no_erase": True})
