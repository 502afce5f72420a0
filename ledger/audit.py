"""Auditing a published log: everything is computed again from the entries and compared with what is published.

Every byte of every file matters: entry bundles, hash tiles, chain, checkpoint, certificates, and partial tiles that are
still there. Files beyond the checkpoint are not promised yet and only counted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Final

from ledger.beside import (
    checkpoint_path,
    is_beside,
    read_stamps,
    require_closing,
    require_frozen,
    require_no_strangers,
    require_stamps,
    verify_stamps,
)
from ledger.checkpoint import Checkpoint
from ledger.errors import LogDamaged, Malformed, MonthFailed, ObjectMissing, excerpt
from ledger.files import Folder, Source, require
from ledger.hashing import HASH_BYTES
from ledger.history import require_later, require_same_beginning
from ledger.index import index_head
from ledger.keyaudit import keys_claim, require_month_keys
from ledger.months import (
    ROOTS,
    MonthStatement,
    certificate_path,
    open_month,
    provisional_path,
    require_successor,
    split_root_name,
)
from ledger.policy import OpenedCheckpoint, Policy
from ledger.progress import AuditProgress, Kind, ProgressFile, State
from ledger.reader import LogReader
from ledger.receipt import Claim, checkpoint_claim, stamp_claims
from ledger.replay import BLOCK_ENTRIES, Progress, Replay
from ledger.tiles import (
    CHAIN,
    CHECKPOINT,
    ENTRIES,
    TILE_BITS,
    TILE_WIDTH,
    Tile,
    decode_bundle,
    encode_bundle,
    parse_tile,
    tile_at,
)
from ledger.times import CLOCK_SKEW_S, Moment, time_windows

_READ_AGAIN: Final = 3
_PAUSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found to hold."""

    checkpoint: OpenedCheckpoint
    link: bytes
    months: tuple[MonthStatement, ...]
    counts: Counter[str]
    claims: tuple[Claim, ...]


def audit_log(
    source: Source,
    policy: Policy,
    *,
    is_plain: bool = False,
    known: OpenedCheckpoint | None = None,
    progress: Progress | None = None,
    jobs: int = 1,
    clock_skew_s: int = CLOCK_SKEW_S,
    progress_file: ProgressFile | None = None,
) -> AuditReport:
    """Audit a log against a policy; raises the `LedgerError` that names the first thing that does not match.

    `is_plain`: a C2SP log that is not ours, without chain, months and rules for its entries.
    `known`: a checkpoint of an earlier audit, which this log must extend.
    `jobs`: number of processes that hash and parse.
    `clock_skew_s`: how far times in events may be off from those of the checkpoints around them.
    `progress_file`: where an interrupted audit goes on, and what is kept should this one be interrupted.
    """
    # Months before checkpoint: what a live log signs in between is then beyond them, never beneath.
    require(source, CHECKPOINT)
    months = [] if is_plain else _read_months(source, policy)
    opened = policy.open(CHECKPOINT, require(source, CHECKPOINT))
    size = opened.checkpoint.tree_size
    if known is not None:
        require_later(known, opened)
    earlier = progress_file.load() if progress_file else None
    seen = None if earlier is None else policy.open("checkpoint of the interrupted audit", earlier.checkpoint)
    remembered = [checkpoint for checkpoint in (known, seen) if checkpoint is not None]
    if seen is not None:
        require_later(seen, opened)
    cuts = [month.closing.tree_size for month in months] + [each.checkpoint.tree_size for each in remembered]
    replay = _prepare(source, opened, cuts, earlier, progress_file, is_plain=is_plain)
    resumed_at = replay.known.entries
    moments = [*_moments(months, [opened, *remembered], policy), *_stamped_moments(source, months, policy)]
    replay.require_times(time_windows(moments, size, clock_skew_s))
    limit = size if is_plain else max(month.closing.tree_size for month in months)
    try:
        _run(replay, progress or (lambda _done, _total: None), jobs, progress_file, opened.note, limit)
        try:
            _require_root(opened.checkpoint, replay.states[size].root)
            replay.require_once()
        finally:
            if progress_file is not None:
                progress_file.remove()  # what does not hold from here on holds for nothing that was read before
    finally:
        replay.close()
    final = replay.states[size]
    claims = [checkpoint_claim(opened), *_replay_claims(replay, size, resumed_at, is_plain=is_plain)]
    for each in remembered:
        require_same_beginning(each.checkpoint, replay.states[each.checkpoint.tree_size].root)
    if known is not None:
        claims.append(Claim("history", f"extends the checkpoint of an earlier audit, {known.checkpoint}"))
    if not is_plain:
        claims.append(keys_claim(policy, opened.checkpoint, replay.known.key_entries))
    now_seconds = opened.at_seconds if policy.now_seconds is None else policy.now_seconds
    claims += _month_claims(source, policy, months, replay.states, now_seconds)
    if isinstance(source, Folder):
        claims.append(_sweep(source, size, is_plain=is_plain))
    return AuditReport(opened, final.link, tuple(months), _per_type(final.kinds), tuple(claims))


