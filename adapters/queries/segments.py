"""Segments over NATS: whom a filter means, now."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from adapters.queries.endpoint import Asked, endpoint
from adapters.segments import Segment, now_s, shared_segments
from bus.queries import BAD_REQUEST, QueryRefused, Request
from projections.segments import Bounds, Filter, WrongFilter

PLAYERS_MAX: Final = 10_000


class Find(Request, frozen=True, kw_only=True):
    """Whom to find: the count is always of all; `limit` players are named, those after `after` (0 to begin)."""

    filter: Filter
    limit: Annotated[int, msgspec.Meta(ge=0, le=PLAYERS_MAX)] = 100
    after: Annotated[int, msgspec.Meta(ge=0, le=4_294_967_295)] = 0


_STAND: Final = Filter(
    all=[
        Filter(zone="north-stand"),
        Filter(quest="driver-simulator", status="completed"),
        Filter(quest="hot-dog", status="not-started"),
        Filter(level=Bounds(at_least=3)),
    ]
)
_FOUND: Final = Segment(size=1203, players=["u17", "u29"], next_after=30, stream_seq=40213, parked=0)


@endpoint("segment.find", example=(Find(filter=_STAND, limit=2), _FOUND))
async def find(asked: Asked[Find]) -> Segment:
    """Who and how many are in a segment: by zone, quest status, level, balance, recency; and, or, not."""
    segments = await asked.sources.once(shared_segments)
    follower = await segments.of(asked.tenant)
    request = asked.request
    try:
        return follower.find(request.filter, limit=request.limit, after=request.after, now_s=now_s())
    except WrongFilter as err:
        raise QueryRefused(BAD_REQUEST, str(err)) from err


ENDPOINTS = (find,)
