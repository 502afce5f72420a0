"""What chain, leaf and tree cost beside three bare digests over the same bytes: pure computation on one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.measurement import Measurement
from ledger.builder import load_builder
from ledger.events import count_types
from ledger.files import Folder
from ledger.hashing import EMPTY_ROOT, FIRST_LINK, chain_links, leaf_hashes, perfect_root, tree_root
from ledger.tiles import TILE_WIDTH
from simulations.corruption import NOVEMBER_MS, sample_event

APPENDED_AT_ONCE: Final = 4_000


def signer_vs_hashlib(*, rounds: int, size: int) -> Measurement:
    """Processor time of three bare SHA-256 per event over that of leaf, chain and tree."""
    events = [sample_event(number, NOVEMBER_MS) for number in range(size // TILE_WIDTH * TILE_WIDTH or TILE_WIDTH)]
    inputs = _inputs(events)
    ratios, with_files, bare_s = [], [], []
    for _ in range(rounds):
        bare = _cpu_seconds(lambda: _digests(inputs))
        ours = _cpu_seconds(lambda: _leaf_chain_tree(events))
        ratios.append(bare / ours)
        with_files.append(bare / _integrate(events))
        bare_s.append(bare)
    return Measurement(
        value=round(median(ratios), 4),
        unit="of bare digests' rate",
        of="leaf, link and tree per event on one core; baseline: events/s of three bare SHA-256 over the same bytes",
        baseline=round(len(events) / median(bare_s), 1),
        details={
            "events": len(events),
            "bytes_per_event": round(sum(map(len, events)) / len(events), 1),
            "ratios": [round(ratio, 4) for ratio in ratios],
            "with_bundles_written_synced_and_read_back": round(median(with_files), 4),
            "measured": "processor time of one process",
        },
    )


def bare_digests_per_second(events: Sequence[bytes]) -> float:
    """Events/s of the three bare digests, by processor time."""
    inputs = _inputs(events)
    return round(len(events) / _cpu_seconds(lambda: _digests(inputs)), 1)


def _inputs(events: Sequence[bytes]) -> list[bytes]:
    """What the three digests of each event run over, laid out before the clock starts."""
    leaves = leaf_hashes(events)
    links = [FIRST_LINK, *chain_links(FIRST_LINK, leaves)]
    return [
        *(b"\x00" + event for event in events),
        *(b"\x02" + link + leaf for link, leaf in zip(links, leaves, strict=False)),
        *(b"\x01" + leaf + leaf for leaf in leaves),
    ]


def _digests(inputs: Sequence[bytes]) -> bytes:
    digest = sha256
    return [digest(each).digest() for each in inputs][-1]


def _leaf_chain_tree(events: Sequence[bytes]) -> bytes:
    """What the signer computes of each bundle (ledger/builder.py), without its files."""
    link, roots = FIRST_LINK, []
    for start in range(0, len(events), TILE_WIDTH):
        leaves = leaf_hashes(events[start : start + TILE_WIDTH])
        link = chain_links(link, leaves)[-1]
        roots.append(perfect_root(leaves))
    return tree_root(roots)


def _integrate(events: Sequence[bytes]) -> float:
    """Processor seconds of the whole integration into files."""
    with TemporaryDirectory(prefix="tally-bench-") as folder:
        builder = load_builder(Folder(Path(folder)), 0, EMPTY_ROOT, count_types)

        def integrate() -> Any:
            for start in range(0, len(events), APPENDED_AT_ONCE):
                builder.append(events[start : start + APPENDED_AT_ONCE])

        return _cpu_seconds(integrate)


def _cpu_seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
