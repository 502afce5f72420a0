"""All keys of one log's signer, and its policy: which of them signs what.

In a folder of their own, mode 0700 (keyfolder), with

last-signed                  the last checkpoint signed, remembered apart from the log
<name>.last-checkpoint       of a retired key: the last one that it signed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.checkpoint import Checkpoint
from ledger.errors import KeyRefused, WrongUse
from ledger.files import Folder
from ledger.keyfolder import CERTIFICATE_KEY, LOG_KEY, LOG_PQ_KEY, POLICY, is_kept, key_names
from ledger.keys import KeyOpener, SigningKey, new_key, one_line, read_public, write_key
from ledger.note import COSIGNATURE_ML_DSA_44, ED25519, Note, VerifierKey
from ledger.policy import LogKey, Policy, parse_policy
from ledger.primitives import has_ml_dsa_44

ORIGIN_PREFIX: Final = "tallyroot.example/ledger"
LAST_SIGNED: Final = "last-signed"
FILES_ONLY: Final = KeyOpener()


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys of one log's signer, and the policy under which their signatures are checked."""

    folder: Path
    log_keys: tuple[SigningKey, ...]
    certificate_keys: tuple[SigningKey, ...]
    policy: Policy
    opener: KeyOpener

    @property
    def origin(self) -> str:
        return self.log_keys[0].key.name

    def certificate_key_at(self, closing_size: int) -> SigningKey:
        """The newest key that may sign for a month which closes at this size; raises `KeyRefused`."""
        for key in reversed(self.certificate_keys):
            if any(ranged.covers(closing_size) for ranged in self.policy.certificates if ranged.key == key.key):
                return key
        raise KeyRefused(f"{self.folder / POLICY}", expected=f"a certificate key for size {closing_size}", found="none")

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
    """Read a tenant's keys; raises `WrongUse` when one is missing and `KeyRefused` when one is wrong.

    Keys that the policy does not name are passed over: an event that adds them may be on its way.
    """
    policy = parse_policy(str(folder / POLICY), _require(Folder(folder), POLICY))
    publics = {read_public(folder / f"{name}.vkey"): name for name in key_names(folder)}
    log_keys = _load_keys(folder, policy.logs, publics, opener)
    return Keyring(folder, log_keys, _load_keys(folder, policy.certificates, publics, opener), policy, opener)


def _load_keys(
    folder: Path, listed: tuple[LogKey, ...], publics: Mapping[VerifierKey, str], opener: KeyOpener
) -> tuple[SigningKey, ...]:
    found = []
    for ranged in listed:
        name = publics.get(ranged.key)
        if name is None:
            raise KeyRefused(f"{folder}", expected=f"the key {ranged.key.label}, as the policy names it", found="none")
        if ranged.last_size_or_none is None or is_kept(folder, name):
            found.append(open_key(folder, name, opener))
    return tuple(found)


def open_key(folder: Path, name: str, opener: KeyOpener) -> SigningKey:
    """A private key that is the one beside its public half; raises `WrongUse` or `KeyRefused`."""
    key, expected = opener.open(folder, name), read_public(folder / f"{name}.vkey")
    if key.key != expected:
        raise KeyRefused(f"{folder / name}.key", expected=f"{expected.label} as in {name}.vkey", found=key.key.label)
    return key


def _require(files: Folder, name: str) -> bytes:
    data = files.read(name)
    if data is None:
        raise WrongUse(
            f"{files.root / name} is not there: restore the keys, or make new ones for a new log (tally keys generate)"
        )
    return data


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
