"""`tally roots list|show`: the monthly roots of a tenant's log, each checked before it is shown."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from adapters.errors import TallyError
from adapters.json_option import add_json
from adapters.published_log import load_policy, log_dir_of, log_tenant
from adapters.settings import Settings
from ledger.files import Folder, require
from ledger.months import (
    ROOTS,
    MonthStatement,
    certificate_path,
    open_month,
    parse_month,
    provisional_path,
    split_root_name,
)
from ledger.policy import Policy

HELP = "list the monthly roots, or show one"


def configure(parser: argparse.ArgumentParser) -> None:
    """`list` and `show MONTH`."""
    parser.epilog = "example:\n  tally roots list\n  tally roots show 2026-11 --json"
    parser.add_argument("--policy", type=Path, metavar="FILE", help="trust root (default: the one beside the keys)")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show")
    actions.add_parser("list", help="every month with its size and root")
    show = actions.add_parser("show", help="one month: counts, chain, keys")
    show.add_argument("month", metavar="YYYY-MM")
    add_json(parser, actions)


def run(args: argparse.Namespace) -> int:
    """List or show."""
    settings = Settings.load(args.data, need=("log_dir", "keys_dir"))
    tenant = log_tenant(settings, args.tenant)
    policy = load_policy(settings, tenant, args.policy)
    folder = Folder(log_dir_of(settings, tenant))
    if args.action == "list":
        return _list(folder, policy, is_json=args.json)
    return _show(folder, policy, parse_month(args.month), is_json=args.json)


def _list(folder: Folder, policy: Policy, *, is_json: bool) -> int:
    names = [found for name in folder.names(ROOTS) if (found := split_root_name(name)) is not None]
    months = [_open(folder, policy, month, is_provisional=is_open) for month, is_open in sorted(names)]
    if is_json:
        print(json.dumps([_summary(month) for month in months]))
        return 0
    for month in months:
        events = month.closing.tree_size - month.opening.tree_size
        kind = "provisional" if month.is_provisional else "certified"
        size, root = month.closing.tree_size, month.closing_root.hex()
        print(f"{month.month}  {kind:<11}  {events:>12,} events  size {size:<10} {root}")
    if not months:
        print(f"no roots in {folder.root}: the signer publishes the first when it starts (tally status)")
    return 0


def _show(folder: Folder, policy: Policy, wanted: str, *, is_json: bool) -> int:
    is_closed = folder.read(certificate_path(wanted)) is not None
    if not is_closed and folder.read(provisional_path(wanted)) is None:
        raise TallyError(f"{wanted} has no root in {folder.root}: tally roots list shows which months have one")
    month = _open(folder, policy, wanted, is_provisional=not is_closed)
    if is_json:
        print(json.dumps(json.loads(month.payload())))
        return 0
    print(f"{month.name} of {month.origin}")
    print(f"  root          {month.closing_root.hex()}")
    first, end = month.opening.tree_size, month.closing.tree_size
    print(
        f"  leaves        {first} to {end - 1}, tree size {end}"
        if first < end
        else f"  leaves        none, tree size {end}"
    )
    print(f"  chain         {month.opening.link.hex()}\n             -> {month.closing.link.hex()}")
    print(f"  previous      {month.previous_digest or 'none: the first month'}")
    for kind, count in sorted(month.counts.items()):
        print(f"  {count:>12,}  {kind}")
    return 0


def _open(folder: Folder, policy: Policy, month: str, *, is_provisional: bool) -> MonthStatement:
    path = provisional_path(month) if is_provisional else certificate_path(month)
    return open_month(path, require(folder, path), policy)


def _summary(month: MonthStatement) -> dict[str, object]:
    return {
        "month": month.month,
        "provisional": month.is_provisional,
        "opening_size": month.opening.tree_size,
        "closing_size": month.closing.tree_size,
        "root": month.closing_root.hex(),
        "counts": dict(month.counts),
    }