def _prepare(
    source: Source,
    opened: OpenedCheckpoint,
    cuts: list[int],
    earlier: AuditProgress | None,
    file: ProgressFile | None,
    *,
    is_plain: bool,
) -> Replay:
    """A replay that keeps the states at `cuts`, from where an earlier audit stopped if it can go on there."""
    scratch = file.scratch if file else None
    replay = Replay(
        source, opened.checkpoint, is_plain=is_plain, resumed=earlier.replayed if earlier else None, scratch=scratch
    )
    replay.keep(cuts)
    if replay.misses_a_state:  # a month or a checkpoint that the interrupted audit did not know of: begin again
        replay = Replay(source, opened.checkpoint, is_plain=is_plain, scratch=scratch)
        replay.keep(cuts)
    return replay


def _require_root(checkpoint: Checkpoint, found: bytes) -> None:
    if found != checkpoint.root:
        raise LogDamaged(
            f"{CHECKPOINT}, root of size {checkpoint.tree_size}",
            expected=f"{checkpoint.root.hex()} as signed",
            found=f"{found.hex()} from the entries",
        )


def _moments(months: list[MonthStatement], checkpoints: list[OpenedCheckpoint], policy: Policy) -> Iterator[Moment]:
    """Tree size and times of every checkpoint that is known here."""
    states = (state for month in months for state in (month.opening, month.closing))
    for opened in (*(policy.open("month", state.checkpoint) for state in states), *checkpoints):
        yield Moment(opened.checkpoint.tree_size, opened.log_at_seconds, opened.at_seconds)


def _stamped_moments(source: Source, months: list[MonthStatement], policy: Policy) -> Iterator[Moment]:
    """When each closed month was there at the latest, as the authorities say that the policy names."""
    for month in (month for month in months if not month.is_provisional):
        stamps = verify_stamps(
            checkpoint_path(month.month), month, read_stamps(source, month.month, policy), policy
        ).values()
        for latest in (stamp.at + stamp.accuracy for stamp in stamps if stamp is not None):
            yield Moment(month.closing.tree_size, None, ceil(latest.timestamp()))


def _run(replay: Replay, progress: Progress, jobs: int, file: ProgressFile | None, note: bytes, limit: int) -> None:
    """Replay; what was read is remembered, at most up to `limit`: later months may ask for a state beyond it."""
    if file is None:
        replay.run(progress, jobs)
        return

    def remember(done: int, total: int) -> None:
        progress(done, total)
        is_last = done + BLOCK_ENTRIES > limit
        if replay.known.entries == done <= limit and (is_last or file.is_due()):
            file.save(note, replay.settled())

    try:
        replay.run(remember, jobs)
    except BaseException:
        if replay.is_settled and replay.known.entries <= limit:
            file.save(note, replay.settled())
        raise


