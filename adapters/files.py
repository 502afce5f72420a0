"""Directories and files of an installation: made with one-line errors, written whole or not at all."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.errors import TallyError
from adapters.settings import ENDPOINTS_FILE, read_endpoints


def make_directory(path: Path, mode: int = 0o755) -> Path:
    """Make `path` and its parents; raises TallyError in one line when that cannot be."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as err:
        raise TallyError(f"{path} or a part of it is a file, a directory is needed: choose another --data") from err
    except OSError as err:
        raise TallyError(f"{path} cannot be made ({err.strerror}): choose another --data or mend this one") from err
    return path


def write_atomically(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    """Write a whole file or nothing: beside its place, flushed to the disk, then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_endpoints(data_dir: Path, endpoints: dict[str, Any]) -> None:
    """Say to scripts and people that everything is ready, and where."""
    with _endpoints_lock(data_dir):
        write_atomically(data_dir / ENDPOINTS_FILE, json.dumps(endpoints, indent=2) + "\n")


def change_endpoints(data_dir: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Apply `change` to endpoints.json; does nothing when there is none (nothing is up)."""
    with _endpoints_lock(data_dir):
        endpoints = read_endpoints(data_dir)
        if endpoints is not None:
            change(endpoints)
            write_atomically(data_dir / ENDPOINTS_FILE, json.dumps(endpoints, indent=2) + "\n")


def record_tenant(data_dir: Path, tenant: str) -> None:
    """Add a tenant that was just provisioned to endpoints.json."""
    change_endpoints(data_dir, lambda known: known.update(tenants=sorted({*known.get("tenants", ()), tenant})))


@contextmanager
def _endpoints_lock(data_dir: Path) -> Iterator[None]:
    """The supervisor and `tally tenant create` both change the file."""
    with (data_dir / ".endpoints.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
