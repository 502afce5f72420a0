"""A take that leaves a small batch is topped up: what joins it is prepared like everything else."""

import asyncio

import pytest
from harness import PARTITIONS, Town, body_of, said

from bus import batch, partition, subjects
from bus.ports import Redrive


@pytest.mark.parametrize("is_discard", [True, False])
def test_a_word_of_an_operator_that_is_not_true_is_taken_back_when_it_tops_a_batch_up(monkeypatch, is_discard):
    monkeypatch.setattr(partition, "MESSAGES_MAX", 3)  # a take
    monkeypatch.setattr(batch, "MESSAGES_MAX", 2)  # a batch: the third command is left over
    owners = [f"p{n}" for n in range(100) if subjects.partition_of(f"p{n}", PARTITIONS) == 0][:8]

    async def story():
        town = Town()
        for at, owner in enumerate(owners):
            aggregate, body = body_of("RegisterPlayer", owner, {}, f"c{at}")
            forged = Redrive(7, is_discard) if at == 3 else None
            await town.commands.publish(aggregate, owner, "RegisterPlayer", body, redrive=forged)
        running = asyncio.create_task(town.partitions[0].run())
        async with asyncio.timeout(10):
            while True:
                if len(town.outbox.sent) >= len(owners):
                    break
                await asyncio.sleep(0)
            town.partitions[0].stop()
            await running
        return town, [town.outcomes(f"c{at}") for at in range(len(owners))]

    town, outcomes = asyncio.run(story())

    assert [[said(one)[0] for one in each] for each in outcomes] == [["accepted"]] * len(owners)
    assert town.types() == ["player-registered/1"] * len(owners)
