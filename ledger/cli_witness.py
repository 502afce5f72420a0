"""`tally witness`: run a witness, which cosigns only what extends all that it cosigned before (C2SP tlog-witness)."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Final

from ledger.encoding import parse_decimal
from ledger.errors import Malformed, WrongUse, excerpt
from ledger.months import month_of
from ledger.note import COSIGNATURE_ED25519, VerifierKey
from ledger.passphrase import is_configured, passphrase_from
from ledger.remote import Website
from ledger.witness_server import WitnessServer, say
from ledger.witness_setup import LOGS, init_witness, look_at_logs, open_witness
from ledger.witness_state import Witness

HELP = "run a witness: cosign a log's checkpoints as long as it only grows"
LISTEN_DEFAULT: Final = "127.0.0.1:8008"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n"
        "  tally witness init w1 --name witness.example.org/w1\n"
        "  cp boston.policy w1/logs/\n"
        "  tally witness serve w1 --listen 127.0.0.1:8008\n"
        "  tally witness show w1\n"
        "keys are encrypted when TALLY_KEYS_PASSPHRASE_FILE (or TALLY_KEYS_PASSPHRASE) is set for init"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="init|serve|show")
    init = actions.add_parser("init", help="make a witness's folder and keys")
    init.add_argument("--name", required=True, help="the witness's name for ever, a URL without scheme")
    serve = actions.add_parser("serve", help="answer logs and monitors until SIGTERM or SIGINT")
    serve.add_argument(
        "--listen",
        default=LISTEN_DEFAULT,
        metavar="HOST:PORT",
        help=f"where (default {LISTEN_DEFAULT}; port 0 takes a free one); TLS is for the proxy in front",
    )
    show = actions.add_parser("show", help="public keys, and what is recorded of each log; not while it is served")
    for action in (init, serve, show):
        action.add_argument("folder", type=Path, metavar="DIR", help="the witness's folder")
    for action in (init, show):
        action.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    match args.action:
        case "init":
            passphrase = passphrase_from(os.environ) if is_configured(os.environ) else None
            _print_keys(args, init_witness(args.folder, args.name, passphrase))
            if not args.json:
                print(f"next: put the policy of each log into {args.folder / LOGS}/, then tally witness serve")
        case "show":
            with open_witness(args.folder, passphrase_from(os.environ)) as witness:
                _print_keys(args, list(witness.keys), witness)
        case _:
            with open_witness(args.folder, passphrase_from(os.environ)) as witness:
                _serve(args.folder, witness, _address(args.listen))
    return 0


def _print_keys(args: argparse.Namespace, keys: list[VerifierKey], witness: Witness | None = None) -> None:
    recorded = {origin: known for origin, (_, known) in witness.logs.items()} if witness else {}
    if args.json:
        sizes = {origin: known and known.tree_size for origin, known in recorded.items()}
        print(json.dumps({"keys": [str(key) for key in keys], "logs": sizes}))
        return
    print("a log's operator and its auditors need one of these lines in their policy, URL included for the operator:")
    for key in keys:
        alias = key.name if key.algorithm == COSIGNATURE_ED25519 else f"{key.name}-pq"
        print(f"witness {alias} {key} https://<where this witness answers>")
    for origin, known in recorded.items():
        print(f"log {origin}: {known or 'nothing recorded yet'}")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    try:
        number = parse_decimal("port", port)
    except Malformed as err:
        raise WrongUse("--listen", expected="HOST:PORT", found=excerpt(text)) from err
    if not host or number > 65_535:
        raise WrongUse("--listen", expected="HOST:PORT", found=excerpt(text))
    return host.removeprefix("[").removesuffix("]"), number


def _serve(folder: Path, witness: Witness, address: tuple[str, int]) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        server = WitnessServer(witness, address, lambda: int(time.time()))
    except OSError as err:
        raise WrongUse(f"--listen {address[0]}:{address[1]}: {err.strerror or err}: name a free address") from err
    for line in look_at_logs(folder, witness, lambda url: Website(url, month_of(int(time.time() * 1000)))):
        say(line)
    server.start()
    print(f"{witness.keys[0].name} serves {len(witness.logs)} logs at {server.url}", flush=True)
    stop.wait()
    server.stop()
