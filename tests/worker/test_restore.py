"""The event store is lost: the published log brings it back, and everything goes on. Real processes, real servers."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from adapters import cli, restore
from adapters.jetstream import streams
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import api, connect
from adapters.jetstream.messages import message_at, stream_info
from adapters.settings import SOURCES
from adapters.signer import Signer
from bus import subjects
from bus.errors import OutcomeUnknown, WrongStream
from bus.follower import StreamIdentity
from tests.projections.stories import random_story
from tests.worker.test_worker_on_nats import QUEST, Service, code_of

EVERYTHING = "worker,signer,leaderboards,readmodels,analytics,timers"
STORY = [
    ("PublishQuest", "q", QUEST),
    ("RegisterPlayer", "ada", {"region": "GBR", "cohort": None}),
    ("AcceptQuest", "ada", {"quest": "q"}),
    ("ReachStep", "ada", {"quest": "q", "step": "s", "elapsed_ms": 1}),
    ("CompleteQuest", "ada", {"quest": "q", "elapsed_ms": 5}),
    ("SpendTokens", "ada", {"amount": 1_000}),
]


@pytest.fixture
def installed(settings, tenant, tmp_path, monkeypatch):
    """Settings with a log and keys of the test's own, as environment for processes and commands."""
    own = dataclasses.replace(settings, log_dir=tmp_path / "published", keys_dir=tmp_path / "keys")
    for field, (variable, _) in SOURCES.items():
        monkeypatch.setenv(variable, str(getattr(own, field)))
    monkeypatch.setenv("TALLY_TENANT", tenant)
    return own


