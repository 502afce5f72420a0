"""`tally doctor` says of each thing whether it is as it must be, and what to do when it is not."""

import asyncio
import json

import pytest

from adapters import cli
from adapters.commands import doctor
from adapters.embedded import EmbeddedServers
from adapters.jetstream import streams
from adapters.jetstream.connection import api, connect


def findings(capsys) -> dict[str, dict[str, object]]:
    lines = capsys.readouterr().out.splitlines()
    return {entry["what"]: entry for entry in map(json.loads, lines)}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Servers of this file's own: on those of the session are tenants that other tests have broken, as they should."""
    with EmbeddedServers(tmp_path_factory.mktemp("doctor")) as running:
        (running.data_dir / "endpoints.json").write_text(json.dumps(running.endpoints()))
        on_nats(running, lambda client: streams.create_tenant(client, "boston", partitions=2, intake="fast"))
        yield running


def on_nats(running, work):
    async def story():
        client = await connect(running.endpoints()["nats"], "test-doctor")
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(story())


def test_a_healthy_installation_passes_every_check(installed, capsys):
    code = cli.main(["doctor", "--data", str(installed.data_dir), "--json"])
    found = findings(capsys)

    assert [entry for entry in found.values() if not entry["ok"]] == []
    assert code == 0
    assert found["fsync"]["detail"] == "before every acknowledgement"
    assert sum(entry["detail"] == "answers" for entry in found.values()) == 3
    assert found["streams of boston"]["detail"] == "configured as they must be"


def test_a_tenant_whose_restore_is_not_finished_is_named_with_what_to_do(installed, capsys):
    half = streams.events_config("oslo", 1) | {"metadata": {streams.RESTORING_KEY: "true"}}
    on_nats(installed, lambda client: api(client, f"STREAM.CREATE.{half['name']}", half))
    code = cli.main(["doctor", "--data", str(installed.data_dir), "--json"])
    on_nats(installed, lambda client: api(client, f"STREAM.DELETE.{half['name']}", {}))
    found = findings(capsys)

    assert code == 1
    assert [what for what, entry in found.items() if not entry["ok"]] == ["streams of oslo"]
    assert "finish tally restore first" in found["streams of oslo"]["detail"]


def test_a_server_that_does_not_answer_is_named(installed, capsys):
    path = installed.data_dir / "endpoints.json"
    path.write_text(json.dumps(installed.endpoints() | {"redis": "redis://127.0.0.1:1/0"}))
    code = cli.main(["doctor", "--data", str(installed.data_dir), "--json"])
    path.write_text(json.dumps(installed.endpoints()))

    assert code == 1
    assert "does not answer" in findings(capsys)["redis at 127.0.0.1:1"]["detail"]


def test_nats_without_fsync_is_found(installed, capsys):
    config = installed.data_dir / "nats" / "nats-server.conf"
    good = config.read_text()
    config.write_text(good.replace("sync_interval: always", "sync_interval: 2m"))
    code = cli.main(["doctor", "--data", str(installed.data_dir), "--json"])
    config.write_text(good)

    assert code == 1
    assert "lacks sync_interval: always" in findings(capsys)["fsync"]["detail"]


def test_a_missing_package_is_named_with_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "RUN_PACKAGES", ("msgspec", "no_such_package"))
    code = cli.main(["doctor", "--data", str(tmp_path), "--json"])

    assert code == 1
    assert findings(capsys)["packages"]["detail"].startswith("no_such_package missing: install the embedded extra")


def test_a_directory_where_nothing_is_up_is_no_failure(tmp_path, capsys):
    assert cli.main(["doctor", "--data", str(tmp_path / "none")]) == 0
    assert "installation: not up (tally up --data" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
