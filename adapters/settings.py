"""Where everything is: from the environment, else from the endpoints.json of a running installation."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from adapters.errors import NotConfigured, TallyError

ENDPOINTS_FILE = "endpoints.json"
DEFAULT_DATA_DIR = Path(".tally")

# field of Settings -> (environment variable, key in endpoints.json)
SOURCES: dict[str, tuple[str, str]] = {
    "nats_url": ("TALLY_NATS_URL", "nats"),
    "postgres_dsn": ("TALLY_POSTGRES_DSN", "postgres"),
    "redis_url": ("TALLY_REDIS_URL", "redis"),
    "iceberg_catalog_uri": ("TALLY_ICEBERG_CATALOG_URI", "iceberg_catalog"),
    "iceberg_warehouse": ("TALLY_ICEBERG_WAREHOUSE", "iceberg_warehouse"),
    "log_dir": ("TALLY_LOG_DIR", "log_dir"),
    "keys_dir": ("TALLY_KEYS_DIR", "keys_dir"),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Endpoints and folders of one installation; `log_dir/<tenant>/` is what a web server publishes."""

    data_dir: Path
    nats_url: str
    postgres_dsn: str
    redis_url: str
    iceberg_catalog_uri: str
    iceberg_warehouse: str
    log_dir: Path
    keys_dir: Path
    tenants: tuple[str, ...] = ()

    @classmethod
    def load(
        cls, data_dir: Path | None, environ: Mapping[str, str] | None = None, *, need: Iterable[str] = tuple(SOURCES)
    ) -> Self:
        """Read the settings; what `need` names must be known, anything else unknown is an empty string.

        Raises NotConfigured when something needed is neither in the environment nor in `data_dir`/endpoints.json.
        """
        environ = os.environ if environ is None else environ
        data_dir = (data_dir or DEFAULT_DATA_DIR).absolute()
        endpoints = read_endpoints(data_dir)
        # The folders of the log and its keys stay readable when the installation is down.
        known = {"log_dir": str(data_dir / "published"), "keys_dir": str(data_dir / "keys")} | (endpoints or {})
        values = {field: environ.get(variable) or known.get(key, "") for field, (variable, key) in SOURCES.items()}
        missing = [SOURCES[field][0] for field in need if not values[field]]
        if missing:
            found = "does not name it" if endpoints is not None else "is not there"
            raise NotConfigured(
                f"{', '.join(missing)} not set, and {data_dir / ENDPOINTS_FILE} {found}: "
                f"start an installation (tally up --data {data_dir}) or set the variable"
            )
        log_dir, keys_dir = Path(values.pop("log_dir")), Path(values.pop("keys_dir"))
        tenants = tuple(known.get("tenants", ()))
        return cls(data_dir=data_dir, log_dir=log_dir, keys_dir=keys_dir, tenants=tenants, **values)


def read_endpoints(data_dir: Path) -> dict[str, Any] | None:
    """Return the content of endpoints.json, None when there is none; raises TallyError when it is not JSON."""
    path = data_dir / ENDPOINTS_FILE
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as err:
        raise TallyError(f"{path} cannot be read ({err}): run tally down --data {data_dir}, then tally up") from err
    if not isinstance(content, dict):
        raise TallyError(f"{path} holds no JSON object: run tally down --data {data_dir}, then tally up")
    return content
