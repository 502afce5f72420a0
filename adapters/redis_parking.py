"""Parked events of the leaderboards in Redis: kept and let go by the script that moves the position."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final, cast

import msgspec
import redis.asyncio as redis

from adapters.redis_keys import Keys
from projections.parking import Parked, line_of

_decoder: Final = msgspec.json.Decoder(Parked)
_encoder: Final = msgspec.json.Encoder()


def written(parked: Sequence[Parked]) -> list[str]:
    """Sequence and event of each, flat, as a hash takes them; a body that is no text stands in Base64."""
    return [text for one in parked for text in (str(one.stream_seq), _encoder.encode(one).decode())]


async def parked_events(client: redis.Redis, keys: Keys) -> list[Parked]:
    """All parked events in the order of the stream."""
    found = await cast("Awaitable[dict[str, str]]", client.hgetall(keys.parked))
    return sorted((_decoder.decode(text) for text in found.values()), key=lambda one: one.stream_seq)


async def summary(client: redis.Redis, keys: Keys) -> str:
    """One line for people, empty when nothing is parked."""
    return line_of(await parked_events(client, keys))
