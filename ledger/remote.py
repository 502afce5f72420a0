"""A published log over HTTP: plain GETs, nothing followed, everything bounded.

What a server says is not believed, only compared: HTML in place of a tile has another length or other hashes.
"""

from __future__ import annotations

import http.client
import time
import zlib
from typing import Any, Final
from urllib.parse import urlsplit

from ledger.errors import LedgerError, LogDamaged, WrongUse, excerpt
from ledger.months import ROOTS, certificate_path, previous_month, provisional_path
from ledger.tiles import ENTRY_BYTES_MAX, TILE_BYTES, TILE_WIDTH

TIMEOUT_S: Final = 20
DEADLINE_S: Final = 120
TRIES: Final = 3
MONTHS_BACK_MAX: Final = 120
_CHUNK: Final = 1 << 16
_OK: Final = 200
_GONE: Final = frozenset({404, 410})
_BUSY: Final = frozenset({429, 500, 502, 503, 504})


class Website:
    """A `Source` below one URL; `newest_month` is where the search for monthly roots begins."""

    def __init__(self, url: str, newest_month: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise WrongUse("log", expected="a folder, or an http(s) URL without query", found=excerpt(url))
        self._secure = parts.scheme == "https"
        self._host = parts.netloc.rpartition("@")[2]
        self._prefix = parts.path.rstrip("/")
        self._newest_month = newest_month
        self._connection: http.client.HTTPConnection | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_connection": None}

    def read(self, path: str) -> bytes | None:
        """The bytes of one file, None when the server says that there is none; raises `LogDamaged`."""
        for attempt in range(1, TRIES + 1):
            try:
                return self._get(path, _bytes_max(path))
            except LedgerError:
                self.close()
                raise
            except _Busy as err:
                problem = str(err)
            except (OSError, http.client.HTTPException) as err:
                problem = f"{type(err).__name__} {err}".strip()
            self.close()
            if attempt < TRIES:
                time.sleep(0.2 * attempt)
        raise LogDamaged(path, expected="the file", found=f"{excerpt(problem)} from {self._host}, {TRIES} times")

    def names(self, folder: str) -> list[str]:
        """Names of the monthly roots: months follow each other without a gap, so they can be asked for one by one."""
        if folder != ROOTS:
            return []
        found: list[str] = []
        month = self._newest_month
        for _ in range(MONTHS_BACK_MAX):
            paths = [path for path in (certificate_path(month), provisional_path(month)) if self.read(path) is not None]
            if found and not paths:
                break
            found += (path.removeprefix(f"{ROOTS}/") for path in paths)
            month = previous_month(month)
        return sorted(found)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _get(self, path: str, bytes_max: int) -> bytes | None:
        deadline = time.monotonic() + DEADLINE_S
        connection = self._connect()
        connection.request("GET", f"{self._prefix}/{path}", headers={"Accept-Encoding": "gzip, identity"})
        with connection.getresponse() as response:
            if response.status in _BUSY:
                raise _Busy(f"status {response.status}")
            body = self._body(path, response, bytes_max, deadline)
        if response.status in _GONE:
            return None
        if response.status != _OK:
            raise LogDamaged(path, expected="status 200 or 404", found=f"{response.status} from {self._host}")
        return body

    def _body(self, path: str, response: http.client.HTTPResponse, bytes_max: int, deadline: float) -> bytes:
        # Servers may send gzip without being asked (tlog-tiles); what it unpacks to is bounded too.
        is_packed = response.headers.get("Content-Encoding", "identity").lower() == "gzip"
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 16) if is_packed else None
        parts: list[bytes] = []
        size = 0
        while chunk := response.read(_CHUNK):
            try:
                data = unpack.decompress(chunk, bytes_max + 1 - size) if unpack else chunk
            except zlib.error as err:
                raise LogDamaged(path, expected="gzip, as the server says", found=f"{err}") from err
            parts.append(data)
            size += len(data)
            if size > bytes_max or time.monotonic() > deadline:
                limit = f"{bytes_max} bytes within {DEADLINE_S} s"
                raise LogDamaged(path, expected=f"at most {limit}", found="more, or too slow")
        if unpack and not unpack.eof:
            raise LogDamaged(path, expected="gzip to its end", found="a part of it")
        return b"".join(parts)

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            self._connection = kind(self._host, timeout=TIMEOUT_S)
        return self._connection


class _Busy(Exception):
    """The server asks to come again."""


def _bytes_max(path: str) -> int:
    if path.startswith("tile/entries/"):
        return TILE_WIDTH * (ENTRY_BYTES_MAX + 2)
    return TILE_BYTES if path.startswith(("tile/", "chain/")) else 4_000_000
