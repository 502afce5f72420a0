"""`tally keys generate|show`: the keys that sign a tenant's log."""

from __future__ import annotations

import argparse
import json

from adapters.errors import TallyError
from adapters.json_option import add_json
from adapters.published_log import keys_dir_of, log_tenant
from adapters.settings import Settings
from bus.subjects import require_token
from ledger.keys import CERTIFICATE_KEY, LOG_KEY, LOG_PQ_KEY, ORIGIN_PREFIX, POLICY, generate_keys

HELP = "make the keys that sign a tenant's log, or show their public halves"


def configure(parser: argparse.ArgumentParser) -> None:
    """`generate` and `show`."""
    parser.epilog = (
        "example:\n  tally keys generate --tenant boston --origin log.example.org/boston\n"
        "  tally keys show --tenant boston"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="generate|show")
    generate = actions.add_parser("generate", help="make a set; keys that are there are never replaced")
    generate.add_argument(
        "--origin",
        metavar="NAME",
        help=f"the log's name for ever, a URL without scheme (default: {ORIGIN_PREFIX}/TENANT)",
    )
    actions.add_parser("show", help="public keys and the policy for auditors")
    add_json(parser, actions)


def run(args: argparse.Namespace) -> int:
    """Make or show."""
    settings = Settings.load(args.data, need=("log_dir", "keys_dir"))
    if args.action == "generate":
        if not args.tenant:
            raise TallyError("keys of which tenant? name it with --tenant NAME")
        tenant = require_token("the tenant", args.tenant)
        generate_keys(keys_dir_of(settings, tenant), args.origin or f"{ORIGIN_PREFIX}/{tenant}")
    else:
        tenant = log_tenant(settings, args.tenant)
    folder = keys_dir_of(settings, tenant)
    if not (folder / POLICY).exists():
        raise TallyError(f"{folder} has no complete set of keys: tally keys generate --tenant {tenant}")
    names = [name for name in (LOG_KEY, LOG_PQ_KEY, CERTIFICATE_KEY) if (folder / f"{name}.vkey").exists()]
    public = {name: (folder / f"{name}.vkey").read_text().strip() for name in names}
    if args.json:
        print(json.dumps({"tenant": tenant, "policy": str(folder / POLICY), "keys": public}))
        return 0
    for name, vkey in public.items():
        print(f"{name:<20} {vkey if len(vkey) <= 120 else vkey[:117] + '...'}")
    print(f"{'policy':<20} {folder / POLICY}")
    return 0
