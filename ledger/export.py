"""The public export of a month: a folder, .tar or .zip with everything that an outsider needs but the policy.

    export.json                      format EXPORT_FORMAT, origin, month, files: name to SHA-256
    README.txt                       what this is, how to check it, why the policy is not among the files
    attestation.html                 one page for people (attestation)
    <YYYY-MM>.dsse.json              the certificate
    <YYYY-MM>.opening.checkpoint     its opening checkpoint, as a file
    <YYYY-MM>.checkpoint             its closing checkpoint
    <YYYY-MM>.<authority>.tsr        time stamps of the closing checkpoint

In an archive all stand in one folder. What the certificate does not sign is computed from it again and compared.
"""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from ledger.attestation import VERSION, render_attestation
from ledger.beside import read_stamps, require_stamps, verify_stamps
from ledger.errors import LogDamaged, Malformed, MonthFailed, WrongUse, excerpt
from ledger.files import Source, require
from ledger.months import MonthStatement, certificate_path, month_bounds, open_month, parse_month
from ledger.policy import Policy
from ledger.receipt import Claim, all_stamp_claims, checkpoint_claim
from ledger.timestamps import read_timestamp

EXPORT_FORMAT: Final = "https://tallyroot.example/export/v1"
MANIFEST: Final = "export.json"
README: Final = "README.txt"
ATTESTATION: Final = "attestation.html"
FILES_MAX: Final = 64
BYTES_MAX: Final = 4_000_000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}", re.ASCII)
_ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)

_UNREADABLE: Final = (OSError, EOFError, ValueError, struct.error, zlib.error, tarfile.TarError, zipfile.BadZipFile)

_README: Final = """Monthly root of {origin}, {month}
{line}

These files show which events the log recorded from {start} up to, not including, {end}:
{events} of them, under the root

    {root}

To check them, offline:

    tally verify THIS --policy POLICY        (or tally-verify.pyz, which needs Python and its package `cryptography`)

THIS is this folder or archive. POLICY is a file with the public keys whose signatures count. It is not here on purpose:
whoever could forge these files could add a policy that fits. Take it by a way that you trust (from the log's operator
in person, from a contract, from an auditor, from an earlier month), and keep your own copy. The policy file of the
signer had the SHA-256

    {policy}

when it certified this month; later ones have other digests, since they name later keys.

The files, and other tools for them:

    {month}.dsse.json             the certificate: an in-toto statement in a DSSE envelope
    {month}.opening.checkpoint    the checkpoint at which the month opened (C2SP tlog-checkpoint), as in the certificate
    {month}.checkpoint            the one at which it closed
    {month}.<authority>.tsr       RFC 3161 time stamps of it, if there are any:
        openssl ts -verify -data {month}.checkpoint -in {month}.<authority>.tsr -CAfile CA.pem
    attestation.html              the same for people, on one page
    export.json                   the list of these files with their SHA-256

The digest of this certificate is {digest}.
Next month's certificate names it; this one names {previous}.
"""


def make_export(source: Source, policy: Policy, month: str) -> dict[str, bytes]:
    """The files of a closed month by name, verified before they are handed out."""
    certificate = require(source, certificate_path(parse_month(month)))
    statement = open_month(certificate_path(month), certificate, policy)
    stamps = read_stamps(source, month, policy)
    files = _derived(statement, stamps)
    files[f"{month}.dsse.json"] = certificate
    files |= {f"{month}.{name}.tsr": data for name, data in stamps.items()}
    files[MANIFEST] = _manifest(statement, files)
    for _ in verify_export("new export", files, policy):
        pass
    return dict(sorted(files.items()))


def _derived(statement: MonthStatement, stamps: Mapping[str, bytes]) -> dict[str, bytes]:
    """Everything that follows from the certificate and the stamps."""
    month, checkpoint = statement.month, statement.closing.checkpoint
    stated = {name: (data, read_timestamp(f"stamp of {name}", data, checkpoint)[0]) for name, data in stamps.items()}
    start, end = month_bounds(month)
    title = f"Monthly root of {statement.origin}, {month}"
    readme = _README.format(
        origin=statement.origin,
        month=month,
        line="=" * len(title),
        start=start,
        end=end,
        events=statement.closing.tree_size - statement.opening.tree_size,
        root=statement.closing_root.hex(),
        policy=statement.policy_digest,
        digest=statement.digest,
        previous=statement.previous_digest or "none, it is the first",
    )
    return {
        README: readme.encode(),
        ATTESTATION: render_attestation(statement, stated),
        f"{month}.opening.checkpoint": statement.opening.checkpoint,
        f"{month}.checkpoint": checkpoint,
    }


def _manifest(statement: MonthStatement, files: Mapping[str, bytes]) -> bytes:
    value = {
        "format": EXPORT_FORMAT,
        "origin": statement.origin,
        "month": statement.month,
        "files": {name: sha256(data).hexdigest() for name, data in sorted(files.items()) if name != MANIFEST},
    }
    return json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n"


