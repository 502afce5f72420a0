"""One private key, wherever it is kept: a file of one line, mode 0600, or a service that signs with it.

<name>.vkey      the public half
<name>.key       PRIVATE+KEY+<key name>+<key ID>+base64(type || seed of 32 bytes)      the form of Go's sumdb/note, or
                 ENCRYPTED+KEY+<key name>+<key ID>+base64(...)                         under a passphrase (keycrypt)
<name>.ref       in place of .key: a line that says where the key is, `<scheme>:<rest>`; who reads it is given in
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

from ledger.checkpoint import Checkpoint, signed_message
from ledger.encoding import encode_base64
from ledger.errors import KeyRefused, SignatureFailed, WrongUse, excerpt
from ledger.files import Folder
from ledger.keycrypt import ENCRYPTED, NONCE_BYTES, SALT_BYTES, decrypt_key, encrypt_key, parse_encrypted_key
from ledger.note import COSIGNATURE_ML_DSA_44, ED25519, SignatureLine, VerifierKey, split_private_key
from ledger.primitives import (
    SEED_BYTES,
    Secret,
    ed25519_public,
    is_ed25519_signature,
    is_ml_dsa_44_signature,
    ml_dsa_44_public,
    require_random_seed,
)

#: Asked with the label of the key that it opens.
Passphrase = Callable[[str], str]
#: Opens what a `.ref` file says: its line, the name of the key and its type (01, 04 or 06).
OpenService = Callable[[str, str, int], "SigningService"]

_OTHERS: Final = 0o077


class SigningService(Protocol):
    """Keeps one private key and signs with it: a KMS, a security module, another process."""

    @property
    def vkey(self) -> str:
        """The public half, as in a policy."""

    def sign(self, message: bytes) -> bytes:
        """The bare signature of the key's algorithm over the message as it is: 64 or 2,420 bytes."""


class Signs(Protocol):
    """What signs with a private key, here or elsewhere."""

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with its public half."""

    key: VerifierKey
    secret: Signs

    @classmethod
    def parse(cls, text: str, passphrase: Passphrase | None = None) -> Self:
        """Read a private key, asking for the passphrase of an encrypted one; raises `KeyRefused`."""
        return cls.of_secret(*split_secret(text, passphrase))

    @classmethod
    def of_secret(cls, name: str, id_text: str, algorithm: int, seed: bytes) -> Self:
        """The key that a seed is; raises `KeyRefused` when it is weak or has another ID."""
        key = public_key(name, algorithm, seed)
        if key.key_id.hex() != id_text:
            raise KeyRefused(f"private key of {name}", expected=f"key ID {key.key_id.hex()}", found=id_text)
        return cls(key, Secret(seed, is_ml_dsa=algorithm == COSIGNATURE_ML_DSA_44))

    @classmethod
    def at_service(cls, service: SigningService, expected: VerifierKey) -> Self:
        """A key that a service keeps; every signature of it is checked before it is used. Raises `KeyRefused`."""
        if service.vkey != str(expected):
            found = VerifierKey.parse(service.vkey)
            raise KeyRefused(f"signing service of {expected.label}", expected="that key", found=found.label)
        return cls(expected, _CheckedService(service, expected))

    def sign_checkpoint(self, checkpoint: Checkpoint, at_seconds: int) -> SignatureLine:
        """One signature line; the time is part of it for 0x06."""
        message = signed_message(checkpoint, self.key.name, self.key.algorithm, at_seconds)
        time = b"" if self.key.algorithm == ED25519 else at_seconds.to_bytes(8, "big")
        return SignatureLine(self.key.name, self.key.key_id, time + self.secret.sign(message))


@dataclass(frozen=True, slots=True)
class _CheckedService:
    service: SigningService
    key: VerifierKey

    def sign(self, message: bytes) -> bytes:
        signature = self.service.sign(message)
        is_good = is_ml_dsa_44_signature if self.key.algorithm == COSIGNATURE_ML_DSA_44 else is_ed25519_signature
        if not is_good(self.key.public, signature, message):
            raise SignatureFailed(
                f"signing service of {self.key.label}", expected="a good signature", found=f"{len(signature)} bytes"
            )
        return signature


def split_secret(text: str, passphrase: Passphrase | None = None) -> tuple[str, str, int, bytes]:
    """Name, key ID in hex, type and seed of a private key's line, encrypted or not; raises `KeyRefused`."""
    if not text.startswith(ENCRYPTED):
        return split_private_key(text)
    sealed = parse_encrypted_key(text)
    label = f"{sealed.name}+{sealed.id_text}"
    if passphrase is None:
        raise KeyRefused(f"private key {label}", expected="a passphrase for it", found="none")
    return sealed.name, sealed.id_text, sealed.algorithm, decrypt_key(sealed, passphrase(label))


