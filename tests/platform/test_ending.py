"""A task that somebody else began ends when it is told to, also when the first word of it is lost."""

import asyncio

import pytest

from adapters import ending


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(ending, "AGAIN_AFTER_S", 0.01)


def test_a_task_that_is_told_to_end_in_the_turn_in_which_its_answer_comes_ends(soon):
    """`asyncio.wait_for` of Python 3.11 returns the answer, and nothing is left of the request to end."""

    async def story():
        answer = asyncio.get_running_loop().create_future()
        waits = asyncio.Event()

        async def asks_for_ever():
            waits.set()
            await asyncio.wait_for(answer, 60)
            await asyncio.Event().wait()

        task = asyncio.create_task(asks_for_ever())
        await waits.wait()
        answer.set_result("the answer")
        await asyncio.wait_for(ending.ended(task), 10)
        return task.cancelled()

    assert asyncio.run(story())


def test_what_a_task_failed_with_concerns_nobody_any_more(soon):
    async def story():
        async def fails():
            raise ValueError

        task = asyncio.create_task(fails())
        await asyncio.sleep(0)
        await ending.ended(task)
        return task.exception()

    assert isinstance(asyncio.run(story()), ValueError)
