"""Asking a time stamp authority, over HTTP or by a local program; the answer is checked before anybody keeps it."""

from __future__ import annotations

import http.client
import secrets
import subprocess
import urllib.error
import urllib.request
from typing import Final

from adapters.errors import TallyError
from adapters.root_settings import Authority
from ledger.timestamps import (
    RESPONSE_BYTES_MAX,
    TimeStamp,
    load_roots,
    require_not_before,
    timestamp_request,
    verify_timestamp,
)

TIMEOUT_S: Final = 10.0


class AuthorityFailed(TallyError):
    """An authority gave no answer, or one that is no time stamp; asked again later."""


def stamp(authority: Authority, checkpoint: bytes, signed_at_seconds: int | None) -> tuple[bytes, TimeStamp]:
    """A time stamp of a checkpoint, verified under the authority's roots; raises AuthorityFailed or a LedgerError."""
    nonce = secrets.randbits(63) | 1
    request = timestamp_request(checkpoint, nonce)
    answer = _ask_url(authority, request) if authority.url else _ask_program(authority, request)
    what = f"answer of {authority.name}"
    found = verify_timestamp(what, answer, checkpoint, load_roots(what, authority.roots), nonce=nonce)
    require_not_before(what, found, signed_at_seconds)
    return answer, found


def _ask_url(authority: Authority, request: bytes) -> bytes:
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    asked = urllib.request.Request(authority.url, request, headers, method="POST")  # noqa: S310 (http or https, see there)
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as response:  # noqa: S310
            answer: bytes = response.read(RESPONSE_BYTES_MAX + 1)
    except (OSError, http.client.HTTPException, urllib.error.URLError) as err:
        raise AuthorityFailed(f"{authority.name} at {authority.url} gave no answer: {err}") from err
    return answer


def _ask_program(authority: Authority, request: bytes) -> bytes:
    program = authority.command[0]
    try:
        done = subprocess.run(
            authority.command,
            input=request,
            capture_output=True,
            cwd=authority.folder,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise AuthorityFailed(f"{authority.name}: {program} gave no answer: {err}") from err
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise AuthorityFailed(f"{authority.name}: {program} ended with {done.returncode}: {said[0] if said else '-'}")
    return done.stdout
