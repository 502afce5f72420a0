"""A cluster of three on loopback, its routes through proxies: a node that is cut off, and what it may not be asked."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter

import pytest

from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import connect
from adapters.jetstream.messages import direct_get, stream_info
from adapters.jetstream.snapshots import JetStreamSnapshots
from adapters.jetstream.store import JetStreamEventStore
from bus.errors import OutcomeUnknown, StoreUnavailable
from bus.ports import Message
from simulations.chaos import create_patiently, run
from simulations.chaos_network import Network
from simulations.chaos_processes import Processes, cluster_leader
from simulations.chaos_report import print_result
from simulations.chaos_schedule import SHORT_CLUSTER, Plan


@contextlib.asynccontextmanager
async def a_cluster(folder):
    network = Network(3)
    processes = Processes(folder, network=network, workers=0)
    try:
        await network.open()
        await asyncio.to_thread(processes.start)
        yield network, processes.urls
    finally:
        await asyncio.to_thread(processes.close)
        await network.close()


async def until(holds):
    async with asyncio.timeout(30):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.05)


async def at_last(work):
    """What comes of it once somebody answers: a leader, or a replica that is not cut off for too long."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(StoreUnavailable, OutcomeUnknown):
                return await work()
            await asyncio.sleep(0.05)


def event(version, expected):
    body = b'{"data":{},"aggregateversion":%d}' % version
    return Message("tally.evt.t.token.a", body, expected, None)


@pytest.mark.timeout(120)
def test_a_replica_that_is_cut_off_answers_direct_gets_and_is_not_believed(tmp_path):
    async def story():
        async with a_cluster(tmp_path) as (network, urls), contextlib.AsyncExitStack() as stack:
            anybody = await connect(",".join(urls), "anybody")
            stack.push_async_callback(anybody.close)
            await create_patiently(anybody, "t", Plan("", {}, workers=0, nodes=3, rate=0), "durable")
            leads = [cluster_leader(await stream_info(anybody, f"{name}_t")) for name in ("EVENTS", "SNAPSHOTS")]
            behind = next(number for number in range(3) if f"n{number}" not in leads)
            reader, writer = await connect(urls[behind], "reader"), await connect(urls[int(leads[0][1:])], "writer")
            stack.push_async_callback(reader.close)
            stack.push_async_callback(writer.close)
            batches = BatchPublisher(writer)
            store, snapshots = JetStreamEventStore(reader, "t", batches), JetStreamSnapshots(reader, "t", batches)
            await at_last(lambda: store.append("b1", [event(1, 0)]))
            fence = await at_last(lambda: snapshots.write(0, [("a", b"old")], b"w1", 0))
            last, first = {"multi_last": ["tally.snap.t.0.a"]}, {"multi_last": ["tally.evt.t.token.a"]}

            async def answers_though_it_is_cut_off():
                network.cut(behind, with_clients=False, silently=False)
                with contextlib.suppress(StoreUnavailable):  # a young replica is not asked yet
                    if await direct_get(reader, "SNAPSHOTS_t", last) and await direct_get(reader, "EVENTS_t", first):
                        return True
                network.mend(behind)
                await asyncio.sleep(1)
                return False

            await until(answers_though_it_is_cut_off)
            second = await at_last(lambda: store.append("b2", [event(2, 1)]))
            await at_last(lambda: snapshots.write(0, [("a", b"new")], b"w2", fence))
            stale = [b"old"]  # what it answered while it was cut off; by now it may have fallen silent
            with contextlib.suppress(StoreUnavailable):
                stale = [body for _, _, body in await direct_get(reader, "SNAPSHOTS_t", last)]
            asked = [
                asyncio.create_task(at_last(lambda: store.events_from(1, 5))),
                asyncio.create_task(at_last(lambda: snapshots.load(0, ["a"]))),
            ]
            await asyncio.sleep(0.5)
            waits = [not task.done() for task in asked]
            network.mend(behind)
            events, bodies = await asyncio.gather(*asked)
            histories = (await at_last(lambda: store.histories(["a", "b"], {}))).items()
            seqs = [len(events), bodies, {owner: [each.stream_seq for each in found] for owner, found in histories}]
            last_seqs = await at_last(lambda: store.last_seqs(["tally.evt.t.token.a", "tally.evt.t.token.b"]))
            return stale, waits, seqs, last_seqs, second

    stale, waits, (count, bodies, histories), last_seqs, second = asyncio.run(story())

    assert stale == [b"old"]
    assert waits == [True, True]
    assert (count, bodies, histories) == (2, {"a": b"new"}, {"a": [1, 2], "b": []})
    assert last_seqs == {"tally.evt.t.token.a": second}


@pytest.mark.timeout(120)
def test_who_creates_a_tenant_on_a_cluster_hears_that_a_single_server_would_keep_it(tmp_path):
    def create(urls, name, *more):
        words = [sys.executable, "-P", "-m", "adapters.cli", "tenant", "create", name, "--data", str(tmp_path), *more]
        environ = {**os.environ, "TALLY_NATS_URL": ",".join(urls)}
        found = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
        return found.returncode, found.stdout.strip(), found.stderr.strip()

    async def story():
        async with a_cluster(tmp_path) as (_, urls):
            client = await connect(",".join(urls), "test")
            try:
                await create_patiently(client, "t", Plan("", {}, workers=0, nodes=3, rate=0), "durable")
            finally:
                await client.close()
            single = await asyncio.to_thread(create, urls, "single")
            return single, await asyncio.to_thread(create, urls, "safe", "--replicas", "3")

    single, safe = asyncio.run(story())

    assert single[:2] == (0, "tenant single created")
    assert "a single server of the cluster keeps single: --replicas 3" in single[2]
    assert safe == (0, "tenant safe created", "")


@pytest.mark.timeout(240)
def test_a_leader_that_is_cut_off_and_one_that_is_killed_lose_double_and_reorder_nothing(tmp_path):
    result = asyncio.run(run(SHORT_CLUSTER, seed=218, folder=tmp_path, say=print))

    print_result(result)
    assert [list(verdict.faults) for verdict in result.verdicts] == [[]]
    assert all(verdict.ok for verdict in result.verdicts)
    assert Counter(struck.fault.kind for struck in result.struck) == SHORT_CLUSTER.faults
    assert all(verdict.counts["operations"] > 50 for verdict in result.verdicts)
