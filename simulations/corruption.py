"""A published log damaged in thousands of ways, one at a time; an audit must find each and name the object.

The log is a real one: events in their canonical form, signed by the signer's own code over two months, with full and
partial tiles of several widths. Each case has its own seed, so that one can be looked at again.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from bus.envelope import EventWriter
from domain.token import TokensMinted
from domain.values import to_time
from ledger.audit import audit_log
from ledger.errors import LedgerError
from ledger.files import Folder
from ledger.keyfolder import POLICY
from ledger.keyring import ensure_keys
from ledger.months import ROOTS
from ledger.policy import Policy, parse_policy
from ledger.tiles import CHAIN, CHECKPOINT, ENTRIES, LEVEL_MAX, all_tiles
from ledger.writer import LogWriter

TENANT: Final = "corruption"
NOVEMBER_MS: Final = 1_795_255_200_000  # 2026-11-21T10:00:00Z
DECEMBER_MS: Final = NOVEMBER_MS + 20 * 86_400_000
SIZES: Final = ((NOVEMBER_MS, (100, 257)), (DECEMBER_MS, (300, 530)))
OWNERS: Final = 9
CASES_AT_ONCE: Final = 100


class Damage(NamedTuple):
    """One case: what was done, and to which files; None in `after` is a file that was removed."""

    number: int
    kind: str
    after: dict[str, bytes | None]

    @property
    def told(self) -> str:
        return f"case {self.number}: {self.kind} {' and '.join(self.after)}"


class Outcome(NamedTuple):
    """Kinds of damage that were tried; cases that were missed, crashed the audit, or were not named."""

    tried: Counter[str]
    missed: list[str]
    crashed: list[str]
    unnamed: list[str]

    @property
    def ok(self) -> bool:
        return not (self.missed or self.crashed or self.unnamed)


class Log:
    """A whole log on the disk with its policy; `damaged` puts a case in place for a moment."""

    def __init__(self, folder: Folder, policy: Policy) -> None:
        self.folder = folder
        self.policy = policy
        self.files = {path: folder.read(path) or b"" for path in folder.walk()}
        size = audit_log(folder, policy).checkpoint.checkpoint.tree_size
        levels = (ENTRIES, CHAIN, *range(LEVEL_MAX + 1))
        tiles = {tile.path for level in levels for tile in all_tiles(level, size)}
        #: What the checkpoint or a month needs; older partial tiles may be removed, but not altered.
        self.needed = sorted(tiles | {path for path in self.files if path == CHECKPOINT or path.startswith(ROOTS)})

    def audit_damaged(self, damage: Damage) -> LedgerError | None:
        """What the audit says of a case; the log is whole again afterwards."""
        try:
            for path, data in damage.after.items():
                self._put(path, data)
            audit_log(self.folder, self.policy)
        except LedgerError as err:
            return err
        finally:
            for path in damage.after:
                self._put(path, self.files[path])
        return None

    def _put(self, path: str, data: bytes | None) -> None:
        target = self.folder.root / path
        if data is None:
            target.unlink()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def publish(base: Path) -> None:
    """Make the log and its keys below a folder."""
    keyring = ensure_keys(base / "keys", TENANT)
    at = 0
    for now_ms, sizes in SIZES:
        writer = LogWriter.open(base / "log", keyring, now_ms)
        for size in sizes:
            writer.append([sample_event(number, now_ms) for number in range(at, size)])
            writer.sign(now_ms)
            at = size
        writer.close(now_ms)


def load(base: Path) -> Log:
    policy = base / "keys" / TENANT / POLICY
    return Log(Folder(base / "log"), parse_policy(f"policy {policy}", policy.read_bytes()))


def sample_event(number: int, now_ms: int, *, tenant: str = TENANT, owners: int = OWNERS) -> bytes:
    """An event of an account; the accounts take turns."""
    version, owner = divmod(number, owners)
    minted = TokensMinted(amount=number + 1, balance=(version + 1) * 1_000 + number, reason=f"race {number} ☃")
    time = to_time(now_ms)
    event_id, name = f"token.o{owner}.{version + 1}", f"token/o{owner}"
    return EventWriter(tenant, time).body(event_id, name, version + 1, minted, time, f"c{number}")[1]


# damage


def _flip(data: bytes, dice: random.Random) -> bytes:
    bad = bytearray(data)
    for bit in dice.sample(range(len(data) * 8), dice.choice((1, 1, 1, 2, 5))):
        bad[bit // 8] ^= 1 << bit % 8
    return bytes(bad)


def _truncate(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data))]


def _append(data: bytes, dice: random.Random) -> bytes:
    return data + dice.choice((dice.randbytes(dice.randint(1, 64)), data, b"\n", bytes(32)))


def _overwrite(data: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(data))
    length = dice.randint(1, len(data) - start)
    return data[:start] + dice.choice((bytes(length), dice.randbytes(length))) + data[start + length :]


def _exchange(data: bytes, dice: random.Random) -> bytes:
    """Two pieces of one file change places: hashes, entries, lines."""
    length = dice.choice((1, 2, 32, 100))
    if len(data) < 2 * length:
        return _flip(data, dice)
    one, other = sorted((dice.randrange(len(data) - 2 * length + 1), dice.randrange(len(data) - 2 * length + 1)))
    other += length
    return (
        b"".join((data[:one], data[other : other + length], data[one + length : other], data[one : one + length]))
        + (data[other + length :])
    )


def _drop(data: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(data))
    return data[:start] + data[start + dice.choice((1, 32, 200)) :]


WITHIN: Final[dict[str, Callable[[bytes, random.Random], bytes]]] = {
    "flipped bits in": _flip,
    "cut off": _truncate,
    "bytes appended to": _append,
    "overwritten a part of": _overwrite,
    "exchanged two parts of": _exchange,
    "a part dropped from": _drop,
}
KINDS: Final = ("flipped bits in", *WITHIN, "removed", "swapped")


def damage(log: Log, seed: int, number: int) -> Damage:
    """The case of a number: each differs from the whole log."""
    dice = random.Random(f"{seed}/{number}")
    while True:
        kind = dice.choice(KINDS)
        if kind == "removed":
            return Damage(number, kind, {dice.choice(log.needed): None})
        if kind == "swapped":
            one, other = dice.sample(sorted(log.files), 2)
            if log.files[one] != log.files[other]:
                return Damage(number, kind, {one: log.files[other], other: log.files[one]})
            continue
        path = dice.choice(sorted(log.files))
        bad = WITHIN[kind](log.files[path], dice)
        if bad != log.files[path]:
            return Damage(number, kind, {path: bad})


# the run


def run(cases: int, seed: int, *, jobs: int = 1, show: Callable[[int, int], None] | None = None) -> Outcome:
    """Try so many cases; what is found out is independent of the number of processes."""
    outcome = Outcome(Counter(), [], [], [])
    with TemporaryDirectory(prefix="tally-corruption-") as scratch:
        base = Path(scratch) / "whole"
        publish(base)
        done = 0
        for part in _parts(base, cases, seed, jobs):
            outcome.tried.update(part.tried)
            for mine, theirs in zip(outcome[1:], part[1:], strict=True):
                mine.extend(theirs)
            done += part.tried.total()
            if show:
                show(done, cases)
    return outcome


def _parts(base: Path, cases: int, seed: int, jobs: int) -> Iterator[Outcome]:
    ranges = [(start, min(start + CASES_AT_ONCE, cases)) for start in range(0, cases, CASES_AT_ONCE)]
    if jobs == 1:
        yield from (try_cases(base, seed, *each) for each in ranges)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(try_cases, [base] * len(ranges), [seed] * len(ranges), *zip(*ranges, strict=True))


def try_cases(base: Path, seed: int, start: int, end: int) -> Outcome:
    """Try the cases `[start, end)` on a copy of the log."""
    outcome = Outcome(Counter(), [], [], [])
    with TemporaryDirectory(prefix="tally-corruption-", dir=base.parent) as scratch:
        shutil.copytree(base, Path(scratch) / "copy")
        log = load(Path(scratch) / "copy")
        for number in range(start, end):
            case = damage(log, seed, number)
            outcome.tried[case.kind] += 1
            try:
                found = log.audit_damaged(case)
            except Exception as err:  # noqa: BLE001 - a traceback in place of a finding is what is looked for
                outcome.crashed.append(f"{case.told}: {type(err).__name__}: {err}")
                continue
            if found is None:
                outcome.missed.append(case.told)
            elif not is_named(str(found), case):
                outcome.unnamed.append(f"{case.told}: {found}")
    return outcome


def is_named(message: str, case: Damage) -> bool:
    """Whether the message is one line that names a damaged file, or the month whose statement it is."""
    names = set(case.after)
    for path in case.after:
        if path.startswith(f"{ROOTS}/"):
            names |= {f"certificate of {path[6:13]}", f"provisional root of {path[6:13]}", f"{ROOTS}/"}
    return "\n" not in message and any(name in message for name in names)
