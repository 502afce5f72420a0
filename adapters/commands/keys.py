"""`tally keys`: the keys that sign a tenant's log."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from adapters.errors import TallyError
from adapters.json_option import add_json
from adapters.key_rotation import Place, destroy, retire, rotate
from adapters.key_services import opener_with, passphrase_source
from adapters.published_log import keys_dir_of, log_dir_of, log_tenant
from adapters.settings import Settings
from bus.subjects import require_token
from ledger.keyfolder import ENCRYPTED, LOG_KEY, POLICY, ROLES, KeyStanding, list_keys
from ledger.keyring import ORIGIN_PREFIX, generate_keys
from ledger.keys import decrypt_file, encrypt_file
from ledger.passphrase import is_configured

HELP = "make, list, encrypt and rotate the keys that sign a tenant's log"
ACTIONS = "generate|list|rotate|retire|encrypt|decrypt"


def configure(parser: argparse.ArgumentParser) -> None:
    """An action, and what it needs."""
    parser.epilog = (
        "examples:\n"
        "  tally keys generate --tenant boston --origin log.example.org/boston --encrypt\n"
        "  tally keys generate --tenant boston --at 'log-ed25519=pkcs11:token=tally;object=log'\n"
        "  tally keys list --tenant boston --json\n"
        "  tally keys rotate --tenant boston                     # a second log-ed25519 signs beside the first\n"
        "  tally keys retire log-ed25519 --tenant boston --destroy\n"
        "  TALLY_KEYS_PASSPHRASE_FILE=boston.pass tally keys encrypt --tenant boston\n"
        "\n"
        "a passphrase comes from the file that TALLY_KEYS_PASSPHRASE_FILE names, from TALLY_KEYS_PASSPHRASE, or\n"
        "is typed; the signer never asks, so give it one of the two. A REFERENCE says where a key is: env:VARIABLE,\n"
        "file:PATH, pkcs11:URI (RFC 7512), exec:COMMAND (docs/formats.md), or the scheme of an installed package."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar=ACTIONS)
    generate = actions.add_parser("generate", help="make a set; keys that are there are never replaced")
    generate.add_argument(
        "--origin",
        metavar="NAME",
        help=f"the log's name for ever, a URL without scheme (default: {ORIGIN_PREFIX}/TENANT)",
    )
    generate.add_argument("--encrypt", action="store_true", help="put the private keys under a passphrase")
    generate.add_argument(
        "--at", action="append", default=[], metavar="ROLE=REFERENCE", help="a key that is elsewhere; may be repeated"
    )
    actions.add_parser("list", help="roles, IDs, ranges, where each private key is; and the policy for auditors")
    rotate = actions.add_parser("rotate", help="add the next key of a role; the signer turns to it without a restart")
    rotate.add_argument(
        "role", nargs="?", default=LOG_KEY, choices=tuple(ROLES), metavar="ROLE", help=f"of {', '.join(ROLES)}"
    )
    rotate.add_argument("--at", metavar="REFERENCE", help="where the new key is, when it is not to be a file")
    retire = actions.add_parser("retire", help="let a key end; another one must be signing")
    retire.add_argument("name", metavar="NAME", help="as tally keys list names it")
    retire.add_argument("--destroy", action="store_true", help="then remove its private half")
    for action in (rotate, retire):
        action.add_argument("--wait", type=float, default=60.0, metavar="S", help="for worker and signer (default 60)")
    actions.add_parser("encrypt", help="put the private keys that are plain files under a passphrase")
    actions.add_parser("decrypt", help="take them from under it")
    add_json(parser, actions)


def run(args: argparse.Namespace) -> int:
    """Do it, then show how the keys stand."""
    turns = args.action in {"rotate", "retire"}
    settings = Settings.load(args.data, need=("log_dir", "keys_dir", *(("nats_url",) if turns else ())))
    if args.action == "generate":
        if not args.tenant:
            raise TallyError("keys of which tenant? name it with --tenant NAME")
        tenant = require_token("the tenant", args.tenant)
        origin = args.origin or f"{ORIGIN_PREFIX}/{tenant}"
        _generate(keys_dir_of(settings, tenant), origin, args.at, is_encrypted=args.encrypt)
    else:
        tenant = log_tenant(settings, args.tenant)
    folder = keys_dir_of(settings, tenant)
    if not (folder / POLICY).exists():
        raise TallyError(f"{folder} has no complete set of keys: tally keys generate --tenant {tenant}")
    if turns:
        return _turn(args, settings, tenant)
    if args.action in {"encrypt", "decrypt"}:
        _recrypt(folder, is_encrypting=args.action == "encrypt")
    return _show(tenant, folder, is_json=args.json)


def _generate(folder: Path, origin: str, places: list[str], *, is_encrypted: bool) -> None:
    passphrase = passphrase_source(os.environ, is_new=is_encrypted)
    opener = opener_with(os.environ, passphrase, encrypts=is_encrypted or is_configured(os.environ))
    named = dict(place.partition("=")[::2] for place in places)
    generate_keys(folder, origin, opener=opener, references=named)


def _turn(args: argparse.Namespace, settings: Settings, tenant: str) -> int:
    place = Place(
        settings=settings,
        tenant=tenant,
        folder=keys_dir_of(settings, tenant),
        log_dir=log_dir_of(settings, tenant),
        wait_s=args.wait,
    )
    encrypts = any(one.kept == ENCRYPTED for one in list_keys(place.folder))
    opener = opener_with(os.environ, passphrase_source(os.environ), encrypts=encrypts)
    if args.action == "rotate":
        turned = rotate(place, args.role, opener, args.at)
        line = f"{turned.name} signs every size from {turned.leaf_index + 1} on, beside the others"
    else:
        turned = retire(place, args.name, opener)
        line = f"{turned.name} signs nothing beyond size {turned.leaf_index}"
        if args.destroy:
            line += "; its private half is removed" if destroy(place, args.name) else "; destroy it where it is kept"
    if args.json:
        row = {"name": turned.name, "key": turned.key.label, "entry": turned.leaf_index}
        print(json.dumps({"tenant": tenant, **row, "tree_size": turned.checkpoint.tree_size}))
        return 0
    print(f"{line}: told by entry {turned.leaf_index}, under the checkpoint of size {turned.checkpoint.tree_size}")
    print(f"auditors need the new policy, witnesses the log lines of it: {place.folder / POLICY}")
    return 0


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
