"""What the signer tells of its witnesses, and what tally status shows of it."""

import asyncio
import time

import pytest
from log_samples import NOV_21, event

from adapters import status
from adapters.commands.status import _lines
from adapters.settings import Settings
from adapters.signer import Signer
from adapters.status import TenantStatus
from adapters.witness_status import WITNESSES_FILE, describe_witnesses, evidence_of_fork
from bus.envelope import Recorded
from bus.follower import StreamIdentity
from ledger import writer
from ledger.errors import HistoryForked

STREAM = StreamIdentity("EVENTS_boston", "2026-11-21T09:00:00Z")


@pytest.fixture
def installation(witnessed, scratch):
    folders = {"TALLY_LOG_DIR": str(scratch / "published"), "TALLY_KEYS_DIR": str(witnessed.keyring.folder.parent)}
    return Settings.load(scratch / "data", folders, need=("log_dir", "keys_dir"))


async def follow(settings, last, *, until):
    """Let a signer apply events and go idle, a second of its clock each time, until what is asked for holds."""
    now_ms = NOV_21
    signer = Signer(settings, now_ms=lambda: now_ms)
    position = await signer.open("boston", STREAM)
    await signer.apply([Recorded(seq, event(seq - 1)) for seq in range(position.stream_seq + 1, last + 1)])
    deadline = time.monotonic() + 30
    while not until():
        now_ms += 1_000
        await signer.idle()
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)
    await signer.close()


def shown(settings):
    found = status._log(settings, "boston")
    assert isinstance(found, status.LogStatus), found
    return found


def test_the_status_shows_what_waits_and_which_witness_is_missing(witnessed, witnesses, installation, monkeypatch):
    witnessed.require("all", *witnesses[:2])
    log_dir = installation.log_dir / "boston"
    asyncio.run(follow(installation, 5, until=lambda: shown(installation).tree_size == 5))
    witnesses[1].stop()
    monkeypatch.setattr(writer, "CLOSE_S", 0)

    def is_told():
        said = " ".join(describe_witnesses(log_dir, NOV_21))
        return "Connection" in said and "cosigned 9" in said

    asyncio.run(follow(installation, 9, until=is_told))
    log = shown(installation)

    assert log.tree_size == 5, "what is published is the last checkpoint that is quorate"
    assert log.witnesses[0].startswith("size 9 waits for its quorum since ")
    assert log.witnesses[1:] == (
        f"w0 ({witnesses[0].url}): cosigned 9",
        f"w1 ({witnesses[1].url}): cosigned 5; ConnectionRefusedError [Errno 111] Connection refused",
    )
    tenant = TenantStatus(tenant="boston", events=9, commands_waiting=0, log=log, followers=())
    assert f"  witness        {log.witnesses[1]}" in list(_lines(tenant))


def test_evidence_of_a_fork_is_what_the_status_says_first(witnessed, installation):
    asyncio.run(follow(installation, 5, until=lambda: True))
    assert evidence_of_fork(witnessed.keyring.folder) is None
    (witnessed.keyring.folder / "last-signed.evidence-1.json").write_text("{}")

    said = status._log(installation, "boston")

    assert said.endswith("last-signed.evidence-1.json says that another history was signed: nothing is signed")
    with pytest.raises(HistoryForked, match="then move the file away"):
        asyncio.run(follow(installation, 6, until=lambda: True))


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"witnesses":[1]}', b'{"witnesses":[],"pending":{"size":1}}', b"\xff"])
def test_a_file_of_the_witnesses_that_is_unreadable_is_named(tmp_path, data):
    (tmp_path / WITNESSES_FILE).write_bytes(data)

    (line,) = describe_witnesses(tmp_path, NOV_21)

    assert "is unreadable" in line


def test_a_log_without_a_quorum_shows_no_witnesses(witnessed, installation):
    asyncio.run(follow(installation, 5, until=lambda: shown(installation).tree_size == 5))

    assert shown(installation).witnesses == ()
