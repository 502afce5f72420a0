"""Who stamps the time of a log's months, where copies of them are kept, which bucket serves the whole log.

One TOML file, `roots.toml` in the data directory or where TALLY_ROOTS_CONFIG points; paths in it begin at its folder:

    [authorities.freetsa]                      any number of them, each stamps every month
    url = "https://freetsa.org/tsr"            RFC 3161 over HTTP; or a program that reads a request, writes a response:
    command = ["openssl", "ts", "-reply", "-config", "ts.cnf", "-queryfile", "/dev/stdin"]
    ca = "freetsa-ca.pem"                      its root certificates (PEM)

    [worm]                                     an S3 bucket with versions and Object Lock
    bucket = "tally-roots"
    prefix = "production"                      optional
    endpoint = "https://s3.example"            optional: a store that speaks S3
    retention_days = 3650                      in COMPLIANCE mode: nobody can delete or shorten

    [publish]                                  an S3 bucket that serves the whole log
    bucket = "tally-log"
    prefix = "production"                      optional
    endpoint = "https://s3.example"            optional
    every_seconds = 1                          how often a newer checkpoint is looked for
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from adapters.errors import TallyError
from adapters.settings import Settings
from ledger.encoding import encode_base64
from ledger.errors import LedgerError
from ledger.files import Folder, require
from ledger.keyfolder import POLICY
from ledger.timestamps import require_authority_name

CONFIG_FILE: Final = "roots.toml"
CONFIG_VARIABLE: Final = "TALLY_ROOTS_CONFIG"
RETENTION_DAYS: Final = 3650
PUBLISH_EVERY_S: Final = 1


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A time stamp authority: `url` or `command`, and its root certificates in DER."""

    name: str
    url: str
    command: tuple[str, ...]
    folder: Path
    roots: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class Worm:
    """A bucket with Object Lock; an empty `endpoint` is that of AWS."""

    bucket: str
    prefix: str
    endpoint: str
    retention_days: int


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A bucket from which the whole log is served."""

    bucket: str
    prefix: str
    endpoint: str
    every_s: int


def store_place(store: Worm | Publication, tenant: str, path: str = "") -> str:
    """The address of an object, or of a log's folder, as people and other tools write it."""
    return "/".join(("s3:/", *filter(None, (store.bucket, store.prefix, tenant, path))))


@dataclass(frozen=True, kw_only=True)
class RootsConfig:
    authorities: tuple[Authority, ...] = ()
    worm: Worm | None = None
    publication: Publication | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing happens with the months."""
        return not self.authorities and self.worm is None


def config_path(settings: Settings) -> Path:
    return Path(os.environ.get(CONFIG_VARIABLE) or settings.data_dir / CONFIG_FILE)


def load_roots_config(settings: Settings) -> RootsConfig:
    """Read the file; nothing is configured where there is none. Raises TallyError."""
    path = config_path(settings)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if os.environ.get(CONFIG_VARIABLE):
            raise TallyError(f"{path} is not there: {CONFIG_VARIABLE} names it") from None
        return RootsConfig()
    except (OSError, ValueError) as err:
        raise TallyError(f"{path} cannot be read ({err}): write it as docs/formats.md says, or remove it") from err
    _require_keys(f"{path}", content, {"authorities", "worm", "publish"})
    authorities = content.get("authorities", {})
    if not isinstance(authorities, dict):
        raise TallyError(f"{path}: authorities is {authorities!r}, wanted tables like [authorities.freetsa]")
    worm, publication = content.get("worm"), content.get("publish")
    return RootsConfig(
        authorities=tuple(_authority(path, name, value) for name, value in authorities.items()),
        worm=None if worm is None else _worm(path, worm),
        publication=None if publication is None else _publication(path, publication),
    )


def _authority(path: Path, name: str, value: Any) -> Authority:
    what = f"{path}, authorities.{name}"
    try:
        require_authority_name(name)
    except LedgerError as err:
        raise TallyError(f"{what}: {err}") from err
    _require_keys(what, value, {"url", "command", "ca"})
    url, command, ca = value.get("url", ""), value.get("command", []), value.get("ca", "")
    is_command = isinstance(command, list) and all(isinstance(word, str) for word in command)
    if not (isinstance(url, str) and is_command and isinstance(ca, str)) or bool(url) == bool(command) or not ca:
        raise TallyError(f"{what}: wanted ca (a PEM file) and either url (text) or command (a list of words)")
    if url and not url.startswith(("http://", "https://")):
        raise TallyError(f"{what}: url is {url!r}, wanted http:// or https://")
    roots = _load_roots(what, path.parent / ca)
    return Authority(name=name, url=url, command=tuple(command), folder=path.parent, roots=roots)


def _load_roots(what: str, path: Path) -> tuple[bytes, ...]:
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as err:
        raise TallyError(f"{what}: {path} holds no certificates in PEM ({err}): name the authority's roots") from err
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def _worm(path: Path, value: Any) -> Worm:
    bucket, prefix, endpoint, days = _store(f"{path}, worm", value, "retention_days", RETENTION_DAYS)
    return Worm(bucket=bucket, prefix=prefix, endpoint=endpoint, retention_days=days)


def _publication(path: Path, value: Any) -> Publication:
    bucket, prefix, endpoint, every_s = _store(f"{path}, publish", value, "every_seconds", PUBLISH_EVERY_S)
    return Publication(bucket=bucket, prefix=prefix, endpoint=endpoint, every_s=every_s)


def _store(what: str, value: Any, number_key: str, default: int) -> tuple[str, str, str, int]:
    """Bucket, prefix, endpoint and the one number of a store."""
    _require_keys(what, value, {"bucket", "prefix", "endpoint", number_key})
    bucket, number = value.get("bucket"), value.get(number_key, default)
    prefix, endpoint = value.get("prefix", ""), value.get("endpoint", "")
    if not isinstance(bucket, str) or not bucket or not isinstance(prefix, str) or not isinstance(endpoint, str):
        raise TallyError(f"{what}: wanted bucket, and maybe prefix and endpoint, as text")
    if type(number) is not int or number < 1:
        raise TallyError(f"{what}: {number_key} is {number!r}, wanted a number from 1")
    return bucket, prefix.strip("/"), endpoint, number


def _require_keys(what: str, value: Any, known: set[str]) -> None:
    if not isinstance(value, dict):
        raise TallyError(f"{what} is {value!r}, wanted a table")
    unknown = sorted(set(value) - known)
    if unknown:
        raise TallyError(f"{what} names {', '.join(unknown)}, wanted some of {', '.join(sorted(known))}")


def trust_authorities(keys_dir: Path, config: RootsConfig) -> bool:
    """Name the authorities' roots in the signer's policy file, so that auditors who take it over can check stamps.

    Returns whether the file changed.
    """
    folder = Folder(keys_dir)
    policy = require(folder, POLICY)
    lines = [
        f"# tally-timestamp {authority.name} {encode_base64(root)}\n".encode()
        for authority in config.authorities
        for root in authority.roots
    ]
    missing = [line for line in lines if line not in policy]
    if missing:
        folder.replace(POLICY, policy + b"".join(missing))
    return bool(missing)
