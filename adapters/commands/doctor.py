"""`tally doctor`: looks at everything that an installation needs and says of each whether it is as it must be."""

import argparse
import asyncio
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from adapters import embedded_probe
from adapters.embedded import FREE_BYTES_MIN, check_data_dir
from adapters.embedded_servers import (
    INSTALL_HINT,
    find_nats_server,
    find_postgres_bin,
    find_valkey_server,
    version_of,
)
from adapters.errors import TallyError
from adapters.settings import ENDPOINTS_FILE, Settings, read_endpoints

HELP = "check Python, packages, servers, disk and endpoints, and say what to do"
RUN_PACKAGES = ("eventsourcing", "hdrh", "msgspec", "nats", "psycopg", "pyiceberg", "pyiceberg_core", "redis")
DEFAULT_PORTS = {"nats": 4222, "postgres": 5432, "redis": 6379}


@dataclass(frozen=True, kw_only=True)
class Finding:
    what: str
    ok: bool
    detail: str


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  tally doctor --data .tally"
    parser.add_argument("--json", action="store_true", help="print one JSON object per check")


def run(args: argparse.Namespace) -> int:
    failed = False
    for finding in examine(args.data):
        failed = failed or not finding.ok
        if args.json:
            print(json.dumps(asdict(finding)), flush=True)
        else:
            print(f"{'ok    ' if finding.ok else 'NOT OK'}  {finding.what}: {finding.detail}", flush=True)
    return 1 if failed else 0


def examine(data_dir: Path) -> Iterator[Finding]:
    """Yield one finding for each thing that was looked at."""
    yield _python()
    yield _packages()
    yield _try("nats-server", lambda: version_of(find_nats_server()))
    yield _try("PostgreSQL", lambda: version_of(find_postgres_bin() / "postgres"))
    yield _try("Valkey", lambda: version_of(find_valkey_server()))
    yield _try("data directory", lambda: _data_dir(data_dir))
    if read_endpoints(data_dir) is None:
        yield Finding(what="installation", ok=True, detail=f"not up (tally up --data {data_dir} starts it)")
        return
    yield from _endpoints(data_dir)


def _try(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what=what, ok=True, detail=look())
    except TallyError as err:
        return Finding(what=what, ok=False, detail=str(err))


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] > (3, 13):
        return Finding(what="Python", ok=False, detail=f"{version}; the PostgreSQL wheel needs 3.11 to 3.13: use one")
    return Finding(what="Python", ok=True, detail=version)


def _packages() -> Finding:
    missing = [name for name in RUN_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return Finding(what="packages", ok=False, detail=f"{', '.join(missing)} missing: {INSTALL_HINT}")
    return Finding(what="packages", ok=True, detail="all of the extra `run` are installed")


def _data_dir(data_dir: Path) -> str:
    if data_dir.exists():
        check_data_dir(data_dir)
    elif not os.access(existing := _nearest(data_dir), os.W_OK | os.X_OK):
        raise TallyError(f"{data_dir} cannot be made in {existing}: choose another --data")
    free = shutil.disk_usage(_nearest(data_dir)).free
    return f"{data_dir} is writable, {free // 1_000_000} MB free ({FREE_BYTES_MIN // 1_000_000} MB are needed to start)"


def _nearest(path: Path) -> Path:
    """Return `path`, or the nearest of its parents that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _endpoints(data_dir: Path) -> Iterator[Finding]:
    settings = Settings.load(data_dir)
    probes: tuple[tuple[str, str, Callable[[int, str], bool]], ...] = (
        ("nats", settings.nats_url, embedded_probe.nats_answers),
        ("postgres", settings.postgres_dsn, embedded_probe.postgres_answers),
        ("redis", settings.redis_url, embedded_probe.redis_answers),
    )
    for name, url, answers in probes:
        parts = urlsplit(url)
        host, port = parts.hostname or embedded_probe.HOST, parts.port or DEFAULT_PORTS[name]
        ok = answers(port, host)
        todo = f"tally down --data {data_dir}, then tally up; or look at {data_dir / 'logs' / name}.log"
        yield Finding(what=f"{name} at {host}:{port}", ok=ok, detail="answers" if ok else f"does not answer: {todo}")
    yield _fsync(data_dir)
    yield from _streams(settings)


def _fsync(data_dir: Path) -> Finding:
    config = data_dir / "nats" / "nats-server.conf"
    if not config.exists():
        detail = f"not ours to see ({ENDPOINTS_FILE} names a server elsewhere): set sync_interval: always there"
        return Finding(what="fsync", ok=True, detail=detail)
    ok = "sync_interval: always" in config.read_text(encoding="utf-8")
    detail = "before every acknowledgement" if ok else f"{config} lacks sync_interval: always: start with tally up"
    return Finding(what="fsync", ok=ok, detail=detail)


def _streams(settings: Settings) -> list[Finding]:
    """Compare every tenant's streams with what this version needs."""
    from adapters.jetstream import streams
    from adapters.jetstream.connection import connect
    from bus.errors import BusError

    async def look() -> list[Finding]:
        client = await connect(settings.nats_url, "tally-doctor", patience_s=1.0)
        found = []
        try:
            for tenant in await streams.tenants(client):
                try:
                    await streams.describe(client, tenant)
                    found.append(Finding(what=f"streams of {tenant}", ok=True, detail="configured as they must be"))
                except BusError as err:
                    found.append(Finding(what=f"streams of {tenant}", ok=False, detail=str(err)))
        finally:
            await client.close()
        return found

    try:
        return asyncio.run(look())
    except (BusError, TallyError) as err:
        return [Finding(what="streams", ok=False, detail=str(err))]