def verify_export(
    what: str, files: Mapping[str, bytes], policy: Policy, *, needs_stamp: bool = False
) -> Iterator[Claim]:
    """Check an export against a policy, claim by claim; raises a `LedgerError` at the first no.

    The certificate names no stamp, so the policy says which must be there, as for an audit: an authority has three
    days. Within these one that is missing is told, and refused where one is needed.
    """
    month = _month_of(what, files)
    certificate = f"{month}.dsse.json"
    statement = open_month(f"{what}, {certificate}", _require(what, files, certificate), policy)
    if statement.month != month or statement.is_provisional:
        raise MonthFailed(f"{what}, {certificate}", expected=f"the certificate of {month}", found=statement.name)
    stamps = {
        name.removeprefix(f"{month}.").removesuffix(".tsr"): data
        for name, data in files.items()
        if name.endswith(".tsr") and name.startswith(f"{month}.")
    }
    yield checkpoint_claim(policy.open(what, statement.closing.checkpoint, origin=statement.origin))
    events = statement.closing.tree_size - statement.opening.tree_size
    yield Claim("month", f"{statement.name}: {events} events, root {statement.closing_root.hex()}")
    checked = verify_stamps(what, statement, stamps, policy)
    require_stamps(statement, checked, policy, policy.now_seconds, within=f"{what}, ")
    yield from all_stamp_claims(what, statement, checked, policy, needs_stamp=needs_stamp)
    expected = _derived(statement, stamps) | {certificate: files[certificate]}
    expected |= {f"{month}.{name}.tsr": data for name, data in stamps.items()}
    expected[MANIFEST] = _manifest(statement, files)
    if set(files) != set(expected):
        strange, missing = sorted(set(files) - set(expected)), sorted(set(expected) - set(files))
        raise LogDamaged(
            f"{what}, files", expected=" ".join(missing) or "no others", found=" ".join(map(excerpt, strange)) or "none"
        )
    for name, data in sorted(expected.items()):
        if files[name] != data:
            by = f" ({VERSION})" if name == ATTESTATION else ""
            raise LogDamaged(f"{what}, {name}", expected=f"what follows from the certificate{by}", found="other bytes")
    yield Claim("export", f"{len(files)} files, each as it follows from the certificate, {ATTESTATION} among them")


def _month_of(what: str, files: Mapping[str, bytes]) -> str:
    try:
        value = json.loads(_require(what, files, MANIFEST))
        kind, month = value["format"], value["month"]
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise Malformed(
            f"{what}, {MANIFEST}", expected="format, origin, month and files", found=excerpt(str(err))
        ) from err
    if kind != EXPORT_FORMAT:
        raise Malformed(f"{what}, {MANIFEST}, format", expected=EXPORT_FORMAT, found=excerpt(str(kind)))
    if not isinstance(month, str):
        raise Malformed(f"{what}, {MANIFEST}, month", expected="YYYY-MM", found=excerpt(str(month)))
    return parse_month(month)


def _require(what: str, files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise LogDamaged(f"{what}, {name}", expected="the file", found="none")
    return files[name]


# folders and archives


def is_export(path: Path, data: bytes) -> bool:
    """Whether a path is a folder, or these bytes of it are a .zip or .tar."""
    return path.is_dir() or data.startswith(b"PK\x03\x04") or data[257:262] == b"ustar"


def read_export(path: Path, data: bytes) -> dict[str, bytes]:
    """The files of an export by name; nothing is unpacked to disk. Raises `Malformed`."""
    what = path.name
    try:
        if path.is_dir():
            pairs = [(entry.name, entry.read_bytes()) for entry in _bounded(what, path.iterdir())]
        elif data.startswith(b"PK"):
            pairs = _unzip(what, data)
        else:
            pairs = _untar(what, data)
    except (*_UNREADABLE, RuntimeError) as err:  # encrypted, or packed in a way that this Python does not know
        raise Malformed(what, expected="an export: a folder, .tar or .zip", found=excerpt(str(err))) from err
    files: dict[str, bytes] = {}
    folders = {name.rpartition("/")[0] for name, _ in pairs}
    for name, content in pairs:
        short = name.rpartition("/")[2]
        if not _NAME.fullmatch(short) or short in files or len(folders) > 1:
            raise Malformed(what, expected="files of plain names in one folder, each once", found=excerpt(name))
        files[short] = content
    return files


def _bounded(what: str, entries: Iterator[Path]) -> list[Path]:
    found: list[Path] = []
    for entry in entries:
        if not entry.is_file() or entry.stat().st_size > BYTES_MAX or len(found) >= FILES_MAX:
            raise Malformed(what, expected=f"{FILES_MAX} files of {BYTES_MAX} bytes at most", found=excerpt(entry.name))
        found.append(entry)
    return found


def _unzip(what: str, data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        if len(infos) > FILES_MAX or any(info.file_size > BYTES_MAX or info.is_dir() for info in infos):
            raise Malformed(what, expected=f"{FILES_MAX} files of {BYTES_MAX} bytes at most", found=f"{len(infos)}")
        pairs = []
        for info in infos:
            with archive.open(info) as file:
                pairs.append((info.filename, file.read(BYTES_MAX)))
        return pairs


def _untar(what: str, data: bytes) -> list[tuple[str, bytes]]:
    pairs: list[tuple[str, bytes]] = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() and member.size <= BYTES_MAX else None
            if file is None or len(pairs) >= FILES_MAX:
                raise Malformed(
                    what, expected=f"{FILES_MAX} files of {BYTES_MAX} bytes at most", found=excerpt(member.name)
                )
            pairs.append((member.name, file.read()))
    return pairs


def write_export(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder, .tar or .zip, by the name; the same files give the same bytes. Raises `WrongUse`."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise WrongUse(f"{path}", expected="nothing there yet", found="a file or folder: name another")
    if path.suffix not in {".tar", ".zip"}:
        path.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (path / name).write_bytes(data)
        return
    content = io.BytesIO()
    if path.suffix == ".zip":
        with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(f"{path.stem}/{name}", _ZIP_EPOCH), data)
    else:
        with tarfile.open(fileobj=content, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(f"{path.stem}/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    path.write_bytes(content.getvalue())
