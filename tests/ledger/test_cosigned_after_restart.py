"""A signer that starts again asks the witnesses that are missing on what is published. Real processes, real stream."""

import asyncio
import socket
import time

import pytest
from log_samples import NOV_21
from test_cosigned_late import sign_until, witnessed_by
from witness_samples import Puppet, WitnessedLog, grow, served

from adapters.jetstream import streams
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import connect
from bus import subjects
from bus.ports import Message
from ledger.errors import HistoryForked
from ledger.files import Folder
from ledger.keyring import ORIGIN_PREFIX, ensure_keys, load_keyring
from ledger.witness import SIZE_TYPE
from ledger.witness_setup import LOGS, init_witness
from tests.projections.stories import random_story
from tests.worker.test_restore import everything, installed  # noqa: F401 - a fixture


class Signed(WitnessedLog):
    """The log and the keys of an installation's tenant."""

    def __init__(self, installed, tenant):  # noqa: F811
        self.log_dir = installed.log_dir / tenant
        self.keyring = ensure_keys(installed.keys_dir, tenant, origin=f"{ORIGIN_PREFIX}/{tenant}")
        self.folder = Folder(self.log_dir)


class ServedWitness:
    """The folder of a witness and where it will answer."""

    def __init__(self, base, name, log, url):
        self.base, self.url = base, url
        self.keys = init_witness(base, name)
        Folder(base / LOGS).replace("log.policy", log.plain_policy().encode())


def wait_until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_witness_that_was_away_is_asked_again_after_a_restart_while_signing_goes_on(
    installed,  # noqa: F811
    tenant,
    tmp_path,
):
    log = Signed(installed, tenant)
    bodies = [record.body for record in random_story(tenant, 6, events=250).records]

    async def append(records, *, is_first=False):
        def subject(body):
            aggregate, _, owner = body.partition(b'"subject":"')[2].partition(b'"')[0].decode().partition("/")
            return subjects.event(tenant, aggregate, owner)

        client = await connect(installed.nats_url, "test-cosigned")
        if is_first:
            await streams.create_tenant(client, tenant)
        publisher = BatchPublisher(client)
        await publisher.append(publisher.new_id(), [Message(subject(body), body, None, None) for body in records])
        await client.close()

    def is_signed(size):
        return log.published is not None and log.published_size() == size

    there = ServedWitness(tmp_path / "w0", "w0.example", log, "")
    with served(there.base) as (there.url, _):
        with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and never answers
            port = silent.getsockname()[1]
            away = ServedWitness(tmp_path / "w1", "w1.example", log, f"http://127.0.0.1:{port}")
            log.require(1, there, away)
            asyncio.run(append(bodies[:200], is_first=True))
            with everything(tenant, tmp_path, "signer"):
                wait_until(lambda: is_signed(200))
            with everything(tenant, tmp_path, "signer"):
                asyncio.run(append(bodies[200:]))
                wait_until(lambda: is_signed(len(bodies)))
        before = log.published
        assert witnessed_by(log) == {"w0"}
        with served(away.base, port), everything(tenant, tmp_path, "signer"):
            wait_until(lambda: witnessed_by(log) == {"w0", "w1"})

    assert log.published.startswith(before)
    assert set(log.audit().checkpoint.witnessed_by) == {"w0", "w1"}


def test_nobody_is_asked_again_for_what_all_have_cosigned(witnessed, witnesses):
    with Puppet(lambda handler, _: handler.say(500, b"no")) as idle:
        witnessed.require(3, *witnesses)
        writer = witnessed.open()
        grow(writer, 300)
        writer.close(NOV_21)
        text = witnessed.policy_path.read_text()
        for witness in witnesses:
            text = text.replace(witness.url, idle.url)
        witnessed.policy_path.write_text(text)
        witnessed.keyring = load_keyring(witnessed.keyring.folder)

        again = witnessed.open()
        for _ in range(20):
            again.sign(NOV_21)
            time.sleep(0.005)
        again.close(NOV_21)

        assert idle.asked == []


def test_a_witness_that_knows_another_history_stops_a_signer_that_just_started(witnessed, witnesses):
    witnessed.require(2, *witnesses)
    writer = witnessed.open()
    grow(writer, 300)
    witnesses[0].stop()
    grow(writer, 310)
    writer.close(NOV_21)
    before = witnessed.published
    with Puppet(lambda handler, _: handler.say(409, b"999\n", SIZE_TYPE)) as liar:
        text = witnessed.policy_path.read_text().replace(witnesses[0].url, liar.url)
        witnessed.policy_path.write_text(text)
        witnessed.keyring = load_keyring(witnessed.keyring.folder)
        again = witnessed.open()

        with pytest.raises(HistoryForked, match=r"has recorded size 999, more than was ever signed"):
            sign_until(again, lambda: False)
        again.abandon()

    assert witnessed.published == before
