"""Signed notes and their keys (C2SP signed-note v1.0.0, tlog-cosignature v1.1).

<text, ends in a newline>
<empty line>
— <key name> base64(key ID[4] || signature)         U+2014, one or more lines

vkey     <name>+<key ID, 8 hex digits>+base64(type || public key)
key ID   SHA-256(name || 0x0A || type || public key)[:4]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Self

from ledger.encoding import decode_base64, encode_base64
from ledger.errors import KeyRefused, Malformed, SignatureFailed, excerpt
from ledger.primitives import ED25519_KEY_BYTES, ML_DSA_44_KEY_BYTES, is_ed25519_signature, require_strong_ed25519

ED25519: Final = 0x01
COSIGNATURE_ED25519: Final = 0x04
COSIGNATURE_ML_DSA_44: Final = 0x06
PUBLIC_KEY_BYTES: Final = {
    ED25519: ED25519_KEY_BYTES,
    COSIGNATURE_ED25519: ED25519_KEY_BYTES,
    COSIGNATURE_ML_DSA_44: ML_DSA_44_KEY_BYTES,
}
VKEY: Final = "vkey"
NOTE_BYTES_MAX: Final = 1_000_000
SIGNATURES_MAX: Final = 100
_SIGNATURE_MARK: Final = "— "
_CONTROL: Final = bytes(byte for byte in range(0x20) if byte != ord("\n"))
_NOT_IN_NAMES: Final = re.compile(r"[\s+\x00-\x1f]")  # any space of Unicode
_KEY_ID: Final = re.compile(r"[0-9a-f]{8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name and algorithm; refuses weak keys and unknown algorithms."""

    name: str
    algorithm: int
    public: bytes
    key_id: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_key_name(self.name)
        length = PUBLIC_KEY_BYTES.get(self.algorithm)
        if length is None:
            raise KeyRefused(
                f"key of {excerpt(self.name)}", expected="type 0x01, 0x04 or 0x06", found=f"0x{self.algorithm:02x}"
            )
        if len(self.public) != length:
            raise KeyRefused(
                f"key of {excerpt(self.name)}", expected=f"{length} bytes of public key", found=len(self.public)
            )
        if length == ED25519_KEY_BYTES:
            require_strong_ed25519(self.name, self.public)
        labelled = self.name.encode() + b"\n" + bytes([self.algorithm]) + self.public
        object.__setattr__(self, "key_id", sha256(labelled).digest()[:4])

    @property
    def label(self) -> str:
        return f"{self.name}+{self.key_id.hex()}"

    def __str__(self) -> str:
        return f"{self.label}+{encode_base64(bytes([self.algorithm]) + self.public)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a vkey; raises `KeyRefused` or `Malformed`."""
        name, id_text, key_text = split_key(VKEY, text)
        data = decode_base64(f"vkey of {excerpt(name)}", key_text)
        if not data:
            raise KeyRefused(f"vkey of {excerpt(name)}", expected="a type and a public key", found="nothing")
        key = cls(name, data[0], data[1:])
        if key.key_id.hex() != id_text:
            raise KeyRefused(f"vkey of {excerpt(name)}", expected=f"key ID {key.key_id.hex()}", found=id_text)
        return key


def split_key(what: str, text: str) -> tuple[str, str, str]:
    """Name, key ID in hex and the base64 of `<name>+<key ID>+<base64>`; raises `KeyRefused`, which shows no secret."""
    parts = text.split("+", 2)
    if len(parts) != 3 or not _KEY_ID.fullmatch(parts[1]):
        found = excerpt(text) if what == VKEY else "another form"
        raise KeyRefused(what, expected="<name>+<8 hex digits>+<base64>", found=found)
    return parts[0], parts[1], parts[2]


def split_private_key(text: str) -> tuple[str, str, int, bytes]:
    """Name, key ID in hex, type and seed of `PRIVATE+KEY+<name>+<key ID>+base64(type || seed)`."""
    prefix = "PRIVATE+KEY+"
    if not text.startswith(prefix):
        raise KeyRefused("private key", expected=f"text that begins with {prefix}")
    name, id_text, key_text = split_key("private key", text.removeprefix(prefix))
    try:
        data = decode_base64("private key", key_text, 33)
    except Malformed as err:
        # The message of the cause would show the secret.
        raise KeyRefused(f"private key of {excerpt(name)}", expected="base64 of a type and a seed of 32 bytes") from (
            err if "bytes" in str(err) else None
        )
    return name, id_text, data[0], data[1:]


