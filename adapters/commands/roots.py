"""`tally roots list|show|check|export|attest`: the monthly roots of a log, each checked before it is shown."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapters.errors import TallyError
from adapters.json_option import add_json
from adapters.published_log import load_policy, log_dir_of, log_tenant
from adapters.root_check import check_roots
from adapters.root_keeper import copied_paths, read_kept
from adapters.settings import Settings
from ledger.beside import read_stamps, verify_stamps
from ledger.export import ATTESTATION, make_export, write_export
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

HELP = "list the monthly roots, show or export one, compare its time stamps and copies"


def configure(parser: argparse.ArgumentParser) -> None:
    """The actions; each but `list` takes a month."""
    parser.epilog = (
        "examples:\n  tally roots list\n  tally roots show 2026-11 --json\n  tally roots check\n"
        "  tally roots export 2026-11 -o boston-2026-11.zip\n  tally roots attest 2026-11 -o november.html"
    )
    parser.add_argument("--policy", type=Path, metavar="FILE", help="trust root (default: the one beside the keys)")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|check|export|attest")
    actions.add_parser("list", help="every month with its size, root, time stamps and number of copies")
    show = actions.add_parser("show", help="one month: counts, chain, time stamps, where copies are")
    show.add_argument("month", metavar="YYYY-MM")
    check = actions.add_parser("check", help="verify time stamps, and compare every copy with the log")
    check.add_argument("month", metavar="YYYY-MM", nargs="?", help="default: every closed month")
    export = actions.add_parser("export", help="a closed month with all that an outsider needs to check it")
    export.add_argument("month", metavar="YYYY-MM")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR|FILE.tar|FILE.zip")
    attest = actions.add_parser("attest", help="one page of HTML for people, to print and to sign")
    attest.add_argument("month", metavar="YYYY-MM")
    attest.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.html")
    add_json(parser, actions)


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    settings = Settings.load(args.data, need=("log_dir", "keys_dir"))
    tenant = log_tenant(settings, args.tenant)
    policy = load_policy(settings, tenant, args.policy)
    folder = Folder(log_dir_of(settings, tenant))
    month = parse_month(args.month) if getattr(args, "month", None) else None
    match args.action, month:
        case "list", _:
            return _list(folder, policy, is_json=args.json)
        case "show", str():
            return _show(folder, policy, month, is_json=args.json)
        case "check", _:
            return _check(settings, tenant, policy, month, is_json=args.json)
        case action, str():
            return _export(folder, policy, month, args.output, is_page=action == "attest", is_json=args.json)
    raise TallyError(f"{args.action} takes a month: tally roots --help")


def _list(folder: Folder, policy: Policy, *, is_json: bool) -> int:
    names = [found for name in folder.names(ROOTS) if (found := split_root_name(name)) is not None]
    months = [_open(folder, policy, month, is_provisional=is_open) for month, is_open in sorted(names)]
    if is_json:
        print(json.dumps([_summary(month) | _beside(folder, policy, month) for month in months]))
        return 0
    for month in months:
        events = month.closing.tree_size - month.opening.tree_size
        kind = "provisional" if month.is_provisional else "certified"
        size, root = month.closing.tree_size, month.closing_root.hex()
        line = f"{month.month}  {kind:<11}  {events:>12,} events  size {size:<10} {root}"
        print(f"{line}{_kept_line(folder, policy, month)}")
    if not months:
        print(f"no roots in {folder.root}: the signer publishes the first when it starts (tally status)")
    return 0


def _kept_line(folder: Folder, policy: Policy, month: MonthStatement) -> str:
    found = _beside(folder, policy, month)
    stamps, copies = ", ".join(found["timestamps"]), len(found["copies"])
    return (f"  stamped by {stamps}" if stamps else "") + (f"  {copies} copies" if copies else "")


def _beside(folder: Folder, policy: Policy, month: MonthStatement) -> dict[str, dict[str, Any]]:
    """Verified time stamps and noted copies of a month."""
    if month.is_provisional:
        return {"timestamps": {}, "copies": {}}
    stamps = verify_stamps(month.name, month, read_stamps(folder, month.month, policy), policy)
    copies = read_kept(folder).copies
    paths = copied_paths(folder, month.month, policy)
    return {
        "timestamps": {name: None if stamp is None else str(stamp) for name, stamp in stamps.items()},
        "copies": {path: copies[path] for path in paths if path in copies},
    }


def _show(folder: Folder, policy: Policy, wanted: str, *, is_json: bool) -> int:
    is_closed = folder.read(certificate_path(wanted)) is not None
    if not is_closed and folder.read(provisional_path(wanted)) is None:
        raise TallyError(f"{wanted} has no root in {folder.root}: tally roots list shows which months have one")
    month = _open(folder, policy, wanted, is_provisional=not is_closed)
    beside = _beside(folder, policy, month)
    if is_json:
        print(json.dumps(json.loads(month.payload()) | beside))
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
    for name, stamp in beside["timestamps"].items():
        print(f"  time stamp    {name}: {stamp or 'not checked: the policy names no such authority'}")
    for copy in beside["copies"].values():
        print(f"  copy          {copy['place']} (version {copy['version']}, until {copy['until']})")
    return 0


def _check(settings: Settings, tenant: str, policy: Policy, month: str | None, *, is_json: bool) -> int:
    found = check_roots(settings, tenant, policy, month)
    if is_json:
        print(json.dumps({"ok": all(line.is_good for line in found), "checks": [asdict(line) for line in found]}))
    else:
        for line in found:
            print(f"{'ok' if line.is_good else 'FAILED':<7} {line.month}  {line.detail}")
    return 0 if all(line.is_good for line in found) else 1


def _export(folder: Folder, policy: Policy, month: str, output: Path, *, is_page: bool, is_json: bool) -> int:
    if folder.read(certificate_path(month)) is None:
        raise TallyError(f"{month} has no certificate in {folder.root}: tally roots list shows which months are closed")
    files = make_export(folder, policy.as_of(int(time.time())), month)
    if is_page:
        output.write_bytes(files[ATTESTATION])
    else:
        write_export(output, files)
    if is_json:
        print(json.dumps({"output": str(output), "files": [ATTESTATION] if is_page else list(files)}))
    elif is_page:
        print(f"{output}: print it, sign it, and keep it with the files of tally roots export {month}")
    else:
        print(f"{output}: {len(files)} files, checked by: tally verify {output} --policy FILE")
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
