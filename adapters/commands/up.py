"""`tally up`: the whole installation in one terminal, or in the background with --detach."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from adapters.embedded import Ports, check_data_dir
from adapters.embedded_process import python_path
from adapters.errors import TallyError
from adapters.files import make_directory
from adapters.masking import masked_endpoints
from adapters.settings import read_endpoints
from adapters.supervisor import DEFAULT_PROCESSES, Supervisor
from adapters.supervisor_lock import AlreadyRunning, is_locked, living_supervisor

HELP = "start the whole installation (servers and processes) in this terminal"
SHOWN = ("nats", "postgres", "redis", "iceberg_catalog", "iceberg_warehouse", "log_dir", "keys_dir")
DETACHED_READY_WITHIN_S = 180.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  tally up --data .tally            # Ctrl-C stops everything\n"
        "  tally up --data .tally --detach   # returns when ready; tally down stops it"
    )
    parser.add_argument("--detach", action="store_true", help="return when everything is ready; it goes on running")
    parser.add_argument("--nats-port", type=_port, metavar="N", help="default: the last one, else any free one")
    parser.add_argument("--postgres-port", type=_port, metavar="N", help="the same for PostgreSQL")
    parser.add_argument("--redis-port", type=_port, metavar="N", help="the same for Valkey")
    parser.add_argument(
        "--processes",
        metavar="GROUPS",
        help=f"spaces separate processes, commas group within one (TALLY_PROCESSES; default: {DEFAULT_PROCESSES!r}, "
        "and a publisher where roots.toml names a bucket)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the endpoints as one JSON object when ready; passwords are masked (endpoints.json has them)",
    )


def run(args: argparse.Namespace) -> int:
    return _run_detached(args) if args.detach else _run_here(args)


def _run_here(args: argparse.Namespace) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    say = _say_to_stderr if args.json else _say
    ports = Ports(nats=args.nats_port, postgres=args.postgres_port, redis=args.redis_port)
    say(f"starting in {args.data}, logs in {args.data / 'logs'}")
    supervisor = Supervisor(args.data, ports=ports, processes=args.processes, on_event=say)
    try:
        with supervisor:
            _show(supervisor.endpoints, as_json=args.json)
            say(f"ready: Ctrl-C stops everything (or: tally down --data {args.data})")
            supervisor.wait()
    except KeyboardInterrupt:
        say("stopped")
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    # Once is enough: what follows is an orderly stop, which a second Ctrl-C must not cut short.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run_detached(args: argparse.Namespace) -> int:
    check_data_dir(args.data)
    if is_locked(args.data) and (pid := living_supervisor(args.data)) is not None:
        raise AlreadyRunning(args.data, pid)
    log_path = make_directory(args.data / "logs") / "supervisor.log"
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "adapters.cli", "up", *_options(args)],
            env={**os.environ, "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        endpoints = _wait_for(child, args.data, log_path)
    except BaseException:
        child.terminate()
        child.wait()
        raise
    _show(endpoints, as_json=args.json)
    if not args.json:
        _say(f"ready (process {child.pid}): tally down --data {args.data} stops it")
    return 0


def _wait_for(child: "subprocess.Popen[bytes]", data_dir: Path, log_path: Path) -> dict[str, Any]:
    deadline = time.monotonic() + DETACHED_READY_WITHIN_S
    while time.monotonic() < deadline:
        endpoints = read_endpoints(data_dir)
        if endpoints is not None and endpoints.get("pid") == child.pid:
            return endpoints
        if child.poll() is not None:
            lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
            raise TallyError(lines[-1].removeprefix("tally: ") if lines else f"up ended: see {log_path}")
        time.sleep(0.05)
    raise TallyError(f"not ready within {DETACHED_READY_WITHIN_S:g} s: see {log_path}")


def _options(args: argparse.Namespace) -> list[str]:
    options = ["--data", str(args.data)]
    for name in ("nats_port", "postgres_port", "redis_port", "processes"):
        if (value := getattr(args, name)) is not None:
            options += [f"--{name.replace('_', '-')}", str(value)]
    return options


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, a number from 1 to 65535 is wanted")
    return int(text)


def _show(endpoints: dict[str, Any], *, as_json: bool) -> None:
    endpoints = masked_endpoints(endpoints)
    if as_json:
        print(json.dumps(endpoints), flush=True)
        return
    for key in SHOWN:
        print(f"  {key:<18} {endpoints[key]}")
    print(f"  {'tenants':<18} {', '.join(endpoints['tenants']) or 'none yet (tally tenant create NAME)'}", flush=True)


def _say(line: str) -> None:
    print(f"tally: {line}", flush=True)


def _say_to_stderr(line: str) -> None:
    print(f"tally: {line}", file=sys.stderr, flush=True)
