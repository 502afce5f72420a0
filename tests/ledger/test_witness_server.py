"""A witness over HTTP, and its command: everything is bounded, a stop lets requests finish."""

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_websites import Server
from witness_samples import LOG, WRONG_KEY, RunningWitness, post, served

from ledger import keycrypt, lock, witness_setup
from ledger.build_pyz import build
from ledger.cli import main
from ledger.errors import KeyRefused, Unsupported, WrongUse
from ledger.files import Folder
from ledger.keys import KeyOpener
from ledger.witness_setup import open_witness


@pytest.fixture(scope="module")
def at_four(tmp_path_factory):
    with RunningWitness(tmp_path_factory.mktemp("four") / "w", LOG.policy) as witness:
        assert witness.add(LOG.request(0, 4))[0] == 200
        yield witness


# HTTP


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/add-checkpoint", None, {}, 405),
        ("POST", "/add-checkpoints", b"", {}, 404),
        ("POST", "/", b"", {}, 404),
        ("GET", "/", None, {}, 404),
        ("GET", "/../logs/0.policy", None, {}, 404),
        ("GET", f"/{'0' * 64}/checkpoint", None, {}, 404),
        ("PUT", "/add-checkpoint", b"", {}, 501),
        ("POST", "/add-checkpoint", None, {"Content-Length": "-1"}, 400),
        ("POST", "/add-checkpoint", None, {"Content-Length": "1_0"}, 400),
        ("POST", "/add-checkpoint", None, {"Content-Length": str(2**40)}, 413),
        ("POST", "/add-checkpoint", iter([b"old 0\n"]), {"Transfer-Encoding": "chunked"}, 411),
    ],
)
def test_http_that_makes_no_sense_is_refused(at_four, method, path, body, headers, status):
    assert at_four.ask(method, path, body, headers)[0] == status


def test_one_connection_serves_many_requests(at_four):
    address = ("127.0.0.1", at_four.server.server_address[1])
    body = LOG.request(4, 4)
    with socket.create_connection(address, timeout=20) as link, link.makefile("rb") as answers:
        for _ in range(3):
            link.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert answers.readline().startswith(b"HTTP/1.1 200")
            headers = {}
            while (line := answers.readline()) != b"\r\n":
                name, _, value = line.decode().partition(": ")
                headers[name] = value.strip()
            assert len(answers.read(int(headers["Content-Length"]))) > 100


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /add-ch", b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 900\r\n\r\nold 4\n", b"\x16\x03\x01"],
    ids=["nothing", "half a line", "half a body", "TLS"],
)
def test_a_client_that_is_too_slow_is_hung_up_on_and_holds_nobody_else(tmp_path, monkeypatch, sent):
    from ledger import witness_server

    monkeypatch.setattr(witness_server, "IDLE_S", 0.3)
    with (
        RunningWitness(tmp_path / "w", LOG.policy, request_s=0.3) as witness,
        socket.create_connection(("127.0.0.1", witness.server.server_address[1]), timeout=30) as link,
    ):
        link.sendall(sent)
        assert witness.add(LOG.request(0, 4))[0] == 200
        while link.recv(1000):
            pass


def test_more_connections_than_allowed_are_hung_up_on(tmp_path, monkeypatch):
    from ledger import witness_server

    monkeypatch.setattr(witness_server, "CONNECTIONS_MAX", 3)
    with RunningWitness(tmp_path / "w", LOG.policy) as witness:
        address = ("127.0.0.1", witness.server.server_address[1])
        links = [socket.create_connection(address, timeout=30) for _ in range(4)]
        assert links[3].recv(1) == b""
        links[0].close()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                assert witness.add(LOG.request(0, 4))[0] in {200, 409}
                break
            except OSError:
                time.sleep(0.02)
        else:
            pytest.fail("no place became free")
        for link in links:
            link.close()


def test_a_stop_lets_the_request_under_way_finish(tmp_path, monkeypatch):
    with RunningWitness(tmp_path / "w", LOG.policy) as witness:
        inside, go_on = threading.Event(), threading.Event()
        decide = witness.witness.add_checkpoint

        def slow(body, now):
            inside.set()
            go_on.wait(20)
            return decide(body, now)

        monkeypatch.setattr(witness.witness, "add_checkpoint", slow)
        with ThreadPoolExecutor(2) as pool:
            answer = pool.submit(witness.add, LOG.request(0, 4))
            inside.wait(20)
            stopped = pool.submit(witness.server.stop)
            go_on.set()
            assert answer.result(20)[0] == 200
            stopped.result(20)
        with pytest.raises(OSError, match="refused"):
            witness.add(LOG.request(4, 9))


# the command