def public_key(name: str, algorithm: int, seed: bytes) -> VerifierKey:
    public = ml_dsa_44_public(seed) if algorithm == COSIGNATURE_ML_DSA_44 else ed25519_public(seed)
    return VerifierKey(name, algorithm, public)


def format_private_key(key: VerifierKey, seed: bytes) -> str:
    return f"PRIVATE+KEY+{key.label}+{encode_base64(bytes([key.algorithm]) + seed)}"


@dataclass(frozen=True, slots=True)
class KeyOpener:
    """How private keys are come by: the passphrase of those that are encrypted, the services of those elsewhere.

    `encrypts`: whether new ones are put under the passphrase.
    """

    passphrase: Passphrase | None = None
    service: OpenService | None = None
    encrypts: bool = False

    def open(self, folder: Path, name: str) -> SigningKey:
        """The private key `name` of a folder; raises `WrongUse` when it is missing, `KeyRefused` when wrong."""
        files = Folder(folder)
        kept, refers = files.read(f"{name}.key"), files.read(f"{name}.ref")
        if kept is not None and refers is not None:
            raise KeyRefused(f"{folder / name}", expected="one of .key and .ref", found="both")
        if refers is not None:
            expected = read_public(folder / f"{name}.vkey")
            reference = one_line(folder / f"{name}.ref", refers)
            return SigningKey.at_service(self.open_service(reference, expected.name, expected.algorithm), expected)
        if kept is None:
            raise WrongUse(
                f"{folder / name}.key is not there: restore the keys, or make new ones for a new log "
                "(tally keys generate)"
            )
        return self.open_file(folder / f"{name}.key")

    def open_file(self, path: Path) -> SigningKey:
        """The private key in one file, which nobody else may read unless it is encrypted."""
        text = read_line(path)
        if not text.startswith(ENCRYPTED) and not is_private(path):
            raise KeyRefused(f"{path}: others can read it: chmod 600, and rotate the key if they did")
        secret = split_secret(text, self.passphrase)
        require_random_seed(str(path), secret[3])
        return SigningKey.of_secret(*secret)

    def open_service(self, reference: str, name: str, algorithm: int) -> SigningService:
        """The service that a reference names; raises `KeyRefused` where no services are known."""
        if self.service is None:
            raise KeyRefused(f"key of {name}", expected="one in a file", found=f"a reference, {excerpt(reference)}")
        return self.service(reference, name, algorithm)


def read_line(path: Path) -> str:
    """The one line of a file; raises `WrongUse` or `KeyRefused`."""
    try:
        data = path.read_bytes()
    except OSError as err:
        raise WrongUse(f"{path} cannot be read ({err.strerror}): name an existing file") from err
    return one_line(path, data)


def one_line(path: Path, data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    if not text.endswith("\n") or text.count("\n") != 1:
        raise KeyRefused(f"{path}", expected="one line")
    return text[:-1]


def encrypt_file(path: Path, passphrase: Passphrase) -> bool:
    """Put a private key's file under a passphrase; False when it is already. Raises `KeyRefused`."""
    text = read_line(path)
    if text.startswith(ENCRYPTED):
        return False
    _rewrite(path, split_secret(text), passphrase)
    return True


def decrypt_file(path: Path, passphrase: Passphrase) -> bool:
    """Take a private key's file from under its passphrase; False when it is plain already. Raises `KeyRefused`."""
    text = read_line(path)
    if not text.startswith(ENCRYPTED):
        return False
    _rewrite(path, split_secret(text, passphrase), None)
    return True


def _rewrite(path: Path, secret: tuple[str, str, int, bytes], passphrase: Passphrase | None) -> None:
    key = SigningKey.of_secret(*secret).key
    Folder(path.parent).replace(path.name, f"{_private_text(key, secret[3], passphrase)}\n".encode(), mode=0o600)


def _private_text(key: VerifierKey, seed: bytes, passphrase: Passphrase | None) -> str:
    if passphrase is None:
        return format_private_key(key, seed)
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    return encrypt_key(key, seed, passphrase(key.label), salt=salt, nonce=nonce)


def read_public(path: Path) -> VerifierKey:
    return VerifierKey.parse(read_line(path))


def new_key(name: str, algorithm: int) -> tuple[VerifierKey, bytes]:
    """A new key: its public half, and the seed."""
    seed = secrets.token_bytes(SEED_BYTES)
    return public_key(name, algorithm, seed), seed


def write_key(files: Folder, name: str, key: VerifierKey, seed: bytes, passphrase: Passphrase | None) -> None:
    """Keep both halves of a key, the private one under the passphrase if there is one."""
    text = _private_text(key, seed, passphrase)
    files.replace(f"{name}.key", f"{text}\n".encode(), mode=0o600)
    files.replace(f"{name}.vkey", f"{key}\n".encode())


def is_private(path: Path) -> bool:
    """Whether nobody but the owner can read a file; Windows has other means than modes."""
    return os.name == "nt" or path.stat().st_mode & _OTHERS == 0
