"""One connection to one witness: every size and every wait is bounded, nothing is followed."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import time
from typing import Final
from urllib.parse import urlsplit

from ledger.errors import NotWitnessed, WrongUse, excerpt

log: Final = logging.getLogger(__name__)

READ_S: Final = 10.0  # for one read, and for connecting
ANSWER_S: Final = 15.0  # for the whole answer
ANSWER_BYTES_MAX: Final = 512 * 1024


class WitnessLink:
    """Requests below a witness's URL, one at a time; `interrupt` may come from another thread."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            has_host = bool(parts.hostname and parts.hostname.encode("idna") and parts.port != 0)
        except ValueError:  # a port, an address or a name that is none
            has_host = False
        if not has_host or parts.scheme not in {"http", "https"} or parts.query or parts.fragment or parts.username:
            raise WrongUse("URL of a witness", expected="an http(s) URL without user and query", found=excerpt(url))
        self.url = url
        self._is_over = False
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host = parts.netloc
        self._prefix = parts.path.rstrip("/")
        self._connection: http.client.HTTPConnection | None = None

    def say(self, text: str) -> None:
        """Tell the operator something about this witness."""
        log.warning("witness %s %s", self.url, text)

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str, bytes]:
        """Status, content type and body; raises `NotWitnessed`, `OSError` or `HTTPException`."""
        is_kept = self._connection is not None
        try:
            return self._request(method, path, body)
        except ConnectionError:
            # A kept connection may have ended meanwhile. To ask again does no harm: what is recorded is compared.
            self.close()
            if not is_kept or self._is_over:
                raise
            return self._request(method, path, body)

    def _request(self, method: str, path: str, body: bytes | None) -> tuple[int, str, bytes]:
        if self._connection is None:
            self._connection = self._kind(self._host, timeout=READ_S)
            self._connection.connect()
        connection = self._connection
        deadline = time.monotonic() + ANSWER_S
        # Headers that drip in, each byte in time, would never end: the clock ends them.
        watch = threading.Timer(ANSWER_S, _shut, (connection.sock,))
        watch.daemon = True
        watch.start()
        try:
            connection.request(method, f"{self._prefix}/{path}", body)
            with connection.getresponse() as response:
                data = self._body(response, deadline)
            if response.will_close:
                self.close()
            return response.status, response.headers.get("Content-Type", ""), data
        except OSError as err:
            if time.monotonic() > deadline:
                raise _beyond_limits() from err
            raise
        finally:
            watch.cancel()

    @staticmethod
    def _body(response: http.client.HTTPResponse, deadline: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        while chunk := response.read1(1 << 16):
            parts.append(chunk)
            size += len(chunk)
            if size > ANSWER_BYTES_MAX:
                raise _beyond_limits()
        if time.monotonic() > deadline:
            raise _beyond_limits()
        if response.length:  # what is left of the length that was announced
            raise NotWitnessed("answer", expected="as many bytes as it announces", found=f"its first {size}")
        return b"".join(parts)

    def interrupt(self) -> None:
        """End the request that another thread waits for, for good."""
        self._is_over = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            _shut(connection.sock)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _beyond_limits() -> NotWitnessed:
    limit = f"at most {ANSWER_BYTES_MAX} bytes within {ANSWER_S:g} s"
    return NotWitnessed("answer", expected=limit, found="more, or too slow")


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed already
        return
