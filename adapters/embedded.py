"""A whole set of embedded servers under one data directory: started in order, stopped in the opposite order."""

import errno
import json
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from adapters.embedded_servers import EmbeddedServer, NatsServer, PostgresServer, ValkeyServer
from adapters.errors import TallyError
from adapters.files import make_directory, write_atomically

PORTS_FILE = "ports.json"
FREE_BYTES_MIN = 300_000_000


@dataclass(frozen=True, kw_only=True)
class Ports:
    """A port for each server; None means: the one of the previous run when it is free, else any free one."""

    nats: int | None = None
    postgres: int | None = None
    redis: int | None = None


class EmbeddedServers:
    """NATS, PostgreSQL and Valkey with their data in `data_dir`; a context manager."""

    def __init__(self, data_dir: Path, *, ports: Ports | None = None, keep_open: tuple[int, ...] = ()) -> None:
        self.data_dir = data_dir.absolute()
        ports = ports or Ports()
        kinds: dict[str, tuple[type[EmbeddedServer], int | None]] = {
            "nats": (NatsServer, ports.nats),
            "postgres": (PostgresServer, ports.postgres),
            "redis": (ValkeyServer, ports.redis),
        }
        self._servers = {
            name: kind(
                self.data_dir / name,
                self.data_dir / "logs" / f"{name}.log",
                fixed_port=port,
                keep_open=keep_open,
            )
            for name, (kind, port) in kinds.items()
        }

    @property
    def servers(self) -> tuple[EmbeddedServer, ...]:
        return tuple(self._servers.values())

    def start(self) -> None:
        """Start all and return when each answers; raises TallyError in one line, with nothing left running."""
        check_data_dir(self.data_dir)
        previous = self._previous_ports()
        try:
            for name, server in self._servers.items():
                server.start(getattr(previous, name))
            ports = Ports(**{name: server.port for name, server in self._servers.items()})
            write_atomically(self.data_dir / PORTS_FILE, json.dumps(asdict(ports)) + "\n")
        except BaseException as err:
            self.stop()
            if isinstance(err, OSError):
                raise TallyError(f"{err.filename or self.data_dir}: {err.strerror}: choose another --data") from err
            raise

    def stop(self) -> None:
        for server in reversed(self.servers):
            server.stop()

    def endpoints(self) -> dict[str, Any]:
        """Return what endpoints.json says of the servers and folders."""
        iceberg = make_directory(self.data_dir / "iceberg")
        return {
            **{name: server.url for name, server in self._servers.items()},
            "iceberg_catalog": f"sqlite:///{iceberg / 'catalog.db'}",
            # Not as_uri(): pyiceberg takes the path as it stands, and would make a folder named a%20b.
            "iceberg_warehouse": f"file://{make_directory(iceberg / 'warehouse')}",
            "log_dir": str(make_directory(self.data_dir / "published")),
            "keys_dir": str(make_directory(self.data_dir / "keys", mode=0o700)),
        }

    def _previous_ports(self) -> Ports:
        with suppress(OSError, ValueError):
            content = json.loads((self.data_dir / PORTS_FILE).read_bytes())
            known = {f.name: content.get(f.name) for f in fields(Ports)}
            return Ports(**{name: port for name, port in known.items() if isinstance(port, int)})
        return Ports()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def check_data_dir(data_dir: Path) -> None:
    """Make `data_dir` and try to write into it; raises TallyError when it is unwritable or its disk is full."""
    make_directory(data_dir)
    try:
        with tempfile.TemporaryFile(dir=data_dir) as probe:
            probe.write(b"tally")
        free = shutil.disk_usage(data_dir).free
    except OSError as err:
        if err.errno == errno.ENOSPC:
            free = 0
        else:
            raise TallyError(f"{data_dir} is not writable ({err.strerror}): choose another --data") from err
    if free < FREE_BYTES_MIN:
        raise TallyError(
            f"{data_dir} has {free // 1_000_000} MB free, {FREE_BYTES_MIN // 1_000_000} MB are needed: "
            "free some space or choose another --data"
        )
