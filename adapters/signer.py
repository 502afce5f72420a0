"""The signer: follows the event stream, integrates every event into the tenant's log, and signs its checkpoints.

A restart goes on from the last checkpoint: what was integrated beyond it is integrated again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from adapters.errors import TallyError
from adapters.key_services import key_opener
from adapters.published_log import log_dir_of
from adapters.root_keeper import start_keeper
from adapters.root_settings import RootsConfig, load_roots_config, trust_authorities
from adapters.settings import Settings
from adapters.witness_status import WitnessTeller
from bus.envelope import Recorded
from bus.follower import Position, StreamIdentity
from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.errors import ObjectMissing
from ledger.files import Folder, require
from ledger.hashing import leaf_hash
from ledger.keyfolder import POLICY
from ledger.keyring import ORIGIN_PREFIX, ensure_keys, load_keyring
from ledger.reader import LogReader
from ledger.tiles import CHECKPOINT, TILE_WIDTH
from ledger.writer import LogWriter

log = logging.getLogger(__name__)

STREAM_FILE: Final = ".stream"
SIGN_EVERY_MS: Final = 200
#: While events flow a checkpoint comes at least once a second, the time of a batch included.
SIGN_EVERY_MAX_MS: Final = 700
#: Signing waits for the disk and for key services: it gets a tenth of the time, the rest is for integrating.
SIGN_TIMES: Final = 10
#: So many events wait before they are integrated, so that many files are synced together; fewer only until the next
#: checkpoint. What comes in one more batch with them still makes at most 64 bundles, which are synced at one time.
ENTRIES_AT_ONCE: Final = 12_288
MANY_ENTRIES: Final = 1_024


def system_now_ms() -> int:
    return time.time_ns() // 1_000_000


class Signer:
    """A `Follower` with the published log as its sink; hashing and fsync run in a thread of their own."""

    name = "signer"
    apply_every_s = 0.1

    def __init__(self, settings: Settings, *, now_ms: Callable[[], int] = system_now_ms) -> None:
        self._settings = settings
        self._now_ms = now_ms
        self._writer: LogWriter | None = None
        self._waiting: list[bytes] = []
        self._is_flowing = False
        self._teller: WitnessTeller | None = None
        self._signed_at_ms = 0
        self._sign_every_ms = SIGN_EVERY_MS
        self._stop_keeping = threading.Event()

    async def open(self, tenant: str, stream: StreamIdentity) -> Position:
        """Take the tenant's log, close the months that ended, and return where it stands."""
        self._let_go()
        return await asyncio.to_thread(self._open, tenant, stream)

    def _open(self, tenant: str, stream: StreamIdentity) -> Position:
        prefix = os.environ.get("TALLY_ORIGIN", ORIGIN_PREFIX)
        opener = key_opener(os.environ)
        keyring = ensure_keys(self._settings.keys_dir, tenant, origin=f"{prefix}/{tenant}", opener=opener)
        log_dir = log_dir_of(self._settings, tenant)
        config = self._roots_config()
        if trust_authorities(keyring.folder, config):
            keyring = load_keyring(keyring.folder, opener)
        writer = LogWriter.open(log_dir, keyring, self._now_ms())
        self._writer, self._teller = writer, WitnessTeller(log_dir)
        folder = Folder(log_dir)
        created = _stream_created(folder)
        if created is None or writer.tree_size == 0:
            created = stream.created
            folder.replace(STREAM_FILE, _stream_file(stream))
        self._stop_keeping = threading.Event()
        start_keeper(tenant, log_dir, keyring.folder / POLICY, config, self._stop_keeping)
        return Position(stream_created=created, stream_seq=writer.tree_size, leaf_hash=writer.last_leaf.hex())

    def _roots_config(self) -> RootsConfig:
        """Who stamps and who keeps copies; what is wrong there is said, and signing goes on."""
        try:
            return load_roots_config(self._settings)
        except TallyError as err:
            log.warning("no time stamps and no copies: %s", err)
            return RootsConfig()

    async def apply(self, records: Sequence[Recorded]) -> None:
        """Take events that follow the last one; leaf index is stream sequence less one."""
        writer = self._require_open()
        expected = writer.tree_size + len(self._waiting) + 1
        # Every one: what a store lost, repeated or reordered must not shift the leaf indexes of what follows.
        for stream_seq, record in enumerate(records, expected):
            if record.stream_seq != stream_seq:
                got = f"the signer got event {record.stream_seq}, wanted {stream_seq}"
                raise TallyError(f"{got}: it opens the log anew")
        self._waiting += [record.body for record in records]
        self._is_flowing = True
        if len(self._waiting) >= ENTRIES_AT_ONCE:
            await asyncio.to_thread(writer.append, self._taken(writer, is_flowing=True))

    async def idle(self) -> None:
        """Sign what waits, one to five times a second, soon when no more came; closes a month when its time has come.

        Waits for no witness: what the quorum has cosigned by then is published.
        """
        now_ms = self._now_ms()
        is_flowing, self._is_flowing = self._is_flowing, False
        if abs(now_ms - self._signed_at_ms) >= (self._sign_every_ms if is_flowing else SIGN_EVERY_MS):
            self._signed_at_ms = now_ms
            writer = self._require_open()
            await asyncio.to_thread(self._sign, writer, self._taken(writer, is_flowing=is_flowing), now_ms)
            took_ms = self._now_ms() - now_ms
            self._sign_every_ms = min(max(SIGN_EVERY_MS, SIGN_TIMES * took_ms), SIGN_EVERY_MAX_MS)

    def _taken(self, writer: LogWriter, *, is_flowing: bool) -> list[bytes]:
        """What waits; while many come only whole bundles of it, as a partial one is written for one checkpoint."""
        count = len(self._waiting)
        whole = count - (writer.tree_size + count) % TILE_WIDTH
        if is_flowing and whole >= MANY_ENTRIES:
            count = whole
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _sign(self, writer: LogWriter, entries: list[bytes], now_ms: int) -> None:
        if entries:
            writer.append(entries)
        writer.sign(now_ms)
        if self._teller is not None:
            self._teller.tell(writer, now_ms)

    async def close(self) -> None:
        """Sign what waits and let go of the log."""
        writer, self._writer = self._writer, None
        self._stop_keeping.set()
        if writer is not None:
            waiting, self._waiting = self._waiting, []
            await asyncio.to_thread(self._close, writer, waiting, self._now_ms())

    @staticmethod
    def _close(writer: LogWriter, entries: list[bytes], now_ms: int) -> None:
        try:
            if entries:
                writer.append(entries)
        finally:
            writer.close(now_ms)

    def _require_open(self) -> LogWriter:
        if self._writer is None:
            raise TallyError("the signer has no log open: call open first")
        return self._writer

    def _let_go(self) -> None:
        self._stop_keeping.set()
        self._waiting = []
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None


