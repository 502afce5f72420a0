"""A second signer stands by, and goes on with the log when the first one is killed."""

import asyncio
import logging
import time

from adapters.feed import SharedRead, keep_following, keep_pumping
from adapters.jetstream import streams
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import connect
from adapters.published_log import load_policy, log_dir_of, log_status
from adapters.signer import Signer
from bus import subjects
from bus.ports import Message
from ledger.audit import audit_log
from ledger.files import Folder
from tests.projections.stories import random_story
from tests.worker.test_restore import everything, installed  # noqa: F401 - a fixture

ANY_TIME_S = 50 * 365 * 86_400


def signed(installation, tenant, size):
    """Wait for a checkpoint of this size."""
    deadline = time.monotonic() + 60
    while True:
        status = log_status(log_dir_of(installation, tenant))
        if status is not None and status.tree_size >= size:
            return
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def test_a_signer_that_stands_by_takes_over_when_the_active_one_is_killed(
    installed,  # noqa: F811
    tenant,
    tmp_path,
    caplog,
):
    bodies = [record.body for record in random_story(tenant, 6, events=300).records]

    async def append(client, records):
        def subject(body):
            aggregate, _, owner = body.partition(b'"subject":"')[2].partition(b'"')[0].decode().partition("/")
            return subjects.event(tenant, aggregate, owner)

        publisher = BatchPublisher(client)
        await publisher.append(publisher.new_id(), [Message(subject(body), body, None, None) for body in records])

    async def story():
        client = await connect(installed.nats_url, "test-standby")
        await streams.create_tenant(client, tenant)
        described = await streams.describe(client, tenant)
        read, stop, second = SharedRead(client, tenant), asyncio.Event(), Signer(installed)
        with everything(tenant, tmp_path, "signer"):
            await append(client, bodies[:200])
            await asyncio.to_thread(signed, installed, tenant, 200)
            tasks = [
                asyncio.create_task(keep_pumping(read, tenant)),
                asyncio.create_task(keep_following(client, tenant, described.events, read, second, stop)),
            ]
            await asyncio.sleep(1.5)
        await append(client, bodies[200:])
        await asyncio.to_thread(signed, installed, tenant, len(bodies))
        stop.set()
        await tasks[1]
        tasks[0].cancel()
        await client.close()

    with caplog.at_level(logging.INFO):
        asyncio.run(story())

    waits = [record for record in caplog.records if "in use by another signer" in record.getMessage()]
    assert [record.levelname for record in waits] == ["INFO"]
    found = audit_log(Folder(log_dir_of(installed, tenant)), load_policy(installed, tenant), clock_skew_s=ANY_TIME_S)
    assert found.checkpoint.checkpoint.tree_size == len(bodies)
