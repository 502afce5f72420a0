"""Comparing the analytics table with the published log: each row, made an event again, must be the entry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
from pyiceberg.table import Table

from adapters.errors import TallyError
from adapters.iceberg import rows_of
from adapters.iceberg_table import IcebergSettings, events_table, position_of
from ledger.copies import CopyComparison
from ledger.files import Source
from ledger.policy import OpenedCheckpoint
from ledger.reader import LogReader
from ledger.receipt import Claim
from projections.analytics import body_of

#: Rows come in any order, so a range of sequences is held at once; this bounds the memory.
ROWS_AT_ONCE: Final = 200_000


def compare_lake(settings: IcebergSettings, tenant: str, source: Source, opened: OpenedCheckpoint) -> Claim:
    """Compare every row of the analytics table, made an event again, with the log; the table may be behind."""
    size = opened.checkpoint.tree_size
    with events_table(settings, tenant) as table:
        position = None if table is None else position_of(table)
        if table is None or position is None:
            raise TallyError(f"the lake has no events of {tenant}: has the analytics projector run (tally status)?")
        comparison = CopyComparison(f"lake of {tenant}", LogReader(source, size), opened)
        for start in range(0, max(position.stream_seq, 1), ROWS_AT_ONCE):
            for seq, body in sorted(_bodies(table, start + 1, start + ROWS_AT_ONCE + 1)):
                comparison.take(seq - 1, body)
        for seq, body in sorted(_bodies(table, position.stream_seq + 1, 2**62)):
            comparison.take(seq - 1, body)
    return comparison.finish(position.stream_seq)


def _bodies(table: Table, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Stream sequence and body of the events `[start, end)`, in any order."""
    wanted = f"stream_seq >= {start} and stream_seq < {end}"
    for batch in table.scan(row_filter=wanted).to_arrow_batch_reader():
        for row in rows_of(pa.Table.from_batches([batch])):
            yield row["stream_seq"], body_of(row)
