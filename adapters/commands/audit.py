"""`tally audit`: the auditors' command (`ledger/cli_audit.py`), and the copies that an operator can compare besides."""

from __future__ import annotations

import argparse
import asyncio

from adapters.settings import Settings
from ledger import cli_audit
from ledger.files import Source
from ledger.policy import OpenedCheckpoint
from ledger.receipt import Claim

HELP = "compute a published log again: every entry, hash, link, root and month; compare the copies of its events"


def configure(parser: argparse.ArgumentParser) -> None:
    """What the auditors' command takes, and the copies."""
    cli_audit.configure(parser)
    copies = parser.add_argument_group("copies of an installation, compared event by event")
    copies.add_argument("--events", action="store_true", help="the event stream (TALLY_NATS_URL, or --data)")
    copies.add_argument("--lake", action="store_true", help="the analytics table (TALLY_ICEBERG_..., or --data)")
    parser.epilog = f"{parser.epilog}\n  tally audit .tally/published/boston --policy boston.policy --events --lake"


def run(args: argparse.Namespace) -> int:
    """Audit, then compare; 1 when anything differs."""
    if not (args.events or args.lake):  # an auditor has neither an installation nor the packages to reach one
        return cli_audit.run(args)
    need = [
        *(["nats_url"] if args.events else []),
        *(["iceberg_catalog_uri", "iceberg_warehouse"] if args.lake else []),
    ]
    settings = Settings.load(args.data, need=need)

    def compare(source: Source, opened: OpenedCheckpoint) -> list[Claim]:
        from adapters import lake_audit, log_copies

        tenant = log_copies.tenant_of_log(source, opened, args.tenant)
        claims = []
        if args.events:
            claims.append(asyncio.run(log_copies.compare_events(settings, tenant, source, opened)))
        if args.lake:
            claims.append(lake_audit.compare_lake(settings, tenant, source, opened))
        return claims

    return cli_audit.run(args, compare)
