"""`tally account`: a token account's balance and statement."""

from __future__ import annotations

import argparse
import asyncio

import msgspec

from adapters.as_of_option import add_as_of
from adapters.errors import TallyError
from adapters.postgres_statements import Statement, statement
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from bus.subjects import require_token
from projections.generations import LIVE, require_name
from projections.read_models import TREASURY

HELP = "a token account: its balance and its statement in double entry"
LINES_MAX = 10_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("player", help=f"whose account: a player's id, or {TREASURY}")
    parser.add_argument("-n", type=int, default=20, metavar="LINES", help="how many of the newest movements (20)")
    parser.add_argument(
        "--generation", metavar="NAME", help="a past state (tally rebuild readmodels --at TIME --as NAME)"
    )
    add_as_of(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = f"examples:\n  tally account b19 --as-of 2014-04-21\n  tally account {TREASURY} -n 5 --json"


def run(args: argparse.Namespace) -> int:
    """Print the statement; an unknown account is wrong use."""
    if not 1 <= args.n <= LINES_MAX:
        raise TallyError(f"-n is {args.n}, wanted 1 to {LINES_MAX}")
    settings = Settings.load(args.data, need=("postgres_dsn",))
    tenant = which_tenant(settings, args.tenant)
    generation = LIVE if args.generation is None else require_name(args.generation)
    account = args.player if args.player == TREASURY else require_token("the player", args.player)
    found = asyncio.run(statement(settings, tenant, account, args.n, as_of=args.as_of, generation=generation))
    print(msgspec.json.encode(found).decode() if args.json else _text(found))
    return 0


def _text(found: Statement) -> str:
    then = f" as of {found.as_of:%Y-%m-%d %H:%M:%S}Z" if found.as_of else ""
    lines = [f"account {found.account}{then}: {found.balance:,} tokens, {found.postings_total:,} movements"]
    if len(found.postings) < found.postings_total:
        lines.append(f"the newest {len(found.postings):,}, {found.opening:,} tokens before them:")
    lines += [
        f"  {posting.at:%Y-%m-%d %H:%M:%S}Z {posting.amount:>+12,} {posting.balance:>12,}  "
        f"{posting.counterparty}  {posting.reason}".rstrip()
        for posting in found.postings
    ]
    return "\n".join(lines)
