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

    async def renewing(client, subject, holder, expected):
        return await publish(client, subject, holder, expected) if expected == 0 else renewal()

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
