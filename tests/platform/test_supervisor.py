"""An installation comes up whole, stays up, says what happened in one line, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.errors import ServerFailed
from adapters.files import record_tenant
from adapters.settings import Settings, read_endpoints
from adapters.supervisor import Supervisor
from adapters.supervisor_lock import AlreadyRunning, is_locked, living_supervisor
from tests.platform.processes import processes_of, wait_for

READY_THEN_WAIT = "import os, pathlib, time; pathlib.Path(os.environ['TALLY_READY_FILE']).touch(); time.sleep(600)"
WRONG_USE = "import sys; sys.stderr.write('tally: the group is not known\\n'); sys.exit(2)"
# `tally up` with a dummy process, in a program of its own, so that it can be interrupted and killed.
UP = (
    "import sys; from adapters.cli import main; from adapters.supervisor import Supervisor\n"
    f"command = lambda group, data: [sys.executable, '-c', {READY_THEN_WAIT!r}, str(data)]\n"
    "Supervisor.__init__.__kwdefaults__['command'] = command\n"
    "sys.exit(main(['up', '--data', sys.argv[1], '--processes', 'dummy']))\n"
)


def dummy(code: str):
    return lambda group, data_dir: [sys.executable, "-c", code, group, str(data_dir)]


def start_up(directory: Path) -> "subprocess.Popen[str]":
    """Start `tally up` on `directory` and return when it says that it is ready."""
    up = subprocess.Popen(
        [sys.executable, "-c", UP, str(directory)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert any("ready: Ctrl-C" in line for line in up.stdout)
    return up


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    directory = tmp_path_factory.mktemp("installation")
    events: list[str] = []
    with Supervisor(
        directory, processes="worker worker signer,analytics", command=dummy(READY_THEN_WAIT), on_event=events.append
    ) as running:
        running.events = events
        yield running


def test_every_group_is_a_process_with_a_log_of_its_own(installation):
    names = set(installation.processes())
    logs = {path.name for path in (installation.data_dir / "logs").iterdir()}

    assert names == {"nats-server", "postgres", "valkey", "worker", "worker-2", "signer,analytics"}
    assert {"nats.log", "postgres.log", "redis.log", "worker.log", "worker-2.log", "signer+analytics.log"} <= logs


def test_endpoints_are_written_for_scripts_when_all_is_ready(installation):
    content = json.loads((installation.data_dir / "endpoints.json").read_text())

    assert content["pid"] == os.getpid()
    assert content["tenants"] == []
    assert set(content) >= {"nats", "postgres", "redis", "iceberg_catalog", "iceberg_warehouse", "log_dir", "keys_dir"}
    assert Settings.load(installation.data_dir, {}) == installation.settings()


def test_a_tenant_that_any_program_provisions_appears_in_the_endpoints(installation):
    from adapters.embedded_probe import nats_request

    port = int(installation.endpoints["nats"].rpartition(":")[2])
    stream = {"name": "EVENTS_oslo", "subjects": ["tally.evt.oslo.>"], "storage": "file"}
    answer = nats_request(port, "$JS.API.STREAM.CREATE.EVENTS_oslo", json.dumps(stream).encode())
    assert "error" not in answer
    assert wait_for(lambda: "oslo" in read_endpoints(installation.data_dir)["tenants"])


def test_a_tenant_provisioned_later_appears_in_the_endpoints(installation):
    record_tenant(installation.data_dir, "boston")
    record_tenant(installation.data_dir, "boston")

    assert read_endpoints(installation.data_dir)["tenants"].count("boston") == 1


def test_a_second_supervisor_on_the_directory_is_refused(installation):
    with pytest.raises(AlreadyRunning, match=f"already up .process {os.getpid()}.: tally down --data"):
        Supervisor(installation.data_dir).start()

    assert is_locked(installation.data_dir)


def test_a_dead_process_is_started_again(installation):
    before = installation.processes()["worker"]
    os.kill(before, signal.SIGKILL)

    assert wait_for(lambda: any("worker is back" in line for line in installation.events))
    after = installation.processes()["worker"]
    assert after != before
    assert any(line.startswith("worker ended (signal 9)") for line in installation.events)
    assert wait_for(lambda: read_endpoints(installation.data_dir)["processes"]["worker"] == after)


def test_a_dead_server_is_started_again_on_its_port(installation):
    from adapters import embedded_probe

    port = int(installation.endpoints["nats"].rpartition(":")[2])
    os.kill(installation.processes()["nats-server"], signal.SIGKILL)

    assert wait_for(lambda: any("nats-server is back" in line for line in installation.events))
    assert embedded_probe.nats_answers(port)


def test_after_a_stop_nothing_runs_and_no_endpoints_are_left(tmp_path):
    with Supervisor(tmp_path, processes="one", command=dummy(READY_THEN_WAIT)):
        running = processes_of(tmp_path)

    assert len(running) >= 4
    assert processes_of(tmp_path) == []
    assert not (tmp_path / "endpoints.json").exists()
    assert not is_locked(tmp_path)


def test_a_process_that_says_wrong_use_ends_the_start_in_one_line(tmp_path):
    with pytest.raises(ServerFailed) as caught:
        Supervisor(tmp_path, processes="nonsense", command=dummy(WRONG_USE)).start()

    assert "nonsense ended at start (exit 2, tally: the group is not known" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert processes_of(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG is a thing of Linux")
def test_kill_nine_of_the_supervisor_leaves_nothing_and_the_next_start_works(tmp_path):
    up = start_up(tmp_path)
    up.kill()
    up.communicate()

    assert wait_for(lambda: processes_of(tmp_path) == [])
    assert living_supervisor(tmp_path) is None
    assert (tmp_path / "endpoints.json").exists()
    with Supervisor(tmp_path, processes="one", command=dummy(READY_THEN_WAIT)) as again:
        assert read_endpoints(tmp_path)["pid"] == os.getpid()
        assert again.endpoints["pid"] == os.getpid()


def tally(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "adapters.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_down_stops_a_living_supervisor_and_waits_until_all_is_gone(tmp_path):
    up = start_up(tmp_path)
    stopped = tally("down", "--data", str(tmp_path), "--within", "20", cwd=tmp_path.parent)
    leftover = processes_of(tmp_path)
    said, complained = up.communicate()

    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert "stopped" in stopped.stdout
    assert leftover == []
    assert (up.returncode, complained) == (0, "")
    assert "stopped" in said


def test_down_on_a_directory_where_nothing_runs_says_so(tmp_path):
    (tmp_path / "endpoints.json").write_text("{}")
    answer = tally("down", "--data", str(tmp_path), cwd=tmp_path)

    assert answer.returncode == 0
    assert "nothing was running" in answer.stdout
    assert not (tmp_path / "endpoints.json").exists()


def test_up_says_in_one_line_that_its_directory_is_a_file(tmp_path):
    (tmp_path / "data").write_text("")
    answer = tally("up", "--data", str(tmp_path / "data"), cwd=tmp_path)

    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert "a directory is needed" in answer.stderr


def test_ctrl_c_stops_an_installation_in_the_foreground_even_when_pressed_twice(tmp_path):
    up = start_up(tmp_path)
    up.send_signal(signal.SIGINT)
    up.send_signal(signal.SIGINT)
    said, complained = up.communicate(timeout=20)

    assert (up.returncode, complained) == (0, "")
    assert "stopped" in said
    assert processes_of(tmp_path) == []


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path):
    up = subprocess.Popen([sys.executable, "-c", UP, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert wait_for((tmp_path / "logs" / "postgres.log").exists)
    up.send_signal(signal.SIGINT)
    _, complained = up.communicate(timeout=20)

    assert complained == b""
    assert processes_of(tmp_path) == []
    assert not is_locked(tmp_path)


def test_a_second_up_on_the_same_directory_says_that_it_is_already_up(tmp_path):
    up = start_up(tmp_path)
    second = tally("up", "--data", str(tmp_path), cwd=tmp_path.parent)
    detached = tally("up", "--detach", "--data", str(tmp_path), cwd=tmp_path.parent)
    up.terminate()
    up.communicate(timeout=20)

    for answer in (second, detached):
        assert answer.returncode == 2
        assert f"is already up (process {up.pid})" in answer.stderr