def _replay_claims(replay: Replay, tree_size: int, resumed_at: int, *, is_plain: bool) -> list[Claim]:
    before = f" ({resumed_at} of them before it was interrupted)" if resumed_at else ""
    entries = f"{tree_size} entries hashed again{before}"
    tiles = Claim("tiles", "every hash tile as computed")
    if is_plain:
        return [Claim("entries", entries), tiles]
    return [
        Claim("entries", f"{entries}, canonical, versions of {replay.subjects} subjects without a gap"),
        tiles,
        Claim("chain", f"every link as computed, head {replay.link.hex()}"),
        Claim("commands", f"{replay.commands} commands and batches, each at one place of the log"),
    ]


# months


def _read_roots(source: Source) -> dict[str, bytes | None]:
    """The files of the months by name, read again when a month closes under our eyes."""
    for attempt in range(_READ_AGAIN):
        names = source.names(ROOTS)
        contents = {name: source.read(f"{ROOTS}/{name}") for name in names if not name.startswith(".")}
        is_settled = all(data is not None for data in contents.values()) and source.names(ROOTS) == names
        if is_settled and (isinstance(source, Folder) or _is_whole(names)):
            break
        if is_settled and attempt < _READ_AGAIN - 1:  # an object store changes one file after the other
            time.sleep(_PAUSE_S * (attempt + 1))
    return contents


def _is_whole(names: list[str]) -> bool:
    """Whether there is one provisional root, later than every certificate."""
    found = [parsed for name in names if (parsed := split_root_name(name)) is not None]
    open_months = [month for month, is_provisional in found if is_provisional]
    return len(open_months) == 1 and all(month < open_months[0] for month, is_open in found if not is_open)


def _read_months(source: Source, policy: Policy) -> list[MonthStatement]:
    """Certificates in order, then the provisional root."""
    found: list[tuple[str, bool, bytes]] = []
    beside: list[str] = []
    for name, data in _read_roots(source).items():
        if is_beside(name):
            beside.append(name)
            continue
        parsed = split_root_name(name)
        if parsed is None or data is None:
            raise LogDamaged(f"{ROOTS}/{name}", expected="a certificate or a provisional root", found="neither")
        found.append((*parsed, data))
    months: list[MonthStatement] = []
    for month, is_provisional, data in sorted(found):
        path = provisional_path(month) if is_provisional else certificate_path(month)
        statement = open_month(path, data, policy)
        if (statement.month, statement.is_provisional) != (month, is_provisional):
            raise MonthFailed(path, expected=f"a statement of {month}", found=statement.name)
        previous = months[-1] if months else None
        if previous is not None and previous.is_provisional:
            raise MonthFailed(
                path, expected=f"nothing after the provisional root of {previous.month}", found=statement.name
            )
        require_successor(path, statement, previous)
        months.append(statement)
    if not months or not months[-1].is_provisional:
        raise ObjectMissing(f"{ROOTS}/", expected="the provisional root of the open month", found="none")
    require_no_strangers(beside, months)
    return months


def _month_claims(
    source: Source, policy: Policy, months: list[MonthStatement], states: dict[int, State], now_seconds: int | None
) -> Iterator[Claim]:
    reader = LogReader(source, max(states))
    for month in months:
        require_month_keys(policy, month)
        yield _check_month(month, states, reader)
        yield from _check_beside(month, reader, policy, now_seconds)


