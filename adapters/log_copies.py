"""The copies of a log's events that an installation has: the event stream; the analytics table is `lake_audit`'s."""

from __future__ import annotations

from typing import Final

from nats.aio.client import Client

from adapters.errors import TallyError
from adapters.jetstream.connection import connect
from adapters.jetstream.messages import stream_info
from adapters.jetstream.reader import PullReader
from adapters.settings import Settings
from bus import subjects
from ledger.copies import CopyComparison
from ledger.events import tenant_of
from ledger.files import Source
from ledger.policy import OpenedCheckpoint
from ledger.reader import LogReader
from ledger.receipt import Claim

TAKEN_AT_ONCE: Final = 4_000


def tenant_of_log(source: Source, opened: OpenedCheckpoint, named: str | None) -> str:
    """The tenant whose events a log holds, as its first event says; raises `TallyError` when another one is named."""
    size = opened.checkpoint.tree_size
    found = tenant_of(LogReader(source, size).entry(0)) if size else ""
    if named and found and named != found:
        raise TallyError(
            f"the log holds the events of {found}, --tenant says {named}: name that tenant, or another log"
        )
    tenant = found or named
    if not tenant:
        raise TallyError("the log is empty and does not say whose it is: name the tenant with --tenant")
    return subjects.require_token("the tenant of the log", tenant)


async def compare_events(settings: Settings, tenant: str, source: Source, opened: OpenedCheckpoint) -> Claim:
    """Compare every event of the stream with the log; raises `CopyDiffers`, `WrongStream` when there is no stream."""
    client = await connect(settings.nats_url, "tally-audit")
    try:
        return await compare_stream(client, tenant, LogReader(source, opened.checkpoint.tree_size), opened)
    finally:
        await client.close()


async def compare_stream(
    client: Client, tenant: str, log: LogReader, opened: OpenedCheckpoint, *, end: int | None = None
) -> Claim:
    """The same over a connection; `end`: the stream need not have more entries of the log than so many."""
    stream = subjects.events_stream(tenant)
    comparison = CopyComparison(stream, log, opened)
    last_seq = int((await stream_info(client, stream))["state"]["last_seq"])
    seq = 0
    reader = PullReader(client, stream, 0)
    try:
        while seq < last_seq:
            for seq, message in await reader.take(TAKEN_AT_ONCE):
                if seq <= last_seq:
                    comparison.take(seq - 1, message.data)
    finally:
        await reader.close()
    return comparison.finish(end)
