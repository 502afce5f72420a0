"""Who must read a day of inbox events holds a few of them at a time."""

import asyncio
import tracemalloc

from harness import town_with

from bus.envelope import CommandsDecided

EVENTS = 30_000
LINE = "x" * 2_000


def peak_of(work):
    tracemalloc.start()
    try:
        asyncio.run(work())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_day_of_inbox_events_passes_by_and_is_not_held_in_memory():
    read = []

    async def tell():
        town = await town_with("p")

        async def inbox_since(partition, _):
            for number in range(EVENTS if partition == 0 else 0):
                yield CommandsDecided(
                    partition=0, first_seq=number, last_seq=number, accepted=0, batch=f"{number} {LINE}"
                )
                read.append(1)

        town.store.inbox_since = inbox_since
        town.snapshots.bodies.clear()
        town.snapshots.watermarks.clear()
        await town.restart()

    assert peak_of(tell) < EVENTS * len(LINE) / 10
    assert len(read) == EVENTS