def _check_month(month: MonthStatement, states: dict[int, State], reader: LogReader) -> Claim:
    opening, closing = month.opening.tree_size, month.closing.tree_size
    if closing not in states:
        raise MonthFailed(
            f"{month.name}, closing size", expected=f"at most {max(states)}, the checkpoint's", found=closing
        )
    first, last = states[opening], states[closing]
    if last.root != month.closing_root:
        raise MonthFailed(
            f"{month.name}, root", expected=f"{last.root.hex()} from the entries", found=month.closing_root.hex()
        )
    if (first.link, last.link) != (month.opening.link, month.closing.link):
        raise MonthFailed(
            f"{month.name}, chain",
            expected=f"{first.link.hex()} to {last.link.hex()} from the entries",
            found=f"{month.opening.link.hex()} to {month.closing.link.hex()}",
        )
    kinds = last.kinds - first.kinds
    counts = _per_type(kinds)
    if counts != Counter(month.counts):
        wrong = sorted(name for name in {*counts, *month.counts} if counts[name] != month.counts.get(name, 0))
        raise MonthFailed(
            f"{month.name}, counts of {wrong[0]}",
            expected=f"{counts[wrong[0]]} in the entries",
            found=month.counts.get(wrong[0], 0),
        )
    if month.index is not None:
        index = index_head(lambda: reader.entries(opening, closing), closing - opening)
        if index != month.index:
            raise MonthFailed(
                f"{month.name}, index",
                expected=f"root {index.root.hex()} over {index.subjects} subjects, from the entries",
                found=f"{month.index.root.hex()} over {month.index.subjects}",
            )
    late = sum(count for (_, recorded), count in kinds.items() if recorded != month.month)
    outside = f" ({late} say that they were recorded in another month)" if late else ""
    root = month.closing_root.hex()
    return Claim("month", f"{month.name}: {closing - opening} events{outside}, size {closing}, root {root}")


def _check_beside(month: MonthStatement, reader: LogReader, policy: Policy, now_seconds: int | None) -> list[Claim]:
    if month.is_provisional:
        require_frozen(month, reader, policy)
        return []
    path = checkpoint_path(month.month)
    require_closing(path, require(reader.source, path), month)
    stamps = verify_stamps(path, month, read_stamps(reader.source, month.month, policy), policy)
    require_stamps(month, stamps, policy, now_seconds)
    return list(stamp_claims(month, stamps, policy))


def _per_type(kinds: Counter[Kind]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (name, _), count in kinds.items():
        counts[name] += count
    return counts


# files that nobody asked for


def _sweep(folder: Folder, tree_size: int, *, is_plain: bool) -> Claim:
    """Every file is a part of the log: older partial tiles agree with the fuller ones, nothing else lies about."""
    reader = LogReader(folder, tree_size)
    files = beyond = 0
    for path in folder.walk():
        files += 1
        if path == CHECKPOINT or path.startswith(f"{ROOTS}/"):
            continue
        try:
            tile = parse_tile(path)
        except Malformed as err:
            raise LogDamaged(path, expected="a file of the log", found="one that is no part of it") from err
        if tile.level == CHAIN and is_plain:
            continue
        hashes = tree_size >> (TILE_BITS * max(tile.level, 0))
        if tile.number * TILE_WIDTH + tile.width > hashes:
            beyond += 1
        elif tile.width < TILE_WIDTH:
            _check_partial(folder, reader, tile)
    unsigned = f", {beyond} of them not yet under the checkpoint" if beyond else ""
    return Claim("files", f"{files} files, each a part of the log{unsigned}")


def _check_partial(folder: Folder, reader: LogReader, tile: Tile) -> None:
    stored = folder.read(tile.path)
    if stored is None:  # removed meanwhile: its full tile came
        return
    fuller = tile_at(tile.level, tile.number, reader.tree_size)
    if tile.level == ENTRIES:
        decode_bundle(tile.path, stored, tile.width)
        expected = encode_bundle(reader.bundle(tile.number)[: tile.width])
    else:
        expected = reader.tile_bytes(fuller)[: tile.width * HASH_BYTES]
    if stored != expected:
        raise LogDamaged(tile.path, expected=f"the beginning of {excerpt(fuller.path)}", found="other bytes")
