"""Reading the past of a tenant: which sequence a moment means, and aggregates as they were at it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from nats.aio.client import Client

from adapters.jetstream.messages import DIRECT_GET_MESSAGES, direct_get, history, last_message, message_at, stream_info
from bus import subjects
from bus.envelope import Recorded
from bus.errors import StoreUnavailable, WireError, WrongStream
from bus.timetravel import Moment, Past, TravelRefused, is_cut, sequence_at
from domain.catalogue import Key
from domain.values import to_ms

#: A replica that answers direct gets may be behind its leader for a moment.
BEHIND_TRIES: Final = 20
BEHIND_WAIT_S: Final = 0.1


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The stream up to one sequence; `following` is the event behind it, where there is one."""

    tenant: str
    stream_seq: int
    stream_last_seq: int
    last: Recorded
    following: Recorded | None

    @property
    def is_cut(self) -> bool:
        """Whether the sequence stands between two events of one command."""
        return is_cut(self.last, self.following)


class History:
    """One tenant's event stream, looked back upon."""

    def __init__(self, client: Client, tenant: str) -> None:
        self._client = client
        self._tenant = tenant
        self._stream = subjects.events_stream(tenant)

    async def view(self, at: int | Moment | None, now_ms: int) -> View:
        """The stream at a sequence, at a moment, or (None) as it is; raises `TravelRefused` when that is not in it."""
        last_seq = int((await stream_info(self._client, self._stream))["state"]["last_seq"])
        if last_seq == 0:
            raise TravelRefused(f"{self._tenant} has no events yet: send a command first (tally send)")
        match at:
            case None:
                seq = last_seq
            case Moment():
                seq = await self._sequence_of(at, last_seq, now_ms)
            case _:
                seq = at
        if not 1 <= seq <= last_seq:
            raise TravelRefused(f"--at is {seq}, {self._tenant} has the events 1 to {last_seq}: name one of them")
        following = await self._event(seq + 1) if seq < last_seq else None
        return View(
            tenant=self._tenant,
            stream_seq=seq,
            stream_last_seq=last_seq,
            last=await self._event(seq),
            following=following,
        )

    async def pasts(self, keys: Sequence[Key], view: View, shown_max: int) -> list[Past]:
        """Each aggregate at the view's sequence; raises `TravelRefused` for one that has no events to this day."""
        return [await self._past(key, view.stream_seq, shown_max) for key in keys]

    async def _sequence_of(self, moment: Moment, last_seq: int, now_ms: int) -> int:
        if moment.at_ms > now_ms:
            raise TravelRefused(f"--at is {moment.text}, which is still to come: leave --at out for the latest state")
        seq = await sequence_at(moment.at_ms, last_seq, self._recorded_ms)
        if seq == 0:
            first = (await self._event(1)).event.recordedtime
            raise TravelRefused(
                f"--at is {moment.text}, the first event of {self._tenant} was recorded at {first}: name a later "
                "moment (it counts when an event was recorded, not when the thing happened)"
            )
        return seq

    async def _recorded_ms(self, seq: int) -> int:
        return to_ms((await self._event(seq)).event.recordedtime)

    async def _event(self, seq: int) -> Recorded:
        found = await message_at(self._client, self._stream, seq)
        if found is None:
            raise WireError(f"event {seq} of {self._tenant} is gone: restore the stream from the published log")
        return Recorded(seq, found[1])

    async def _past(self, key: Key, up_to_seq: int, shown_max: int) -> Past:
        subject = subjects.event(self._tenant, key.aggregate, key.id)
        newest = await last_message(self._client, self._stream, subject)
        if newest is None:
            raise TravelRefused(f"{key.aggregate}/{key.id} has no events in {self._tenant}: check the id")
        past = Past(key, up_to_seq, shown_max)
        after, tries = 0, BEHIND_TRIES
        while after < min(newest[0], up_to_seq):
            request: dict[str, Any] = {"seq": after + 1, "batch": DIRECT_GET_MESSAGES, "next_by_subj": subject}
            page = await direct_get(self._client, self._stream, request)
            past.apply(Recorded(seq, body) for seq, _, body in page)
            if page:
                after = page[-1][0]
            elif tries := tries - 1:
                await asyncio.sleep(BEHIND_WAIT_S)
            else:
                raise StoreUnavailable(f"stream {self._stream} answers without its newest events: is a replica behind?")
        return past


async def find_event(client: Client, tenant: str, event_id: str) -> int:
    """The stream sequence of an event, from its id `<aggregate>.<id>.<version>`; raises `WrongStream` if unknown."""
    aggregate, _, rest = event_id.partition(".")
    owner, _, version = rest.partition(".")
    if not (subjects.is_token(aggregate) and subjects.is_token(owner) and version.isdecimal()):
        message = f"event id is {event_id[:80]!r}, wanted <aggregate>.<id>.<version>, like player.b19.12"
        raise WrongStream(message)
    found = await history(client, subjects.events_stream(tenant), subjects.event(tenant, aggregate, owner))
    if not 1 <= int(version) <= len(found):
        message = f"{aggregate}/{owner} of {tenant} has {len(found)} events, there is no {event_id}"
        raise WrongStream(message)
    return found[int(version) - 1][0]
