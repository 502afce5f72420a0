"""A log served by any web server is audited as from a folder; bad servers get one line that names the object."""

import gzip
import socket
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from log_samples import ANY_TIME_S, Installation

from ledger import remote
from ledger.audit import audit_log
from ledger.cli import main
from ledger.errors import LedgerError, LogDamaged, WrongUse
from ledger.months import next_month, previous_month
from ledger.remote import Website

NOW_MS = int(time.time() * 1000)
LAST_MONTH_MS = NOW_MS - 32 * 86_400_000


class Server(ThreadingHTTPServer):
    """Serves a folder; `answers` maps a path to what happens instead."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.answers = {}
        self.asked = []

    def handle_error(self, *_):
        """A client that hung up, or one that we hung up on."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/log/boston"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def do_GET(self):
        path = self.path.removeprefix("/log/boston/")
        self.server.asked.append(path)
        answer = self.server.answers.get(path)
        if answer is not None:
            answer(self)
            return
        data = self.server.folder.read(path)
        self.say(404 if data is None else 200, data or b"not found")

    def say(self, status, data, headers=(), length=None):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    installed = Installation(tmp_path_factory.mktemp("web"))
    installed.publish(120, 300, now_ms=LAST_MONTH_MS)
    installed.publish(450, now_ms=NOW_MS)
    return installed


@pytest.fixture
def server(installed):
    with Server(installed.folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def website(server):
    return Website(server.url, datetime.now(UTC).strftime("%Y-%m"))


def audit(installed, server, **options):
    source = website(server)
    try:
        return audit_log(source, installed.policy(), clock_skew_s=ANY_TIME_S, **options)
    finally:
        source.close()


def test_a_served_log_is_audited_as_from_its_folder(installed, server):
    found, local = audit(installed, server), installed.audit()

    assert (found.checkpoint, found.link, found.counts) == (local.checkpoint, local.link, local.counts)
    assert [month.month for month in found.months] == [month.month for month in local.months]


def test_the_audit_command_takes_a_url(installed, server, capsys):
    assert (
        main(["audit", server.url + "/", "--policy", str(installed.policy_path), "--clock-skew", str(ANY_TIME_S)]) == 0
    )
    assert capsys.readouterr().out.endswith("verified\n")


def test_a_removed_partial_is_cut_from_the_full_tile_of_the_server(installed, server, tmp_path):
    older = installed.audit().months[0].closing.checkpoint
    server.answers["checkpoint"] = lambda request: request.say(200, older)

    with pytest.raises(LedgerError, match="closing size"):
        audit(installed, server)
    assert audit(installed, server, is_plain=True).checkpoint.checkpoint.tree_size == 300


def test_packed_answers_are_unpacked_though_nobody_asked(installed, server):
    for path in ("checkpoint", "tile/0/000", "tile/entries/000"):
        packed = gzip.compress(installed.folder.read(path))
        server.answers[path] = lambda r, packed=packed: r.say(200, packed, [("Content-Encoding", "gzip")])

    assert audit(installed, server).checkpoint.checkpoint.tree_size == 450


def endless(request):
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(b"x" * 65_536)
    except OSError:
        request.close_connection = True


def short(request):
    request.close_connection = True
    request.say(200, b"x" * 100, length=8_192)


def hang_up(request):
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)


BAD_ANSWERS = {
    "not there": lambda r: r.say(404, b"no"),
    "gone": lambda r: r.say(410, b"no"),
    "forbidden": lambda r: r.say(403, b"no"),
    "redirected": lambda r: r.say(302, b"", [("Location", "/log/boston/tile/0/001.p/194")]),
    "HTML": lambda r: r.say(200, b"<!doctype html><title>Welcome</title>"),
    "empty": lambda r: r.say(200, b""),
    "the right length": lambda r: r.say(200, b"x" * 8_192),
    "cut off": short,
    "endless": endless,
    "a packed bomb": lambda r: r.say(200, gzip.compress(bytes(10**7)), [("Content-Encoding", "gzip")]),
    "not packed": lambda r: r.say(200, b"x" * 8_192, [("Content-Encoding", "gzip")]),
    "half packed": lambda r: r.say(200, gzip.compress(b"y" * 8_192)[:20], [("Content-Encoding", "gzip")]),
    "always busy": lambda r: r.say(503, b"later"),
    "hung up": hang_up,
}


@pytest.mark.parametrize("path", ["tile/0/000", "tile/entries/000", "chain/000", "checkpoint"])
@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_a_bad_answer_is_one_line_that_names_the_object(installed, server, monkeypatch, case, path):
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    server.answers[path] = BAD_ANSWERS[case]

    with pytest.raises(LedgerError) as found:
        audit(installed, server)

    assert str(found.value).startswith(path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("path", ["tile/entries/000", "checkpoint", "provisional root"])
@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_the_command_says_one_line_about_a_bad_server_and_exits_1(installed, server, monkeypatch, capsys, case, path):
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    root = next(name for name in installed.folder.names("roots") if "provisional" in name)
    server.answers[f"roots/{root}" if path == "provisional root" else path] = BAD_ANSWERS[case]

    code = main(["audit", server.url, "--policy", str(installed.policy_path), "--clock-skew", str(ANY_TIME_S)])

    said = capsys.readouterr()
    assert (code, said.err) == (1, "")
    assert said.out.startswith("FAILED  ")
    assert said.out.count("\n") == 1
    assert "roots/" in said.out if path == "provisional root" else path in said.out


def test_a_server_that_is_busy_for_a_moment_is_asked_again(installed, server, monkeypatch):
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)

    def busy_once(request):
        del server.answers["tile/0/000"]
        request.say(503, b"later")

    server.answers["tile/0/000"] = busy_once

    assert audit(installed, server).checkpoint.checkpoint.tree_size == 450
    assert server.asked.count("tile/0/000") == 2


def test_a_server_that_is_not_there_is_one_line(installed, monkeypatch):
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    with Server(installed.folder) as gone:
        url = gone.url

    with pytest.raises(LogDamaged, match="ConnectionRefused"):
        Website(url, "2026-11").read("checkpoint")


@pytest.mark.parametrize("url", ["ftp://a/b", "http://", "file:///etc", "https://a/b?c=d", "http://a/#b"])
def test_an_address_that_is_no_log_is_refused(url):
    with pytest.raises(WrongUse, match="URL"):
        Website(url, "2026-11")


@pytest.mark.parametrize("month", ["2026-01", "2026-02", "2026-12", "2027-01"])
def test_the_month_before_is_the_other_way_round(month):
    assert next_month(previous_month(month)) == month
