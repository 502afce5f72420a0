"""`tally status` on a whole installation with its real processes."""

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from adapters import cli
from adapters.jetstream import streams
from adapters.jetstream.connection import api, connect
from adapters.supervisor import Supervisor
from tests.platform.processes import wait_for


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    with Supervisor(directory) as running:
        assert cli.main(["tenant", "create", "boston", "--data", str(directory)]) == 0
        data = '{"region":"GBR","cohort":null}'
        assert cli.main(["send", "RegisterPlayer", "ada", data, "--tenant", "boston", "--data", str(directory)]) == 0
        yield running


def status(installation, capsys) -> tuple[int, dict]:
    code = cli.main(["status", "--json", "--data", str(installation.data_dir)])
    return code, json.loads(capsys.readouterr().out)


def followers(installation, capsys) -> dict[str, dict]:
    _, said = status(installation, capsys)
    return {follower["name"]: follower for follower in said["tenants"][0]["followers"]}


def test_signer_and_projections_reach_the_end_of_the_stream(installation, capsys):
    quick = ("signer", "leaderboards", "readmodels")

    assert wait_for(lambda: all(followers(installation, capsys)[name]["stream_seq"] == 2 for name in quick))
    code, said = status(installation, capsys)
    assert code == 0
    assert said["tenants"][0]["events"] == 2
    assert said["tenants"][0]["log"]["tree_size"] == 2


def test_what_waits_is_counted_in_events_and_seconds(installation, capsys):
    analytics = followers(installation, capsys)["analytics"]

    assert (analytics["behind_events"] == 0) == (analytics["behind_s"] == 0.0)
    assert analytics["behind_events"] + analytics["stream_seq"] == 2


def test_a_person_gets_a_line_for_each_part(installation, capsys):
    assert wait_for(lambda: followers(installation, capsys)["signer"]["stream_seq"] == 2)
    code = cli.main(["status", "--data", str(installation.data_dir)])
    said = capsys.readouterr().out

    assert code == 0
    for part in (installation.endpoints["nats"], "tenant boston: 2 events", "leaderboards", "chain head"):
        assert part in said


def test_no_password_is_printed(installation, capsys):
    password = urlsplit(installation.endpoints["postgres"]).password
    for option in ([], ["--json"]):
        assert cli.main(["status", *option, "--data", str(installation.data_dir)]) == 0
        said = capsys.readouterr().out
        assert "postgresql://postgres:***@127.0.0.1:" in said
        assert password
        assert password not in said


def test_a_tenant_that_is_being_restored_is_said_to_be_and_hides_no_other(installation, capsys):
    async def ask(*requests):
        client = await connect(installation.endpoints["nats"], "test")
        for subject, body in requests:
            await api(client, subject, body)
        await client.close()

    restoring = {"metadata": {streams.RESTORING_KEY: "true"}}
    begun = [
        ("STREAM.CREATE.EVENTS_athens", streams.events_config("athens", 1) | restoring),
        ("STREAM.CREATE.EVENTS_sparta", streams.events_config("sparta", 1)),
    ]
    asyncio.run(ask(*begun))
    try:
        code = cli.main(["status", "--data", str(installation.data_dir)])
        said = capsys.readouterr().out
    finally:
        asyncio.run(ask(("STREAM.DELETE.EVENTS_athens", {}), ("STREAM.DELETE.EVENTS_sparta", {})))

    assert code == 1
    assert "tenant athens: is being restored, 0 events so far: nothing runs until tally restore has ended" in said
    assert "tenant sparta: stream COMMANDS_sparta: stream not found: create the tenant" in said
    assert "tenant boston: 2 events" in said


def test_a_projection_that_cannot_be_asked_is_named_and_the_check_fails(installation, capsys, monkeypatch):
    monkeypatch.setenv("TALLY_REDIS_URL", "redis://127.0.0.1:1/0")
    code, said = status(installation, capsys)
    boards = said["tenants"][0]["followers"][1]

    assert code == 1
    assert boards["name"] == "leaderboards"
    assert boards["problem"]


def test_a_damaged_checkpoint_is_named(installation, capsys):
    path = installation.data_dir / "published" / "boston" / "checkpoint"
    assert wait_for(path.exists)
    good = path.read_bytes()
    path.write_bytes(good[:40])
    code, said = status(installation, capsys)
    path.write_bytes(good)

    assert code == 1
    assert "checkpoint" in said["tenants"][0]["followers"][0]["problem"]


def test_where_nothing_is_up_the_line_says_how_to_start(tmp_path, capsys):
    assert cli.main(["status", "--data", str(tmp_path)]) == 2
    assert f"tally up --data {tmp_path}" in capsys.readouterr().err
