"""Sending one command and waiting for its outcome, as any service would do it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from adapters.errors import TallyError
from adapters.jetstream.connection import connect
from adapters.jetstream.dead_letters import REPLY_TO_HEADER
from adapters.settings import Settings
from bus import subjects
from domain.catalogue import COMMANDS

SOURCE: Final = "//tallyroot/cli"


async def send_command(
    settings: Settings,
    tenant: str,
    name: str,
    owner: str,
    data: Any,
    *,
    command_id: str | None = None,
    time: str | None = None,
    actor: str | None = None,
    timeout_s: float = 10.0,
) -> dict[str, Any]:
    """The outcome of a command; raises `TallyError` when none comes in time."""
    stored, aggregate, _ = COMMANDS[name]
    subject = subjects.command(tenant, aggregate, subjects.require_token("ID", owner), name)
    body = {
        "specversion": "1.0",
        "id": command_id or str(uuid4()),
        "source": SOURCE,
        "type": stored,
        "subject": f"{aggregate}/{owner}",
        "time": time or datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "tenantid": tenant,
        "datacontenttype": "application/json",
        "data": data,
    }
    if actor:
        body["actor"] = actor
    client = await connect(settings.nats_url, "tally-send")
    try:
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox, max_msgs=1)
        headers = {REPLY_TO_HEADER: inbox}
        await client.jetstream().publish(subject, json.dumps(body).encode(), headers=headers, timeout=timeout_s)
        answer = await answers.next_msg(timeout=timeout_s)
    except TimeoutError as err:
        message = (
            f"no outcome of command {body['id']} within {timeout_s:g} s: is a worker running (tally status)? "
            f"send it again with --command-id {body['id']}; it is executed once"
        )
        raise TallyError(message) from err
    finally:
        await client.close()
    outcome: dict[str, Any] = json.loads(answer.data)
    return outcome
