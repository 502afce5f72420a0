"""The outcome of a command, for those who sent it and did not wait: read from the event stream, which is never wrong.

A command's events are on the subject of the aggregate that it addressed: who names it gets the answer at once, however
old it is. With the id alone a stretch of the stream is looked through, as nothing there is sorted by command ids. A
refusal is in the partition's inbox, which is looked through as well.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from nats.aio.client import Client

from adapters.jetstream import streams
from adapters.jetstream.messages import DIRECT_GET_MESSAGES, direct_get, history, stream_info
from adapters.queries.endpoint import Asked, endpoint
from bus import outcomes, subjects
from bus.answering import EVENTS_PER_COMMAND_MAX
from bus.envelope import COMMANDS_DECIDED, Recorded
from bus.outcomes import EventRef, Outcome
from bus.queries import BAD_REQUEST, NOT_FOUND, QueryRefused, Request
from domain.catalogue import AGGREGATES

EVENTS_MAX: Final = 100_000
#: A sender's clock may be so far ahead of the server's.
CLOCKS_DIFFER: Final = timedelta(minutes=1)
REFUSALS_WITHIN: Final = timedelta(hours=24)


class OutcomeOf(Request, frozen=True, kw_only=True):
    """`subject` as the command has it (`player/ada`), `since` when it was sent (RFC 3339); either speeds it up."""

    subject: str | None = None
    since: datetime | None = None


_EXAMPLE: Final = Outcome(
    specversion="1.0",
    id="outcome.0199aa10-7c1e-7d52-b0f3-5b1c7a3f9e01",
    source="//tallyroot/boston",
    type=outcomes.ACCEPTED,
    subject="player/b1234",
    time="2014-04-21T14:08:37.412Z",
    tenantid="boston",
    causationid="0199aa10-7c1e-7d52-b0f3-5b1c7a3f9e01",
    data=outcomes.AcceptedData([EventRef("player.b1234.12", "quest-completed/1", 40213)]),
)


@endpoint("outcome.{command}", example=(OutcomeOf(subject="player/b1234"), _EXAMPLE))
async def outcome(asked: Asked[OutcomeOf]) -> Outcome:
    """The outcome of a command, as its sender would have heard it; 404 while there is none."""
    search = _Search(asked.sources.nats, asked.tenant, asked.named["command"])
    since = asked.request.since or _sent_at(search.command_id)
    if asked.request.subject is None:
        found = await search.through_all(since)
    else:
        found = await search.of(asked.request.subject, since or datetime.now(UTC) - REFUSALS_WITHIN)
    if found is None:
        raise QueryRefused(NOT_FOUND, f"no outcome of command {search.command_id} {search.where}")
    return found  # type: ignore[return-value] # the bytes of an `Outcome`


ENDPOINTS: Final = (outcome,)


class _Search:
    def __init__(self, client: Client, tenant: str, command_id: str) -> None:
        self._client = client
        self._tenant = tenant
        self._stream = subjects.events_stream(tenant)
        self._mark = f'"{command_id}"'.encode()
        self.command_id = command_id
        self.where = ""

    async def of(self, subject: str, since: datetime) -> bytes | None:
        """The outcome of a command to this aggregate."""
        aggregate, _, owner = subject.partition("/")
        if aggregate not in AGGREGATES or not subjects.is_token(owner):
            message = f"subject is {subject[:80]!r}, wanted {', '.join(AGGREGATES)} and an id, like player/ada"
            raise QueryRefused(BAD_REQUEST, message)
        for seq, _, body in await history(self._client, self._stream, subjects.event(self._tenant, aggregate, owner)):
            if self._mark in body and Recorded(seq, body).event.causationid == self.command_id:
                return await self._accepted(seq)
        tenant = await streams.describe(self._client, self._tenant)
        inbox = subjects.inbox(self._tenant, subjects.partition_of(owner, tenant.partitions))
        self.where = f"to {subject} yet; refusals were looked for since {since.isoformat(timespec='seconds')}"
        return await self._through({"start_time": _written(since)}, inbox, subject)

    async def through_all(self, since: datetime | None) -> bytes | None:
        """The outcome of a command to anybody, in a stretch of the stream."""
        if since is not None:
            request: dict[str, Any] = {"start_time": _written(since)}
        else:
            last_seq = int((await stream_info(self._client, self._stream))["state"]["last_seq"])
            request = {"seq": max(1, last_seq - EVENTS_MAX + 1)}
        among = f"newest {EVENTS_MAX:,} events" if since is None else f"{EVENTS_MAX:,} events since {_written(since)}"
        self.where = f"among the {among}; give its `subject`, or say since when"
        return await self._through(request, subjects.all_events(self._tenant), "")

    async def _through(self, request: dict[str, Any], subject_filter: str, subject: str) -> bytes | None:
        """Look at events in order until one tells the outcome; a parked command may still get another one later."""
        parked = None
        for _ in range(EVENTS_MAX // DIRECT_GET_MESSAGES):
            page = await direct_get(
                self._client, self._stream, {**request, "batch": DIRECT_GET_MESSAGES, "next_by_subj": subject_filter}
            )
            for seq, _, body in page:
                if self._mark not in body:
                    continue
                record = Recorded(seq, body)
                if record.event.type != COMMANDS_DECIDED:
                    if record.event.causationid == self.command_id:
                        return await self._accepted(seq)
                    continue
                refused, waits = self._not_accepted(record, subject)
                if refused is not None:
                    return refused
                parked = waits or parked
            if len(page) < DIRECT_GET_MESSAGES:
                break
            request = {"seq": page[-1][0] + 1}
        return parked

    async def _accepted(self, first_seq: int) -> bytes:
        request = {
            "seq": first_seq,
            "batch": EVENTS_PER_COMMAND_MAX,
            "next_by_subj": subjects.all_events(self._tenant),
        }
        records = [Recorded(seq, body) for seq, _, body in await direct_get(self._client, self._stream, request)]
        event = records[0].event
        refs = outcomes.refs_of(records, self.command_id)
        return outcomes.accepted(self._tenant, event.recordedtime, event.subject, self.command_id, refs)

    def _not_accepted(self, record: Recorded, subject: str) -> tuple[bytes | None, bytes | None]:
        """The refusal that an inbox event tells of, and the parking."""
        time = record.event.recordedtime
        owner = subject and subjects.owner_of(subject)
        for addressed, command_id, code, message in record.data.refusals():
            if command_id == self.command_id and (not owner or not addressed or subjects.owner_of(addressed) == owner):
                told = subject or addressed
                return outcomes.refused(self._tenant, time, told, command_id, code, message), None
        for _, command_id, reason in record.data.parked:
            if command_id == self.command_id:
                return None, outcomes.parked(self._tenant, time, subject, command_id, reason)
        return None, None


def _sent_at(command_id: str) -> datetime | None:
    """About when a command was sent, if its id tells: a UUID of version 7 begins with the milliseconds."""
    try:
        known = uuid.UUID(command_id)
    except ValueError:
        return None
    if known.version != 7:
        return None
    return datetime.fromtimestamp((known.int >> 80) / 1000, UTC) - CLOCKS_DIFFER


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