def require_key_name(name: str, what: str = "key name") -> None:
    if not name or _NOT_IN_NAMES.search(name):
        raise KeyRefused(what, expected="text without spaces and '+'", found=excerpt(name))


@dataclass(frozen=True, slots=True)
class SignatureLine:
    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{_SIGNATURE_MARK}{self.name} {encode_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A signed text; `text` ends in a newline and is what a 0x01 signature covers."""

    text: str
    signatures: tuple[SignatureLine, ...]

    def __bytes__(self) -> bytes:
        return (self.text + "\n" + "".join(map(str, self.signatures))).encode()

    def by(self, key: VerifierKey) -> list[SignatureLine]:
        """The lines that claim to be of this key."""
        return [line for line in self.signatures if (line.name, line.key_id) == (key.name, key.key_id)]


def parse_note(what: str, data: bytes) -> Note:
    """Read a signed note; raises `Malformed`. No signature is checked."""
    if len(data) > NOTE_BYTES_MAX:
        raise Malformed(what, expected=f"at most {NOTE_BYTES_MAX} bytes", found=len(data))
    try:
        content = data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise Malformed(what, expected="UTF-8", found=f"byte 0x{data[err.start]:02x} at {err.start}") from err
    if len(data.translate(None, _CONTROL)) != len(data):
        control = next(byte for byte in data if byte in _CONTROL)
        raise Malformed(what, expected="no control character but the newline", found=f"0x{control:02x}")
    text, separator, tail = content.rpartition("\n\n")
    if not separator:
        raise Malformed(what, expected="a text, an empty line and signatures", found="no empty line")
    if not tail.endswith("\n"):
        raise Malformed(what, expected="signature lines that each end in a newline", found=excerpt(tail[-40:]))
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise Malformed(what, expected=f"at most {SIGNATURES_MAX} signatures", found=len(lines))
    return Note(text + "\n", tuple(parse_signature(what, line) for line in lines))


def parse_signature(what: str, line: str) -> SignatureLine:
    """Read one signature line, without its newline; raises `Malformed`."""
    if not line.startswith(_SIGNATURE_MARK):
        raise Malformed(what, expected="a signature line that begins with an em dash and a space", found=excerpt(line))
    name, _, encoded = line.removeprefix(_SIGNATURE_MARK).partition(" ")
    require_key_name(name, f"{what}, key name")
    data = decode_base64(f"{what}, signature of {excerpt(name)}", encoded)
    if len(data) < 5:
        raise Malformed(f"{what}, signature of {excerpt(name)}", expected="more than 4 bytes", found=len(data))
    return SignatureLine(name, data[:4], data[4:])


def require_distinct(keys: Iterable[VerifierKey]) -> None:
    """Raises `KeyRefused` when two keys have one name and ID, or one public key has two names."""
    labels: set[str] = set()
    publics: dict[bytes, str] = {}
    for key in keys:
        if key.label in labels:
            raise KeyRefused(f"key {key.label}", expected="each name and key ID once", found="it twice")
        labels.add(key.label)
        if key.public in publics:
            raise KeyRefused(
                f"key {key.label}",
                expected="each public key under one name and role",
                found=f"the one of {publics[key.public]}",
            )
        publics[key.public] = key.label


def verify_plain(what: str, note: Note, keys: Sequence[VerifierKey]) -> list[VerifierKey]:
    """The 0x01 keys that signed a note which is no checkpoint; raises `SignatureFailed` when none did."""
    require_distinct(keys)
    signed = [key for key in keys for line in note.by(key) if _is_signed(what, note, key, line)]
    if not signed:
        raise SignatureFailed(what, expected=f"a signature by {' or '.join(k.label for k in keys)}", found="none")
    return signed


def _is_signed(what: str, note: Note, key: VerifierKey, line: SignatureLine) -> bool:
    if key.algorithm != ED25519 or not is_ed25519_signature(key.public, line.signature, note.text.encode()):
        raise SignatureFailed(what, expected=f"a good signature by {key.label}", found="a bad one")
    return True
