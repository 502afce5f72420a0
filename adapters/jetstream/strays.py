"""Commands whose subject has a wildcard for a token: the server stores them, and in no partition.

Its subject transform passes them by, so that they lie in the command stream as they were published and no partition's
filter finds them. Whoever runs partition 0 answers them, and takes them out before they fill the stream.
"""

from __future__ import annotations

import base64
from typing import Any, Final

from nats.aio.client import Client

from adapters.jetstream.append import publish_all
from adapters.jetstream.connection import api
from adapters.jetstream.dead_letters import REPLY_TO_HEADER
from adapters.jetstream.messages import NO_MESSAGE
from bus import outcomes, subjects
from bus.answering import reply_subject
from bus.batch import RefusedAnswer
from bus.errors import StoreUnavailable
from bus.ports import Delivery
from bus.reading import read
from domain.values import to_time

#: Answered in one go; the rest a moment later.
STRAYS_AT_ONCE: Final = 200


async def answer_strays(client: Client, tenant: str, now_ms: int) -> int:
    """Refuse and remove what lies in no partition; returns how many there were, as many as one call takes."""
    stream = subjects.commands_stream(tenant)
    for count in range(STRAYS_AT_ONCE):
        wanted = {"seq": 1, "next_by_subj": subjects.published_commands(tenant)}
        answer = await api(client, f"STREAM.MSG.GET.{stream}", wanted)
        if "error" in answer:
            if answer["error"].get("err_code") == NO_MESSAGE:
                return count
            raise StoreUnavailable(f"stream {stream} cannot be read: {answer['error'].get('description')}")
        message = answer["message"]
        await publish_all(client, [_refusal(tenant, message, now_ms)])
        # Sent before it is removed: a crash in between answers the same again.
        await api(client, f"STREAM.MSG.DELETE.{stream}", {"seq": message["seq"], "no_erase": True})
    return STRAYS_AT_ONCE


def _refusal(tenant: str, message: dict[str, Any], now_ms: int) -> tuple[str, bytes]:
    """Where the outcome goes, and its body; what cannot be addressed is refused by what it is, whenever it is read."""
    address = message["subject"].removeprefix(f"tally.cmd.{tenant}.")
    lines = base64.b64decode(message.get("hdrs", "")).decode(errors="replace").split("\r\n")[1:]
    reply_to = dict(line.split(": ", 1) for line in lines if ": " in line).get(REPLY_TO_HEADER)
    body = base64.b64decode(message.get("data", ""))
    delivery = Delivery(message["seq"], f"tally.cmd.{tenant}.0.{address}", body, reply_to)
    refused = read(tenant, delivery, now_ms)
    if not isinstance(refused, RefusedAnswer):
        raise StoreUnavailable(f"command {message['seq']} of {tenant} lies in no partition and could be executed")
    body = outcomes.refused(tenant, to_time(now_ms), refused.subject, refused.command_id, refused.code, refused.message)
    return reply_subject(tenant, delivery, refused.command_id), body
