"""A witness over HTTP: two paths, every size and every wait bounded, a stop that lets requests finish.

TLS is the part of a proxy in front of it.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from ledger.encoding import parse_decimal
from ledger.errors import LedgerError, Malformed, excerpt
from ledger.witness import ADD_CHECKPOINT
from ledger.witness_state import Answer, Witness

BODY_BYTES_MAX: Final = 512 * 1024  # 100 signatures of ML-DSA-44 and the longest proof
CONNECTIONS_MAX: Final = 128
REQUEST_S: Final = 15.0  # from the first byte of a request to the last one of its answer
IDLE_S: Final = 60.0  # between two requests of one connection
STOP_S: Final = 5.0
POLL_S: Final = 0.1  # how often deadlines are looked at


@dataclass(slots=True)
class _Connection:
    deadline: float
    is_busy: bool = False


class WitnessServer(ThreadingHTTPServer):
    """Serves one witness; `start` returns at once, `stop` lets what is under way finish."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self,
        witness: Witness,
        address: tuple[str, int],
        now_seconds: Callable[[], int],
        *,
        request_s: float = REQUEST_S,
        poll_s: float = POLL_S,
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)
        self.witness = witness
        self.now_seconds = now_seconds
        self._request_s = request_s
        self._connections: dict[socket.socket, _Connection] = {}
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": poll_s}, name="witness")

    @property
    def url(self) -> str:
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take nothing new, wait for the answers under way, let go of the port."""
        with self._changed:
            self._is_stopping = True
            self._hang_up(lambda connection: not connection.is_busy)
            self._changed.wait_for(lambda: not self._connections, STOP_S)
        self.shutdown()
        self._thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or hang up when there are too many."""
        with self._changed:
            if self._is_stopping or len(self._connections) >= CONNECTIONS_MAX:
                self.shutdown_request(request)
                return
            self._connections[request] = _Connection(time.monotonic() + IDLE_S)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._changed:
            self._connections.pop(request, None)
            self._changed.notify_all()
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on those who take too long; called once for each poll."""
        now = time.monotonic()
        with self._changed:
            self._hang_up(lambda connection: connection.deadline < now)

    def _hang_up(self, is_due: Callable[[_Connection], bool]) -> None:
        for request, connection in self._connections.items():
            if is_due(connection):
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:  # the other side was quicker
                    continue

    def begin(self, request: socket.socket) -> None:
        """The first byte of a request is there."""
        with self._changed:
            self._connections[request] = _Connection(time.monotonic() + self._request_s, is_busy=True)

    def finish(self, request: socket.socket) -> bool:
        """An answer is out; returns whether the connection may go on."""
        with self._changed:
            self._connections[request] = _Connection(time.monotonic() + IDLE_S)
            return not self._is_stopping

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (as the base class has it)
        """Say what went wrong in one line; a client that went away is nobody's fault."""
        err = sys.exception()
        if not isinstance(err, ConnectionError | TimeoutError):
            say(f"{client_address[0]}: unexpected {type(err).__name__}: {err}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "tally-witness"
    sys_version = ""
    timeout = IDLE_S
    disable_nagle_algorithm = True
    wbufsize = -1
    server: WitnessServer

    def handle_one_request(self) -> None:
        if not self.rfile.peek(1):  # type: ignore[attr-defined] # a BufferedReader, as rbufsize says
            self.close_connection = True
            return
        self.server.begin(self.request)
        super().handle_one_request()
        if not self.server.finish(self.request):
            self.close_connection = True

    def do_POST(self) -> None:
        if self.path != f"/{ADD_CHECKPOINT}":
            self._hang_up_with(404, f"{excerpt(self.path)}: no such path")
            return
        if self.headers.get("Transfer-Encoding") or self.headers.get("Content-Length") is None:
            self._hang_up_with(411, "body: expected a Content-Length")
            return
        try:
            length = parse_decimal("Content-Length", self.headers["Content-Length"])
        except Malformed as err:
            self._hang_up_with(400, f"{err}")
            return
        if length > BODY_BYTES_MAX:
            self._hang_up_with(413, f"body: expected at most {BODY_BYTES_MAX} bytes, found {length}")
            return
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        self._send(self._add_checkpoint(body))

    def _add_checkpoint(self, body: bytes) -> Answer:
        try:
            answer = self.server.witness.add_checkpoint(body, self.server.now_seconds())
        except (OSError, LedgerError) as err:  # the state could not be written: nothing was promised
            say(f"stopped cosigning a log: {err}")
            return Answer(500, b"the state could not be written: start the witness again\n")
        origin = excerpt(body.partition(b"\n\n")[2].partition(b"\n")[0].decode("utf-8", "replace"))
        said = "" if answer.status == 200 else f": {answer.body.decode().strip()}"
        say(f"{self.client_address[0]} {origin} {answer.status}{said}")
        return answer

    def do_GET(self) -> None:
        if self.path == f"/{ADD_CHECKPOINT}":
            self._send(Answer(405, b"POST only\n"))
            return
        note = self.server.witness.checkpoint_at(self.path.removeprefix("/"))
        self._send(Answer(404, b"no checkpoint here\n") if note is None else Answer(200, note))

    def do_HEAD(self) -> None:
        self.do_GET()

    def _hang_up_with(self, status: int, problem: str) -> None:
        """Refuse without reading the body."""
        self.close_connection = True
        self._send(Answer(status, f"{problem}\n".encode()))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        if answer.status == 405:
            self.send_header("Allow", "POST")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the base class's)
        """Nothing: requests that mean something are said by `_add_checkpoint`."""


def say(text: str) -> None:
    """One line to the error output, with the time."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")
    sys.stderr.flush()
