"""Parked events of a projection in PostgreSQL: in the same transaction as the position that passes them."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.postgres import Connection
from projections.parking import Parked


async def stored(connection: Connection) -> list[Parked]:
    """All parked events in the order of the stream."""
    cursor = await connection.execute("SELECT stream_seq, subject, body, reason FROM parked ORDER BY stream_seq")
    return [
        Parked(stream_seq=seq, subject=subject, body=bytes(body), reason=reason)
        for seq, subject, body, reason in await cursor.fetchall()
    ]


async def keep(connection: Connection, parked: Sequence[Parked]) -> None:
    """Add parked events."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO parked (stream_seq, subject, body, reason) VALUES (%s, %s, %s, %s)",
            [(one.stream_seq, one.subject, one.body, one.reason) for one in parked],
        )


async def release(connection: Connection, subject: str) -> None:
    """Take an aggregate's parked events out."""
    await connection.execute("DELETE FROM parked WHERE subject = %s", [subject])


async def summary(connection: Connection) -> str:
    """One line for people, empty when nothing is parked."""
    cursor = await connection.execute("SELECT count(*), count(DISTINCT subject), min(stream_seq) FROM parked")
    events, aggregates, first = await cursor.fetchone() or (0, 0, None)
    if not events:
        return ""
    cursor = await connection.execute("SELECT subject, reason FROM parked WHERE stream_seq = %s", [first])
    subject, reason = await cursor.fetchone() or ("", "")
    return f"{events:,} events of {aggregates:,} aggregates parked, the first is event {first:,} ({subject}): {reason}"
