"""`tally restore`: the event stream rebuilt from the published log, when the event store lost it."""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import asdict
from pathlib import Path

from adapters.errors import TallyError
from adapters.generations import PROJECTIONS
from adapters.jetstream import streams
from adapters.log_copies import tenant_of_log
from adapters.published_log import load_policy, log_dir_of, log_tenant
from adapters.restore import Restored, Shape, restore
from adapters.settings import Settings
from ledger.audit import audit_log
from ledger.cli_output import open_log, progress_bar
from ledger.times import CLOCK_SKEW_S

HELP = "rebuild a tenant's event stream from its published log, after auditing that log"


def configure(parser: argparse.ArgumentParser) -> None:
    """Which log, trusted how, and how the tenant is provisioned."""
    parser.add_argument("log", nargs="?", metavar="LOG", help="folder or URL of the log (default: the tenant's own)")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="trust root (default: the one beside the keys)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that audit (default: 1)")
    parser.add_argument(
        "--clock-skew", type=int, default=CLOCK_SKEW_S, metavar="SECONDS", help="as in tally audit (default: 300)"
    )
    parser.add_argument(
        "--partitions",
        type=int,
        default=streams.PARTITIONS_DEFAULT,
        metavar="N",
        help=f"as the tenant had them (default: {streams.PARTITIONS_DEFAULT})",
    )
    parser.add_argument("--intake", choices=("fast", "durable"), default="fast", help="as the tenant had it")
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="copies of the streams (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "Interrupted, it goes on when it is called again. A stream that holds anything but the beginning of the log\n"
        "is left alone. docs/ledger-operations.md has the whole story.\n\n"
        "examples:\n"
        "  tally restore --tenant boston\n"
        "  tally restore https://log.example.org/boston --policy boston.policy --tenant boston"
    )


def run(args: argparse.Namespace) -> int:
    """Audit, restore, say what is left to do."""
    settings = Settings.load(args.data, need=("nats_url", "log_dir", "keys_dir"))
    if args.partitions < 1 or args.replicas < 1:
        raise TallyError("--partitions and --replicas are numbers from 1: give them as the tenant had them")
    tenant = log_tenant(settings, args.tenant)
    source = open_log(args.log or str(log_dir_of(settings, tenant)))
    policy = load_policy(settings, tenant, args.policy)
    show = (lambda _: None) if args.json else progress_bar
    try:
        found = audit_log(source, policy, progress=show("audit"), jobs=args.jobs, clock_skew_s=args.clock_skew)
        tenant_of_log(source, found.checkpoint, tenant)
        shape = Shape(partitions=args.partitions, intake=args.intake, replicas=args.replicas)
        bar = show("restore") or (lambda _done, _total: None)
        restored = asyncio.run(restore(settings, tenant, source, found.checkpoint, shape, bar))
    finally:
        source.close()
    print(json.dumps(asdict(restored)) if args.json else _text(restored))
    return 0


def _text(restored: Restored) -> str:
    name = restored.tenant
    lines = [
        f"restored  {name}: {restored.events:,} events ({restored.already:,} were there), read back: the signed root",
        f"commands  go on after sequence {restored.commands_decided:,}; undecided and parked ones must be sent again",
        f"signer    {restored.signer}",
        "workers   take the tenant by themselves; snapshots and timers are made anew",
        "rebuild   the projections, which stand on the stream that was lost:",
        *(f"          tally rebuild {projection} --accept --tenant {name}" for projection in PROJECTIONS),
    ]
    return "\n".join(lines)