@contextlib.contextmanager
def everything(tenant, tmp_path, group=EVERYTHING):
    """All processes of an installation in one, or some of them, for this tenant; killed at the end."""
    ready = tmp_path / "ready"
    ready.unlink(missing_ok=True)
    environment = {**os.environ, "TALLY_READY_FILE": str(ready), "TALLY_ANALYTICS_COMMIT_AGE_S": "1"}
    command = [sys.executable, "-m", "adapters.cli", "run", group, "--only-tenants", tenant]
    with (tmp_path / "run.log").open("ab") as told:
        process = subprocess.Popen(command, env=environment, stderr=told)
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None, (tmp_path / "run.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@contextlib.asynccontextmanager
async def service_of(installed, tenant):
    client = await connect(installed.nats_url, "test-service")
    service = Service(client, tenant)
    await service.listen()
    try:
        yield service
    finally:
        await client.close()


async def tell(installed, tenant, story, prefix):
    async with service_of(installed, tenant) as service:
        return [
            code_of(await service.ask(name, owner, data, command_id=f"{prefix}{number}"))
            for number, (name, owner, data) in enumerate(story)
        ]


async def lose(installed, tenant):
    """Every stream of the tenant is gone; what they held comes back for comparison."""
    client = await connect(installed.nats_url, "test-vandal")
    try:
        held = await bodies(client, tenant)
        for name in (
            subjects.events_stream(tenant),
            subjects.commands_stream(tenant),
            subjects.dead_stream(tenant),
            subjects.snapshots_stream(tenant),
            subjects.timers_stream(tenant),
        ):
            assert "error" not in await api(client, f"STREAM.DELETE.{name}", {})
        return held
    finally:
        await client.close()


async def bodies(client, tenant):
    stream = subjects.events_stream(tenant)
    last = int((await stream_info(client, stream))["state"]["last_seq"])
    return [(await message_at(client, stream, seq))[:2] for seq in range(1, last + 1)]


async def look(installed, tenant, read):
    client = await connect(installed.nats_url, "test-look")
    try:
        return await read(client, tenant)
    finally:
        await client.close()


def ask(capsys, *arguments):
    capsys.readouterr()
    code = cli.main(list(arguments))
    said = capsys.readouterr()
    return code, said.out or said.err


def wait_until(capsys, tenant, condition):
    """Until the status of the tenant is as wanted."""
    deadline = time.monotonic() + 60
    while True:
        _, out = ask(capsys, "status", "--json", "--tenant", tenant)
        own = next(one for one in json.loads(out)["tenants"] if one["tenant"] == tenant)
        if condition(own):
            return own
        assert time.monotonic() < deadline, own
        time.sleep(0.1)


def is_current(own):
    return own["events"] > 0 and all(f["problem"] is None and f["behind_events"] == 0 for f in own["followers"])


def test_a_lost_event_store_comes_back_from_the_log_and_everything_goes_on(installed, tenant, tmp_path, capsys):
    policy = str(installed.keys_dir / tenant / "policy")
    log = str(installed.log_dir / tenant)
    assert ask(capsys, "tenant", "create", tenant)[0] == 0
    with everything(tenant, tmp_path):
        assert asyncio.run(tell(installed, tenant, STORY, "c")) == ["accepted"] * 5 + ["insufficient-tokens"]
        wait_until(capsys, tenant, is_current)
        code, out = ask(capsys, "audit", log, "--policy", policy, "--events", "--lake")
        assert code == 0, out
        assert out.count("entries equal the log's, byte for byte") == 2
        assert "snapshot" not in out
    held = asyncio.run(lose(installed, tenant))

    with everything(tenant, tmp_path):
        code, out = ask(capsys, "restore", "--tenant", tenant)
        assert code == 0, out
        assert f"restored  {tenant}: {len(held)} events (0 were there)" in out
        assert "bound to the stream of" in out
        assert asyncio.run(look(installed, tenant, bodies)) == held

        again = asyncio.run(tell(installed, tenant, STORY, "c"))  # the same ids: recognised, nothing happens twice
        assert again == ["accepted"] * 5 + ["insufficient-tokens"]
        after = asyncio.run(tell(installed, tenant, [("SpendTokens", "ada", {"amount": 3})], "new"))
        assert after == ["accepted"]
        for projection in ("leaderboards", "readmodels", "analytics"):
            code, out = ask(capsys, "rebuild", projection, "--accept", "--tenant", tenant)
            assert code == 0, out
        wait_until(capsys, tenant, is_current)
        code, out = ask(capsys, "audit", log, "--policy", policy, "--events", "--lake")
        assert code == 0, out
        assert out.count("entries equal the log's, byte for byte") == 2
        code, out = ask(capsys, "account", "ada", "--json", "--tenant", tenant)
        assert json.loads(out)["balance"] == 0
        assert ask(capsys, "reconcile", "--tenant", tenant)[0] == 0


async def follow(installed, tenant, records):
    """A log of these records, by a signer of their stream."""
    signer = Signer(installed)
    await signer.open(tenant, StreamIdentity(subjects.events_stream(tenant), "2026-01-01T00:00:00Z"))
    await signer.apply(records)
    await signer.close()


@pytest.fixture
def logged(installed, tenant, monkeypatch):
    """A log of some hundred events whose stream is not there, and batches that are smaller; returns their bodies."""
    monkeypatch.setattr(restore, "BATCH_MESSAGES", 99)
    story = random_story(tenant, 5, events=400)
    asyncio.run(follow(installed, tenant, story.records))
    return [record.body for record in story.records]


#: A story plays in 2014 and is signed now.
ANY_TIME = ("--clock-skew", str(50 * 365 * 86_400))


async def put_back(client, tenant, entries):
    for entry in entries:
        parsed = json.loads(entry)
        await client.request(f"tally.evt.{tenant}.{parsed['subject'].replace('/', '.')}", entry, timeout=5)


async def bodies_of(client, tenant):
    return [body for _, body in await bodies(client, tenant)]


def test_an_interrupted_restore_goes_on_and_nothing_runs_before_it_is_whole(
    installed, tenant, logged, capsys, monkeypatch
):
    append, calls = BatchPublisher.append, []

    async def twice(self, batch_id, messages):
        calls.append(len(messages))
        if len(calls) > 2:
            raise OutcomeUnknown("the connection is lost")
        return await append(self, batch_id, messages)

    monkeypatch.setattr(BatchPublisher, "append", twice)
    code, out = ask(capsys, "restore", "--tenant", tenant, *ANY_TIME)
    assert (code, calls[:2]) == (2, [99, 99])
    assert "run tally restore again, it goes on" in out
    with pytest.raises(WrongStream, match="holds a part of its history: finish tally restore first"):
        asyncio.run(look(installed, tenant, streams.describe))

    monkeypatch.setattr(BatchPublisher, "append", append)
    code, out = ask(capsys, "restore", "--tenant", tenant, "--json", *ANY_TIME)

    assert code == 0, out
    assert (json.loads(out)["events"], json.loads(out)["already"]) == (len(logged), 198)
    assert asyncio.run(look(installed, tenant, bodies_of)) == logged
    assert asyncio.run(look(installed, tenant, streams.describe)).partitions == 8


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (lambda logged: [*logged[:3], logged[3].replace(b"time", b"tame")], "1 difference: entry 3 "),
        (lambda logged: [*logged[:3], logged[4]], "1 difference: entry 3 "),
    ],
    ids=["changed", "out of order"],
)
def test_a_stream_that_holds_anything_but_the_beginning_of_the_log_is_left_alone(
    installed, tenant, logged, capsys, there, message
):
    held = there(logged)
    assert ask(capsys, "tenant", "create", tenant)[0] == 0
    asyncio.run(look(installed, tenant, lambda client, name: put_back(client, name, held)))

    code, out = ask(capsys, "restore", "--tenant", tenant, *ANY_TIME)

    assert code == 1
    assert message in out
    assert asyncio.run(look(installed, tenant, bodies_of)) == held


def test_somebody_else_who_writes_meanwhile_stops_the_restore(installed, tenant, logged, capsys, monkeypatch):
    append = BatchPublisher.append

    async def beside(self, batch_id, messages):
        seq = await append(self, batch_id, messages)
        await self._client.request(f"tally.evt.{tenant}.player.stranger", b"{}", timeout=5)
        return seq

    monkeypatch.setattr(BatchPublisher, "append", beside)
    code, out = ask(capsys, "restore", "--tenant", tenant, *ANY_TIME)

    assert code == 2
    assert "something else writes to it" in out


def test_a_log_that_fails_its_audit_restores_nothing(installed, tenant, logged, capsys):
    path = installed.log_dir / tenant / "tile" / "entries" / "000"
    path.write_bytes(path.read_bytes().replace(b"recordedtime", b"recordedtima", 1))

    code, out = ask(capsys, "restore", "--tenant", tenant, *ANY_TIME)

    assert code == 1
    assert "tile/entries/000" in out
    with pytest.raises(WrongStream):
        asyncio.run(look(installed, tenant, streams.describe))


def test_fewer_partitions_than_the_tenant_had_are_refused(installed, tenant, logged, capsys):
    code, out = ask(capsys, "restore", "--tenant", tenant, "--partitions", "2", *ANY_TIME)

    assert code == 2
    assert "inbox events of partition 3, wanted at most 1" in out
