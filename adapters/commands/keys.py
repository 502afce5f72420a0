"""`tally keys`: the keys that sign a tenant's log."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from adapters.errors import TallyError
from adapters.json_option import add_json
from adapters.key_services import key_opener, passphrase_source
from adapters.published_log import keys_dir_of, log_tenant
from adapters.settings import Settings
from bus.subjects import require_token
from ledger.keyfolder import POLICY, KeyStanding, list_keys
from ledger.keyring import ORIGIN_PREFIX, generate_keys
from ledger.keys import decrypt_file, encrypt_file

HELP = "make, list, encrypt and rotate the keys that sign a tenant's log"
ACTIONS = "generate|list|encrypt|decrypt"


def configure(parser: argparse.ArgumentParser) -> None:
    """An action, and what it needs."""
    parser.epilog = (
        "examples:\n"
        "  tally keys generate --tenant boston --origin log.example.org/boston --encrypt\n"
        "  tally keys list --tenant boston --json\n"
        "  TALLY_KEYS_PASSPHRASE_FILE=boston.pass tally keys encrypt --tenant boston\n"
        "\n"
        "a passphrase comes from the file that TALLY_KEYS_PASSPHRASE_FILE names, from TALLY_KEYS_PASSPHRASE, or\n"
        "is typed; the signer never asks, so give it one of the two."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar=ACTIONS)
    generate = actions.add_parser("generate", help="make a set; keys that are there are never replaced")
    generate.add_argument(
        "--origin",
        metavar="NAME",
        help=f"the log's name for ever, a URL without scheme (default: {ORIGIN_PREFIX}/TENANT)",
    )
    generate.add_argument("--encrypt", action="store_true", help="put the private keys under a passphrase")
    actions.add_parser("list", help="roles, IDs, ranges, where each private key is; and the policy for auditors")
    actions.add_parser("encrypt", help="put the private keys that are plain files under a passphrase")
    actions.add_parser("decrypt", help="take them from under it")
    add_json(parser, actions)


def run(args: argparse.Namespace) -> int:
    """Do it, then show how the keys stand."""
    settings = Settings.load(args.data, need=("log_dir", "keys_dir"))
    if args.action == "generate":
        if not args.tenant:
            raise TallyError("keys of which tenant? name it with --tenant NAME")
        tenant = require_token("the tenant", args.tenant)
        _generate(keys_dir_of(settings, tenant), args.origin or f"{ORIGIN_PREFIX}/{tenant}", is_encrypted=args.encrypt)
    else:
        tenant = log_tenant(settings, args.tenant)
    folder = keys_dir_of(settings, tenant)
    if not (folder / POLICY).exists():
        raise TallyError(f"{folder} has no complete set of keys: tally keys generate --tenant {tenant}")
    if args.action in {"encrypt", "decrypt"}:
        _recrypt(folder, is_encrypting=args.action == "encrypt")
    return _show(tenant, folder, is_json=args.json)


def _generate(folder: Path, origin: str, *, is_encrypted: bool) -> None:
    opener = key_opener(os.environ)
    if is_encrypted:
        opener = dataclasses.replace(opener, passphrase=passphrase_source(os.environ, is_new=True), encrypts=True)
    generate_keys(folder, origin, opener=opener)


def _recrypt(folder: Path, *, is_encrypting: bool) -> None:
    passphrase = passphrase_source(os.environ, is_new=is_encrypting)
    for path in sorted(folder.glob("*.key")):
        if is_encrypting:
            encrypt_file(path, passphrase)
        else:
            decrypt_file(path, passphrase)


def _show(tenant: str, folder: Path, *, is_json: bool) -> int:
    rows = [_row(key) for key in list_keys(folder)]
    if is_json:
        print(json.dumps({"tenant": tenant, "policy": str(folder / POLICY), "keys": rows}))
        return 0
    for row in rows:
        last = "on" if row["last_size"] is None else f"to {row['last_size']}"
        sizes = "not in the policy" if row["first_size"] is None else f"sizes {row['first_size']} {last}"
        print(f"{row['name']:<22} {row['kept']:<10} {sizes:<22} {row['key']}")
    print(f"{'policy':<22} {folder / POLICY}")
    return 0


def _row(key: KeyStanding) -> dict[str, Any]:
    return {
        "name": key.name,
        "role": key.role,
        "key": key.key.label,
        "first_size": key.first_size,
        "last_size": key.last_size,
        "kept": key.kept,
        "vkey": str(key.key),
    }
