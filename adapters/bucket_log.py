"""A log in a bucket, byte for byte as in its folder, in the order that lets anybody audit it at any moment.

Whole bundles, chain files and tiles first; then the partial ones of one signed checkpoint; then that checkpoint, on
the condition that the one which it follows is still there; then monthly roots that it covers; last, partial files
that are not needed any more go away. A kill between any two requests leaves a log that holds, and what was put is
noted (`bucket_state`). Something else than our own history in the bucket is an alarm, never written over.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from threading import Event
from typing import Final, NamedTuple

from adapters.bucket_state import BucketState, read_state, signed_ms_of, write_state
from adapters.errors import CheckFailed, TallyError
from adapters.root_settings import Publication, store_place
from adapters.s3 import ABSENT, NO_BUCKET, TAKEN, Bucket, StoreFailed
from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.errors import HistoryForked, LedgerError, LogDamaged
from ledger.files import Folder
from ledger.hashing import leaf_hashes
from ledger.months import ROOTS, split_root_name
from ledger.reader import LogReader
from ledger.tiles import (
    CHAIN,
    CHECKPOINT,
    ENTRIES,
    LEVEL_MAX,
    TILE_BITS,
    TILE_WIDTH,
    Tile,
    encode_bundle,
    join_hashes,
    parse_tile,
    right_edge,
    tile_at,
)

REQUESTS_AT_ONCE: Final = 8
BLOCK_ENTRIES: Final = 64 * TILE_WIDTH
DELETE_AT_ONCE: Final = 1_000
#: What a path holds never changes, whatever the width of a tile; two kinds of files are replaced.
IMMUTABLE: Final = "public, max-age=31536000, immutable"
SHORT: Final = "public, max-age=1"
_TEXT: Final = "text/plain; charset=utf-8"
_TYPES: Final = {".checkpoint": _TEXT, ".json": "application/json", ".tsr": "application/timestamp-reply"}


class _There(NamedTuple):
    """The checkpoint in the bucket, with the mark by which the store knows it; None for no checkpoint."""

    checkpoint: Checkpoint | None
    note: bytes
    mark: str


class _Stopped(Exception):
    pass


class BucketLog:
    """One tenant's log in a bucket; one of these at a time for a folder."""

    def __init__(self, bucket: Bucket, publication: Publication, tenant: str, folder: Folder) -> None:
        self._bucket = bucket
        self._folder = folder
        self._place = store_place(publication, tenant)
        self._prefix = self._place.removeprefix(f"s3://{publication.bucket}").lstrip("/")
        self._there: _There | None = None

    def publish(self, stop: Event) -> bool:
        """Bring the bucket to the checkpoint in the folder; returns whether it got there before `stop`.

        Raises `StoreFailed`, or `CheckFailed` and `LedgerError` when somebody has to look; all are noted.
        """
        try:
            self._publish(stop)
        except _Stopped:
            return False
        except (TallyError, LedgerError) as err:
            self._there = None
            self._note_failure(err)
            raise
        return True

    def forget(self) -> None:
        """Ask the store again what it has: others can write there too."""
        self._there = None

    def _publish(self, stop: Event) -> None:
        # Roots before the checkpoint: what is signed in between is then beyond them, never beneath.
        roots = self._read_roots()
        note = self._folder.read(CHECKPOINT)
        if note is None:
            return
        signed_ms = signed_ms_of(self._folder)
        ours = parse_checkpoint(CHECKPOINT, note)[0]
        before = read_state(self._folder, self._place)
        if self._is_done(before, note, roots):
            return
        there = self._there or self._ask_there()
        self._require_extended(there, ours)
        state = self._trusted(before, there) or self._begin(roots)
        reader = LogReader(self._folder, ours.tree_size)
        with ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="bucket") as pool:
            self._put_whole(pool, reader, state, stop)
            edge = right_edge(ours.tree_size)
            state.partials = sorted({*state.partials, *(tile.path for tile in edge)})
            self._save(state)
            self._put_tiles(pool, reader, edge)
        if there.checkpoint is None:  # a log begins with its first month
            self._put_roots(state, roots)
        self._put_checkpoint(there, ours, note)
        state.tree_size, state.signed_ms = ours.tree_size, signed_ms
        state.problem = state.alarm = ""
        self._save(state)
        self._put_roots(state, roots)
        self._remove_partials(state, ours.tree_size)
        self._save(state)

    def _is_done(self, state: BucketState | None, note: bytes, roots: dict[str, bytes]) -> bool:
        if state is None or self._there is None or state.problem or state.alarm:
            return False
        return self._there.note == note and state.roots == {name: _digest(data) for name, data in roots.items()}

    # what is there

    def _ask_there(self) -> _There:
        place = f"{self._place}/{CHECKPOINT}"
        try:
            found = self._bucket.ask("get_object", Key=self._key(CHECKPOINT))
        except StoreFailed as err:
            if err.status != ABSENT or err.code == NO_BUCKET:
                raise
            return _There(None, b"", "")
        note = self._bucket.body(place, found)
        return _There(parse_checkpoint(place, note)[0], note, found["ETag"])

    def _require_extended(self, there: _There, ours: Checkpoint) -> None:
        """Raises `HistoryForked` unless the folder's log goes on from what is published in the bucket."""
        theirs = there.checkpoint
        if theirs is None:
            return
        what = f"{self._place}/{CHECKPOINT}"
        if theirs.origin != ours.origin:
            raise HistoryForked(f"{what}: another log stands there", expected=ours.origin, found=theirs.origin)
        if theirs.tree_size > ours.tree_size:
            raise HistoryForked(f"{what}: the folder was set back", expected=f"at most {ours}", found=theirs)
        root = LogReader(self._folder, ours.tree_size).root(theirs.tree_size)
        if root != theirs.root:
            raise HistoryForked(f"{what}: another history", expected=f"root {root.hex()}", found=theirs)

    def _trusted(self, state: BucketState | None, there: _There) -> BucketState | None:
        """What is noted, unless the bucket was emptied or set back since."""
        if state is None or (state.tree_size is None and not state.whole):
            return None
        size_there = there.checkpoint.tree_size if there.checkpoint else None
        if state.tree_size is not None and (size_there is None or size_there < state.tree_size):
            return None
        if size_there is None and state.whole and not self._has(Tile(ENTRIES, state.whole // TILE_WIDTH - 1).path):
            return None
        return state

    def _has(self, path: str) -> bool:
        try:
            self._bucket.ask("head_object", Key=self._key(path))
        except StoreFailed as err:
            if err.status == ABSENT:
                return False
            raise
        return True

    def _begin(self, roots: dict[str, bytes]) -> BucketState:
        """Nothing is known: all is put again, and provisional roots that the folder has no longer go away."""
        state = BucketState(place=self._place)
        page = self._bucket.ask("list_objects_v2", Prefix=self._key(f"{ROOTS}/"))
        names = (item["Key"].rpartition("/")[2] for item in page.get("Contents", ()))
        state.roots = {name: "" for name in names if name not in roots and _is_provisional(name)}
        return state

    # what is put

    def _put_whole(self, pool: ThreadPoolExecutor, reader: LogReader, state: BucketState, stop: Event) -> None:
        end = reader.tree_size // TILE_WIDTH * TILE_WIDTH
        while state.whole < end:
            if stop.is_set():
                raise _Stopped
            upto = min(state.whole + BLOCK_ENTRIES, end)
            self._put_tiles(pool, reader, list(_whole_tiles(state.whole, upto)))
            state.whole = upto
            self._save(state)

    def _put_tiles(self, pool: ThreadPoolExecutor, reader: LogReader, tiles: list[Tile]) -> None:
        def put(tile: Tile) -> None:
            self._put(tile.path, _tile_data(reader, tile), "application/octet-stream", IMMUTABLE)

        for _ in pool.map(put, tiles):
            pass

    def _put_checkpoint(self, there: _There, ours: Checkpoint, note: bytes) -> None:
        if there.note == note:
            self._there = there
            return
        condition = {"IfMatch": there.mark} if there.checkpoint else {"IfNoneMatch": "*"}
        try:
            mark = self._put(CHECKPOINT, note, _TEXT, SHORT, **condition)
        except StoreFailed as err:
            if err.status not in {ABSENT, *TAKEN}:
                raise
            raise StoreFailed(f"{self._place}/{CHECKPOINT}: somebody changed it meanwhile; looked at again") from err
        self._there = _There(ours, note, mark)

    def _put_roots(self, state: BucketState, roots: dict[str, bytes]) -> None:
        """Put what is new of the months, certificates first; a provisional root goes when its certificate is there."""
        for name in sorted(roots, key=lambda each: (_is_provisional(each), each)):
            data = roots[name]
            known, digest = state.roots.get(name), _digest(data)
            if known == digest:
                continue
            if known and not _is_provisional(name):
                raise CheckFailed(
                    f"{self._place}/{ROOTS}/{name}: the log's file is not the one that was published "
                    f"(SHA-256 {known[:16]}… there, {digest[:16]}… here): one of them was changed"
                )
            kind = next((kind for end, kind in _TYPES.items() if name.endswith(end)), "application/octet-stream")
            self._put(f"{ROOTS}/{name}", data, kind, SHORT if _is_provisional(name) else IMMUTABLE)
            state.roots[name] = digest
        for name in [name for name in state.roots if name not in roots and _is_provisional(name)]:
            self._delete([f"{ROOTS}/{name}"])
            del state.roots[name]

    def _remove_partials(self, state: BucketState, tree_size: int) -> None:
        """Partial files may go when their full one is under the checkpoint (tlog-tiles)."""
        done = [path for path in state.partials if _is_whole(parse_tile(path), tree_size)]
        for at in range(0, len(done), DELETE_AT_ONCE):
            self._delete(done[at : at + DELETE_AT_ONCE])
        state.partials = [path for path in state.partials if path not in set(done)]

    def _put(self, path: str, data: bytes, kind: str, cached: str, **condition: str) -> str:
        """Put one object; returns the mark by which the store knows it."""
        answer = self._bucket.ask(
            "put_object", Key=self._key(path), Body=data, ContentType=kind, CacheControl=cached, **condition
        )
        return str(answer["ETag"])

    def _delete(self, paths: list[str]) -> None:
        objects = [{"Key": self._key(path)} for path in paths]
        answer = self._bucket.ask("delete_objects", Delete={"Objects": objects, "Quiet": True})
        for error in answer.get("Errors", ()):
            raise StoreFailed(f"s3://{self._bucket.name}/{error['Key']} cannot be deleted: {error['Message']}")

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    # the folder

    def _read_roots(self) -> dict[str, bytes]:
        names = [name for name in self._folder.names(ROOTS) if not name.startswith(".")]
        found = {name: self._folder.read(f"{ROOTS}/{name}") for name in names}
        return {name: data for name, data in found.items() if data is not None}

    def _save(self, state: BucketState) -> None:
        if state != read_state(self._folder, self._place):
            write_state(self._folder, state)

    def _note_failure(self, err: Exception) -> None:
        is_alarm = isinstance(err, CheckFailed | LedgerError)
        state = read_state(self._folder, self._place) or BucketState(place=self._place)
        self._save(replace(state, problem=str(err), alarm=str(err) if is_alarm else ""))


def _whole_tiles(start: int, end: int) -> Iterator[Tile]:
    """Every file that is full at `end` entries and was not at `start`."""
    for level in (ENTRIES, CHAIN, *range(LEVEL_MAX + 1)):
        bits = TILE_BITS * (max(level, 0) + 1)
        yield from (Tile(level, number) for number in range(start >> bits, end >> bits))


def _is_whole(tile: Tile, tree_size: int) -> bool:
    return (tile.number + 1) << (TILE_BITS * (max(tile.level, 0) + 1)) <= tree_size


def _tile_data(reader: LogReader, tile: Tile) -> bytes:
    """The bytes of a file of the log; a bundle that does not give its hashes is not put."""
    if tile.level != ENTRIES:
        return reader.tile_bytes(tile)
    entries = reader.bundle(tile.number)
    if join_hashes(leaf_hashes(entries)) != reader.tile_bytes(tile_at(0, tile.number, reader.tree_size)):
        raise LogDamaged(tile.path, expected="the entries that its hash tile says", found="others: not published")
    return encode_bundle(entries)


def _is_provisional(name: str) -> bool:
    found = split_root_name(name)
    return found is not None and found[1]


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()
