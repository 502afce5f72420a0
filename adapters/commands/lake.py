"""`tally lake maintain|tables|query|files`: the Iceberg tables kept small and derived, listed, read at any sequence."""

from __future__ import annotations

import argparse

import msgspec

from adapters import lake_maintenance, lake_query
from adapters.errors import TallyError
from adapters.lake_maintenance import Limits, Report
from adapters.lake_query import Answer, TableInfo
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from projections.lake_upkeep import parse_duration

HELP = "analytics tables: compact and derive them, list them, read them as of any sequence or moment"
ROWS_MAX = 100_000
GRACE_MIN_MS = 600_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Four actions."""
    parser.epilog = (
        "examples:\n"
        "  tally lake maintain                                       derive, compact, expire, tidy up\n"
        "  tally lake maintain --older-than 6h --keep 30d --json\n"
        "  tally lake tables\n"
        "  tally lake query quest_funnel\n"
        "  tally lake query events --as-of 40213 --where \"event_type == 'xp-awarded/1'\" --columns stream_seq,data\n"
        "  tally lake files events --as-of 2026-11-21T10:00:00Z      Parquet files for any other engine"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="maintain|tables|query|files")
    maintain = actions.add_parser("maintain", help="derive tables, compact small files, expire snapshots, tidy up")
    maintain.add_argument(
        "--older-than", default="1h", metavar="TIME", help="compact hours that were quiet for so long (1h)"
    )
    maintain.add_argument("--keep", default="7d", metavar="TIME", help="keep snapshots for so long (7d)")
    maintain.add_argument(
        "--grace", default="1d", metavar="TIME", help="spare files without a reference for so long (1d, at least 10m)"
    )
    maintain.add_argument("--anew", action="store_true", help="make the derived tables again from all events")
    tables = actions.add_parser("tables", help="tables with their rows, files, bytes and snapshots")
    query = actions.add_parser("query", help="rows of a table, now or at a past sequence or moment")
    files = actions.add_parser("files", help="the Parquet files of a table, now or at a past sequence or moment")
    for action in (query, files):
        action.add_argument("table", help="events, quest_funnel, player_day, token_flow, ...")
        action.add_argument("--as-of", metavar="SEQ|TIME", help="stream sequence, or RFC 3339 time (default: newest)")
    query.add_argument("--where", metavar="FILTER", help="like \"event_type == 'xp-awarded/1' and version > 3\"")
    query.add_argument("--columns", metavar="A,B", default="", help="show only these")
    query.add_argument("-n", type=int, default=20, metavar="ROWS", help="show at most so many (20)")
    for action in (maintain, tables, query, files):
        action.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do one of the four."""
    settings = Settings.load(args.data, need=("iceberg_catalog_uri", "iceberg_warehouse"))
    found: Report | Answer | list[TableInfo] | list[str]
    match args.action:
        case "maintain":
            limits = _limits(args)
            found = lake_maintenance.maintain(settings, which_tenant(settings, args.tenant), limits, is_anew=args.anew)
        case "tables":
            found = lake_query.tables(settings, which_tenant(settings, args.tenant))
        case "files":
            found = lake_query.files(settings, which_tenant(settings, args.tenant), args.table, args.as_of)
        case _:
            found = _query(settings, args)
    print(msgspec.json.encode(found).decode() if args.json else _text(found))
    return 0


def _limits(args: argparse.Namespace) -> Limits:
    grace_ms = parse_duration("--grace", args.grace)
    if grace_ms < GRACE_MIN_MS:
        raise TallyError(
            f"--grace is {args.grace}, wanted at least 10m: files of a commit that is under way have no reference yet"
        )
    quiet_ms, keep_ms = parse_duration("--older-than", args.older_than), parse_duration("--keep", args.keep)
    return Limits(quiet_ms=quiet_ms, keep_ms=keep_ms, grace_ms=grace_ms)


def _query(settings: Settings, args: argparse.Namespace) -> Answer:
    if not 0 <= args.n <= ROWS_MAX:
        raise TallyError(f"-n is {args.n}, wanted 0 to {ROWS_MAX}")
    columns = [column.strip() for column in args.columns.split(",") if column.strip()]
    tenant = which_tenant(settings, args.tenant)
    return lake_query.query(
        settings, tenant, args.table, as_of=args.as_of, where=args.where, columns=columns, rows_max=args.n
    )


def _text(found: Report | Answer | list[TableInfo] | list[str]) -> str:
    match found:
        case Report():
            return _report(found)
        case Answer():
            return _answer(found)
        case _:
            return "\n".join(one if isinstance(one, str) else _table(one) for one in found)


def _report(report: Report) -> str:
    lines = [f"{report.tenant} at event {report.stream_seq:,}"]
    for one in report.derived:
        why = f", made anew: {one.anew}" if one.anew else ""
        lines.append(f"  {one.table:<13} from event {one.from_seq:,} to {one.to_seq:,}{why}")
    lines += [
        f"  {table.table:<13} {table.files_before:,} files, now {table.files_after:,} ({table.files_compacted:,} "
        f"compacted); {table.snapshots_expired:,} snapshots expired; {table.orphans_removed:,} files without a "
        f"reference removed ({table.orphan_bytes:,} bytes)"
        for table in report.tables
    ]
    return "\n".join(lines)


def _table(table: TableInfo) -> str:
    at = "no position" if table.stream_seq is None else f"at event {table.stream_seq:,}"
    lines = [f"{table.table}  {at}  {table.rows:,} rows, {table.files:,} files, {table.bytes:,} bytes"]
    for one in table.snapshots:
        seq = "-" if one.stream_seq is None else f"{one.stream_seq:,}"
        lines.append(f"  {one.written_at}  event {seq:>12}  {one.rows:>12,} rows  {one.operation:<9} {one.snapshot_id}")
    return "\n".join(lines)


def _answer(answer: Answer) -> str:
    lines = [f"{answer.table} after event {answer.stream_seq:,} (snapshot {answer.snapshot_id})"]
    if answer.rows:
        cells = [
            [*answer.rows[0]],
            *(["" if value is None else str(value) for value in row.values()] for row in answer.rows),
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
    return "\n".join([*lines, f"{len(answer.rows):,} of {answer.matching:,} rows"])
