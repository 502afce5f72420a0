"""The signer's keys: one for each role, kept as text of one line each, mode 0600, in a folder of their own.

log-ed25519.key              signs checkpoints, type 0x01            (with .vkey beside it)
log-mldsa44.key              signs checkpoints, type 0x06, where the build of `cryptography` has ML-DSA-44
certificate-ed25519.key      signs monthly certificates (DSSE)
policy                       the auditors' trust root; written last, so that it marks a complete set
last-signed                  the last checkpoint signed, remembered apart from the log

PRIVATE+KEY+<name>+<key ID>+base64(type || seed of 32 bytes)         the form of Go's sumdb/note
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ledger.checkpoint import Checkpoint, signed_message
from ledger.encoding import encode_base64
from ledger.errors import KeyRefused, WrongUse
from ledger.files import Folder
from ledger.note import COSIGNATURE_ML_DSA_44, ED25519, Note, SignatureLine, VerifierKey, split_private_key
from ledger.policy import Policy, parse_policy
from ledger.primitives import SEED_BYTES, Secret, ed25519_public, has_ml_dsa_44, ml_dsa_44_public

ORIGIN_PREFIX: Final = "tallyroot.example/ledger"
LOG_KEY: Final = "log-ed25519"
LOG_PQ_KEY: Final = "log-mldsa44"
CERTIFICATE_KEY: Final = "certificate-ed25519"
POLICY: Final = "policy"
LAST_SIGNED: Final = "last-signed"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with its public half."""

    key: VerifierKey
    secret: Secret

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a private key in Go's form; raises `KeyRefused`."""
        name, id_text, algorithm, seed = split_private_key(text)
        key = public_key(name, algorithm, seed)
        if key.key_id.hex() != id_text:
            raise KeyRefused(f"private key of {name}", expected=f"key ID {key.key_id.hex()}", found=id_text)
        return cls(key, Secret(seed, is_ml_dsa=algorithm == COSIGNATURE_ML_DSA_44))

    def sign_checkpoint(self, checkpoint: Checkpoint, at_seconds: int) -> SignatureLine:
        """One signature line; the time is part of it for 0x06."""
        message = signed_message(checkpoint, self.key.name, self.key.algorithm, at_seconds)
        time = b"" if self.key.algorithm == ED25519 else at_seconds.to_bytes(8, "big")
        return SignatureLine(self.key.name, self.key.key_id, time + self.secret.sign(message))


def public_key(name: str, algorithm: int, seed: bytes) -> VerifierKey:
    public = ml_dsa_44_public(seed) if algorithm == COSIGNATURE_ML_DSA_44 else ed25519_public(seed)
    return VerifierKey(name, algorithm, public)


def format_private_key(key: VerifierKey, seed: bytes) -> str:
    return f"PRIVATE+KEY+{key.label}+{encode_base64(bytes([key.algorithm]) + seed)}"


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


def load_keyring(folder: Path) -> Keyring:
    """Read a tenant's keys; raises `WrongUse` when one is missing and `KeyRefused` when one is wrong."""
    files = Folder(folder)
    policy = parse_policy(str(folder / POLICY), _require(files, POLICY))
    log_keys = [_load_key(files, LOG_KEY)]
    if files.read(f"{LOG_PQ_KEY}.key") is not None:
        log_keys.append(_load_key(files, LOG_PQ_KEY))
    listed = {log.key for log in policy.logs}
    for key in log_keys:
        if key.key not in listed:
            raise KeyRefused(f"{folder / POLICY}", expected=f"a log line for {key.key.label}", found="none")
    certificate_key = _load_key(files, CERTIFICATE_KEY)
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


def _load_key(files: Folder, name: str) -> SigningKey:
    text = _require(files, f"{name}.key").decode("ascii", "replace")
    if not text.endswith("\n") or text.count("\n") != 1:
        raise KeyRefused(f"{files.root / name}.key", expected="one line")
    return SigningKey.parse(text[:-1])


def ensure_keys(keys_dir: Path, tenant: str, *, origin: str | None = None) -> Keyring:
    """The keys of a tenant; generates what is missing until the policy marks the set complete."""
    folder = keys_dir / tenant
    if not (folder / POLICY).exists():
        generate_keys(folder, origin or f"{ORIGIN_PREFIX}/{tenant}")
    return load_keyring(folder)


def generate_keys(folder: Path, origin: str) -> None:
    """Make a set of keys; raises `WrongUse` when there is a complete one. A set that was begun is completed."""
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
    public = {name: _ensure_key(files, name, owner, algorithm) for name, owner, algorithm in roles}
    files.replace(POLICY, format_policy(origin, public))


def _ensure_key(files: Folder, name: str, owner: str, algorithm: int) -> VerifierKey:
    if files.read(f"{name}.key") is not None:
        key = _load_key(files, name).key
    else:
        seed = secrets.token_bytes(SEED_BYTES)
        key = public_key(owner, algorithm, seed)
        files.replace(f"{name}.key", f"{format_private_key(key, seed)}\n".encode(), mode=0o600)
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


def is_private(path: Path) -> bool:
    """Whether nobody but the owner can read a file."""
    return path.stat().st_mode & 0o077 == 0
