"""All keys of one log's signer: one for each role, in a folder of their own, mode 0700.

log-ed25519                  signs checkpoints, type 0x01
log-mldsa44                  signs checkpoints, type 0x06, where the build of `cryptography` has ML-DSA-44
certificate-ed25519          signs monthly certificates (DSSE)
policy                       the auditors' trust root; written last, so that it marks a complete set
last-signed                  the last checkpoint signed, remembered apart from the log
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.checkpoint import Checkpoint
from ledger.errors import KeyRefused, WrongUse
from ledger.files import Folder
from ledger.keys import KeyOpener, SigningKey, new_key, one_line, write_key
from ledger.note import COSIGNATURE_ML_DSA_44, ED25519, Note, VerifierKey
from ledger.policy import Policy, parse_policy
from ledger.primitives import has_ml_dsa_44

ORIGIN_PREFIX: Final = "tallyroot.example/ledger"
LOG_KEY: Final = "log-ed25519"
LOG_PQ_KEY: Final = "log-mldsa44"
CERTIFICATE_KEY: Final = "certificate-ed25519"
POLICY: Final = "policy"
LAST_SIGNED: Final = "last-signed"
FILES_ONLY: Final = KeyOpener()


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys of one log's signer, and the policy under which their signatures are checked."""

    folder: Path
    log_keys: tuple[SigningKey, ...]
    certificate_key: SigningKey
    policy: Policy

    @property
    def origin(self) -> str:
        return self.log_keys[0].key.name

    def sign(self, checkpoint: Checkpoint, at_seconds: int) -> bytes:
        """The checkpoint as a note, signed by every log key whose range covers it."""
        ranges = {log.key: log for log in self.policy.logs}
        lines = [
            key.sign_checkpoint(checkpoint, at_seconds)
            for key in self.log_keys
            if ranges[key.key].covers(checkpoint.tree_size)
        ]
        return bytes(Note(checkpoint.text, tuple(lines)))


def load_keyring(folder: Path, opener: KeyOpener = FILES_ONLY) -> Keyring:
    """Read a tenant's keys; raises `WrongUse` when one is missing and `KeyRefused` when one is wrong."""
    files = Folder(folder)
    policy = parse_policy(str(folder / POLICY), _require(files, POLICY))
    log_keys = [opener.open(folder, LOG_KEY)]
    if is_kept(files, LOG_PQ_KEY):
        log_keys.append(opener.open(folder, LOG_PQ_KEY))
    listed = {log.key for log in policy.logs}
    for key in log_keys:
        if key.key not in listed:
            raise KeyRefused(f"{folder / POLICY}", expected=f"a log line for {key.key.label}", found="none")
    certificate_key = opener.open(folder, CERTIFICATE_KEY)
    if certificate_key.key not in policy.certificate_keys:
        raise KeyRefused(f"{folder / POLICY}", expected=f"a certificate line for {certificate_key.key.label}")
    return Keyring(folder, tuple(log_keys), certificate_key, policy)


def _require(files: Folder, name: str) -> bytes:
    data = files.read(name)
    if data is None:
        raise WrongUse(
            f"{files.root / name} is not there: restore the keys, or make new ones for a new log (tally keys generate)"
        )
    return data


def is_kept(files: Folder, name: str) -> bool:
    """Whether the private half of a key is there, or a reference to it."""
    return files.read(f"{name}.key") is not None or files.read(f"{name}.ref") is not None


def ensure_keys(keys_dir: Path, tenant: str, *, origin: str | None = None, opener: KeyOpener = FILES_ONLY) -> Keyring:
    """The keys of a tenant; generates what is missing until the policy marks the set complete."""
    folder = keys_dir / tenant
    if not (folder / POLICY).exists():
        generate_keys(folder, origin or f"{ORIGIN_PREFIX}/{tenant}", opener=opener)
    return load_keyring(folder, opener)


def generate_keys(
    folder: Path, origin: str, *, opener: KeyOpener = FILES_ONLY, references: Mapping[str, str] | None = None
) -> None:
    """Make a set of keys; raises `WrongUse` when there is a complete one. A set that was begun is completed.

    `references` name the keys that are elsewhere; the others are drawn, and encrypted when the opener says so.
    """
    if (folder / POLICY).exists():
        raise WrongUse(
            f"{folder}", expected="no keys yet", found="a complete set; keys are never replaced, only rotated"
        )
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    files = Folder(folder)
    roles = [(LOG_KEY, origin, ED25519), (CERTIFICATE_KEY, f"{origin}/certificates", ED25519)]
    if has_ml_dsa_44():
        roles.insert(1, (LOG_PQ_KEY, origin, COSIGNATURE_ML_DSA_44))
    unknown = set(references or {}) - {name for name, _, _ in roles}
    if unknown:
        wanted = ", ".join(name for name, _, _ in roles)
        raise WrongUse("keys that are elsewhere", expected=f"some of {wanted}", found=", ".join(sorted(unknown)))
    for name, reference in (references or {}).items():
        files.replace(f"{name}.ref", f"{reference}\n".encode(), mode=0o600)
    public = {name: _ensure_key(files, name, owner, algorithm, opener) for name, owner, algorithm in roles}
    files.replace(POLICY, format_policy(origin, public))


def _ensure_key(files: Folder, name: str, owner: str, algorithm: int, opener: KeyOpener) -> VerifierKey:
    reference = files.read(f"{name}.ref")
    if reference is not None:
        line = one_line(files.root / f"{name}.ref", reference)
        key = VerifierKey.parse(opener.open_service(line, owner, algorithm).vkey)
        if (key.name, key.algorithm) != (owner, algorithm):
            raise KeyRefused(f"{name}.ref", expected=f"a key of {owner}, type 0x{algorithm:02x}", found=key.label)
    elif files.read(f"{name}.key") is not None:
        key = opener.open(files.root, name).key
    else:
        key, seed = new_key(owner, algorithm)
        write_key(files, name, key, seed, opener.passphrase if opener.encrypts else None)
    files.replace(f"{name}.vkey", f"{key}\n".encode())
    return key


def format_policy(origin: str, public: dict[str, VerifierKey]) -> bytes:
    """The trust root that auditors of a new log are given."""
    lines = [f"# Trust root of the log {origin} (C2SP tlog-policy): keep it where the log's operator cannot change it."]
    for name in (LOG_KEY, LOG_PQ_KEY):
        if name in public:
            lines += [f"# tally-range {public[name].key_id.hex()} 0 -", f"log {public[name]}"]
    lines += [f"# tally-certificate {public[CERTIFICATE_KEY]}", "quorum none", ""]
    return "\n".join(lines).encode()