def test_the_command_makes_a_witness_and_serves_it_until_it_is_told_to_stop(tmp_path, capsys):
    base = tmp_path / "w"
    assert main(["witness", "init", str(base), "--name", "w.example/1"]) == 0
    said = capsys.readouterr().out
    assert "witness w.example/1 w.example/1+" in said
    assert "PRIVATE" not in said
    assert all(path.stat().st_mode & 0o077 == 0 for path in base.glob("*.key"))
    Folder(base / "logs").replace("log.policy", LOG.policy.encode())

    with served(base) as (url, said):
        status, body = post(url, LOG.request(0, 4))

    assert (status, said[2]) == (200, 0)
    assert body.startswith("— w.example/1 ".encode())
    assert "'example.com/log' 200" in said[1]
    assert main(["witness", "show", str(base), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["logs"] == {"example.com/log": 4}


def test_the_command_looks_at_what_its_logs_publish_before_it_serves(tmp_path):
    published = Folder(tmp_path / "log")
    with Server(published) as web:
        serving = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        serving.start()
        policy = LOG.policy.replace("\nquorum", f" {web.url}\nquorum")
        with RunningWitness(tmp_path / "w", policy) as witness:
            published.replace("checkpoint", LOG.note(4) + witness.add(LOG.request(0, 4))[1])
        shutil.rmtree(witness.base / "state")

        with served(witness.base) as (url, said):
            answers = [post(url, LOG.request(0, 9)), post(url, LOG.request(4, 9))]
        web.shutdown()
        serving.join()

    assert answers[0] == (409, b"4\n")
    assert answers[1][0] == 200
    assert "own cosignature over size 4, root " in said[1]
    assert web.asked == ["checkpoint"]


def test_the_checker_in_one_file_runs_a_witness_too(tmp_path):
    checker = build(tmp_path / "tally-verify.pyz")
    command = [sys.executable, str(checker), "witness"]
    subprocess.run([*command, "init", "w", "--name", "w.example"], cwd=tmp_path, check=True, capture_output=True)
    Folder(tmp_path / "w" / "logs").replace("log.policy", LOG.policy.encode())

    shown = subprocess.run([*command, "show", "w"], cwd=tmp_path, check=True, capture_output=True, text=True)

    assert shown.stdout.endswith("log example.com/log: nothing recorded yet\n")


def test_a_system_without_file_locks_runs_no_witness(tmp_path, monkeypatch):
    witness = RunningWitness(tmp_path / "w", LOG.policy)
    monkeypatch.setattr(lock, "fcntl", None)

    with pytest.raises(Unsupported, match="use Linux or macOS"):
        open_witness(witness.base)


def test_keys_of_a_witness_are_opened_with_their_passphrase(tmp_path, ed25519_alone, monkeypatch, capsys):
    monkeypatch.setattr(keycrypt, "LOG2_N", 14)
    (tmp_path / "passphrase").write_text("correct horse\n")
    (tmp_path / "passphrase").chmod(0o600)
    monkeypatch.setenv("TALLY_KEYS_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    assert main(["witness", "init", str(tmp_path / "w"), "--name", "w.example"]) == 0
    Folder(tmp_path / "w" / "logs").replace("log.policy", LOG.policy.encode())
    assert (tmp_path / "w" / "witness-ed25519.key").read_text().startswith("ENCRYPTED+KEY+w.example+")
    assert main(["witness", "show", str(tmp_path / "w")]) == 0

    monkeypatch.delenv("TALLY_KEYS_PASSPHRASE_FILE")
    assert main(["witness", "show", str(tmp_path / "w")]) == 2
    assert "the keys are encrypted" in capsys.readouterr().err


def test_a_witness_is_made_once(tmp_path):
    RunningWitness(tmp_path / "w", LOG.policy)

    with pytest.raises(WrongUse, match="an empty folder"):
        witness_setup.init_witness(tmp_path / "w", "other.example")


@pytest.mark.parametrize(
    ("policies", "error", "said"),
    [
        ([], WrongUse, "put the policy of each log there"),
        ([LOG.policy, LOG.policy], KeyRefused, "each name and key ID once"),
        ([LOG.policy, f"log {WRONG_KEY.key}\nquorum none\n"], WrongUse, "example.com/log in two"),
    ],
)
def test_logs_that_a_witness_cannot_tell_apart_are_refused(tmp_path, policies, error, said):
    witness = RunningWitness(tmp_path / "w", *policies)

    with pytest.raises(error, match=said):
        open_witness(witness.base)


def test_a_log_signed_by_the_key_of_the_witness_itself_is_refused(tmp_path):
    witness = RunningWitness(tmp_path / "w")
    own = next(iter(witness_setup._keys(witness.base, KeyOpener())))
    stolen = type(own.key)("example.com/log", 1, own.key.public)
    witness.trust(f"log {stolen}\nquorum none\n")

    with pytest.raises(KeyRefused, match="each public key under one name and role"):
        open_witness(witness.base)


@pytest.mark.parametrize("listen", ["8008", "localhost", "localhost:http", ":80", "localhost:70000", "localhost:+80"])
def test_an_address_that_is_none_is_refused(tmp_path, capsys, listen):
    RunningWitness(tmp_path / "w", LOG.policy)

    assert main(["witness", "serve", str(tmp_path / "w"), "--listen", listen]) == 2
    assert "--listen: expected HOST:PORT" in capsys.readouterr().err
