"""Who may do what only one may do at a time, on a real server."""

import asyncio
import uuid

import pytest

from adapters.jetstream import lease as leases
from adapters.jetstream.connection import connect
from adapters.jetstream.lease import LeaseLost, LeaseTaken, lease
from bus.errors import WrongStream


def held(settings, monkeypatch, renewal):
    """Hold a lease whose renewals end so, for longer than one of them takes."""
    monkeypatch.setattr(leases, "RENEWED_EVERY_S", 0.01)
    name, publish = f"test.{uuid.uuid4().hex}", leases._publish

    async def renewing(client, subject, holder, expected, **more):
        return await publish(client, subject, holder, expected, **more) if expected == 0 else renewal()

    monkeypatch.setattr(leases, "_publish", renewing)

    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            async with lease(client, name, "this", "me"):
                with pytest.raises(LeaseTaken, match=r"this is already under way \(me\)"):
                    async with lease(client, name, "this", "you"):
                        pass
                await asyncio.sleep(5)
        finally:
            await client.close()

    asyncio.run(story())


def refused():
    raise WrongStream("the stream takes nothing any more")


@pytest.mark.parametrize("renewal", [lambda: None, refused], ids=["somebody else has it", "it cannot be renewed"])
def test_work_under_a_lease_that_is_lost_is_ended(settings, monkeypatch, renewal):
    with pytest.raises(LeaseLost, match="another one may run now"):
        held(settings, monkeypatch, renewal)


def test_a_renewal_whose_acknowledgement_was_lost_counts(settings, monkeypatch):
    monkeypatch.setattr(leases, "RENEWED_EVERY_S", 0.01)
    publish, renewed, enough = leases._publish, [], asyncio.Event()

    async def losing_every_second_answer(client, subject, holder, expected, **more):
        seq = await publish(client, subject, holder, expected, timeout_s=10)
        renewed.append(seq)
        if len(renewed) == 12:
            enough.set()
        if len(renewed) % 2 == 0:
            raise TimeoutError
        return seq

    monkeypatch.setattr(leases, "_publish", losing_every_second_answer)

    async def story():
        client = await connect(settings.nats_url, "test")
        try:
            async with lease(client, f"test.{uuid.uuid4().hex}", "this", "me"), asyncio.timeout(20):
                await enough.wait()
        finally:
            await client.close()

    asyncio.run(story())

    assert None in renewed
