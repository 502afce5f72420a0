"""Logs of millions of small entries, made with the signer's own code and kept for the measurements of one run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from ledger.files import Folder
from ledger.keyfolder import POLICY
from ledger.keyring import ensure_keys
from ledger.policy import Policy, parse_policy
from ledger.writer import LogWriter
from simulations.corruption import NOVEMBER_MS

TENANT: Final = "bench"
SUBJECTS: Final = 10_000
APPENDED_AT_ONCE: Final = 256 * 64


class BigLog(NamedTuple):
    """A published log of so many entries with its policy."""

    folder: Folder
    policy: Policy
    policy_text: bytes
    tree_size: int


def entry(number: int) -> bytes:
    """The shortest event that the rules allow: disk and time go into hashes, not into bodies."""
    version, owner = divmod(number, SUBJECTS)
    return (
        f'{{"specversion":"1.0","id":"token.o{owner}.{version + 1}","source":"//b","type":"t/1",'
        f'"subject":"token/o{owner}","time":"2026-11-21T10:00:00.000Z","recordedtime":"2026-11-21T10:00:00.000Z",'
        f'"datacontenttype":"application/json","dataschema":"t","tenantid":"b","aggregateversion":{version + 1},'
        f'"causationid":"c{number}","data":{number}}}'
    ).encode()


@contextmanager
def big_log(tree_size: int) -> Iterator[BigLog]:
    """Build, lend, remove."""
    with tempfile.TemporaryDirectory(prefix="tally-bench-") as base:
        keyring = ensure_keys(Path(base) / "keys", TENANT)
        writer = LogWriter.open(Path(base) / "log", keyring, NOVEMBER_MS)
        for start in range(0, tree_size, APPENDED_AT_ONCE):
            writer.append([entry(number) for number in range(start, min(start + APPENDED_AT_ONCE, tree_size))])
        writer.close(NOVEMBER_MS)
        policy = (keyring.folder / POLICY).read_bytes()
        yield BigLog(Folder(Path(base) / "log"), parse_policy("policy", policy), policy, tree_size)