def _stream_created(folder: Folder) -> str | None:
    data = folder.read(STREAM_FILE)
    if data is None:
        return None
    try:
        return str(json.loads(data)["created"])
    except (ValueError, KeyError, TypeError) as err:
        raise TallyError(
            f"{folder.root / STREAM_FILE} is unreadable: remove it if the log belongs to this stream"
        ) from err


def bind_log(settings: Settings, tenant: str, stream: StreamIdentity, restored: Checkpoint) -> str:
    """Let a log's signer go on with a stream into which all of its events were put back; returns what was done.

    The caller has compared the stream with the log of `restored`; the installation's own log must be that one.
    """
    folder = Folder(log_dir_of(settings, tenant))
    data = folder.read(CHECKPOINT)
    if data is None:
        return f"has no log: copy the restored one to {folder.root} before it starts, and its keys"
    checkpoint, _ = parse_checkpoint(CHECKPOINT, data)
    if checkpoint != restored:
        return f"was left alone: its log {folder.root} is at {checkpoint}, restored was {restored}"
    folder.replace(STREAM_FILE, _stream_file(stream))
    return f"goes on with {folder.root}, bound to the stream of {stream.created}"


def _stream_file(stream: StreamIdentity) -> bytes:
    return json.dumps({"name": stream.name, "created": stream.created}).encode()


async def read_position(settings: Settings, tenant: str) -> Position | None:
    """How far the signed log goes, None when there is none."""
    return await asyncio.to_thread(_read_position, Folder(log_dir_of(settings, tenant)))


def _read_position(folder: Folder) -> Position | None:
    try:
        checkpoint, _ = parse_checkpoint(CHECKPOINT, require(folder, CHECKPOINT))
    except ObjectMissing:
        return None
    size = checkpoint.tree_size
    last = leaf_hash(LogReader(folder, size).entry(size - 1)).hex() if size else ""
    return Position(stream_created=_stream_created(folder) or "", stream_seq=size, leaf_hash=last)
