"""A private key at rest under a passphrase: scrypt (RFC 7914), then AES-256-GCM, as text of one line.

ENCRYPTED+KEY+<name>+<key ID>+base64(header || ciphertext || tag)

header, 33 bytes      01            version
                      u8            type of the key: 01, 04 or 06
                      u8            log2 of scrypt's N, 14 to 20
                      u8            scrypt's r
                      u8            scrypt's p
                      16 bytes      salt
                      12 bytes      nonce
ciphertext, 32 bytes  the seed
tag, 16 bytes
key of AES            scrypt(passphrase in NFC and UTF-8, salt, N, r, p), 32 bytes
associated data       "ENCRYPTED+KEY+<name>+<key ID>+" || header

So name, key ID, type and cost are readable, and none of them can be changed.
"""

from __future__ import annotations

import unicodedata
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ledger.encoding import decode_base64, encode_base64
from ledger.errors import KeyRefused, excerpt
from ledger.note import VerifierKey, split_key
from ledger.primitives import SEED_BYTES

ENCRYPTED: Final = "ENCRYPTED+KEY+"
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
LOG2_N: Final = 17  # 128 MiB and about 0.3 s for each guess
_VERSION: Final = 1
_LOG2_N_LEAST, _LOG2_N_MOST = 14, 20
_BLOCK_SIZE, _PARALLELISM = 8, 1
_HEADER_BYTES: Final = 5 + SALT_BYTES + NONCE_BYTES
_TAG_BYTES: Final = 16


class SealedKey(NamedTuple):
    """The readable part of an encrypted key, and the rest as it stands."""

    name: str
    id_text: str
    header: bytes
    sealed: bytes

    @property
    def algorithm(self) -> int:
        return self.header[1]

    def __str__(self) -> str:
        return f"{ENCRYPTED}{self.name}+{self.id_text}+{encode_base64(self.header + self.sealed)}"


def encrypt_key(
    key: VerifierKey, seed: bytes, passphrase: str, *, salt: bytes, nonce: bytes, log2_n: int | None = None
) -> str:
    """The seed of a key as text under a passphrase; `salt` and `nonce` must be random and new."""
    header = bytes([_VERSION, key.algorithm, log2_n or LOG2_N, _BLOCK_SIZE, _PARALLELISM]) + salt + nonce
    shown = SealedKey(key.name, key.key_id.hex(), header, b"")
    cipher = AESGCM(_derive(header, passphrase))
    return str(shown._replace(sealed=cipher.encrypt(nonce, seed, _associated(shown))))


def parse_encrypted_key(text: str) -> SealedKey:
    """Read the form, not the secret; raises `KeyRefused` or `Malformed`."""
    if not text.startswith(ENCRYPTED):
        raise KeyRefused("encrypted key", expected=f"text that begins with {ENCRYPTED}")
    name, id_text, encoded = split_key("encrypted key", text.removeprefix(ENCRYPTED))
    what = f"encrypted key of {excerpt(name)}"
    data = decode_base64(what, encoded, _HEADER_BYTES + SEED_BYTES + _TAG_BYTES)
    version, _, log2_n, block_size, parallelism = data[:5]
    if version != _VERSION:
        raise KeyRefused(what, expected=f"version {_VERSION}", found=version)
    if not _LOG2_N_LEAST <= log2_n <= _LOG2_N_MOST or (block_size, parallelism) != (_BLOCK_SIZE, _PARALLELISM):
        raise KeyRefused(
            f"{what}, cost of scrypt",
            expected=f"N from 2^{_LOG2_N_LEAST} to 2^{_LOG2_N_MOST}, r {_BLOCK_SIZE}, p {_PARALLELISM}",
            found=f"N 2^{log2_n}, r {block_size}, p {parallelism}",
        )
    return SealedKey(name, id_text, data[:_HEADER_BYTES], data[_HEADER_BYTES:])


def decrypt_key(sealed: SealedKey, passphrase: str) -> bytes:
    """The seed; raises `KeyRefused` when the passphrase is another one or any byte was changed."""
    cipher = AESGCM(_derive(sealed.header, passphrase))
    try:
        return cipher.decrypt(sealed.header[-NONCE_BYTES:], sealed.sealed, _associated(sealed))
    except InvalidTag as err:
        raise KeyRefused(
            f"encrypted key {excerpt(sealed.name)}+{sealed.id_text}",
            expected="the passphrase that it was encrypted with, and an unchanged file",
            found="one of them is another",
        ) from err


def _derive(header: bytes, passphrase: str) -> bytes:
    salt = header[5 : 5 + SALT_BYTES]
    kdf = Scrypt(salt=salt, length=32, n=1 << header[2], r=header[3], p=header[4])
    return kdf.derive(unicodedata.normalize("NFC", passphrase).encode())


def _associated(sealed: SealedKey) -> bytes:
    return f"{ENCRYPTED}{sealed.name}+{sealed.id_text}+".encode() + sealed.header
