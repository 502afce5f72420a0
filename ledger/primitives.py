"""The two signature algorithms, from `cryptography`, and the refusal of weak Ed25519 keys.

`cryptography` accepts public keys of low order, under which signatures can be forged; so we look at the encoding first.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.errors import KeyRefused, Unsupported, excerpt

try:
    from cryptography.hazmat.primitives.asymmetric import mldsa
except ImportError:  # cryptography before 48
    mldsa = None  # type: ignore[assignment]

ED25519_KEY_BYTES: Final = 32
ED25519_SIGNATURE_BYTES: Final = 64
ML_DSA_44_KEY_BYTES: Final = 1312
ML_DSA_44_SIGNATURE_BYTES: Final = 2420
SEED_BYTES: Final = 32
_REMEMBERED: Final = 64
_DISTINCT_BYTES_LEAST: Final = 8  # 32 random bytes have fewer values once in 10^30

_FIELD: Final = 2**255 - 19
_ORDER_EIGHT: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_LOW_ORDER: Final = frozenset({0, 1, _FIELD - 1, _ORDER_EIGHT, _FIELD - _ORDER_EIGHT})


def require_strong_ed25519(name: str, public: bytes) -> None:
    """Raises `KeyRefused` for the points of low order and for encodings that are not canonical (RFC 8032 5.1.3)."""
    y = int.from_bytes(public, "little") & (2**255 - 1)
    if y >= _FIELD:
        raise KeyRefused(f"Ed25519 key of {excerpt(name)}", expected="a canonical encoding", found=public.hex())
    if y in _LOW_ORDER:
        raise KeyRefused(f"Ed25519 key of {excerpt(name)}", expected="a point of high order", found=public.hex())


def require_random_seed(what: str, seed: bytes) -> None:
    """Raises `KeyRefused` for seeds that nobody draws: zeros, a byte again and again, the examples of documents."""
    is_counted = all(later - byte == 1 for byte, later in pairwise(seed))
    if is_counted or len(set(seed)) < _DISTINCT_BYTES_LEAST:
        raise KeyRefused(f"{what}: the seed is not random: it is an example, or its making failed; make another key")


def ed25519_public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


# A log has few keys and signs much with each: what `cryptography` makes of their bytes is kept.
@lru_cache(maxsize=_REMEMBERED)
def ed25519_key(public: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public)


@lru_cache(maxsize=_REMEMBERED)
def ml_dsa_44_key(public: bytes) -> Any:
    return _ml_dsa_44("public", public)


# The same checkpoint is opened several times on the way of one receipt. Whether a signature is good follows from these
# three alone, so it is remembered; a refusal of the build to say is not.
@lru_cache(maxsize=_REMEMBERED)
def is_ed25519_signature(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        ed25519_key(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def has_ml_dsa_44() -> bool:
    """Whether this build of `cryptography` has ML-DSA-44 (48 and later, OpenSSL 3.5 and later)."""
    try:
        ml_dsa_44_public(bytes(SEED_BYTES))
    except Unsupported:
        return False
    return True


def _ml_dsa_44(make: str, data: bytes) -> Any:
    missing = "ML-DSA-44: this build of cryptography has none; install cryptography>=48"
    if mldsa is None:
        raise Unsupported(missing)
    try:
        if make == "private":
            return mldsa.MLDSA44PrivateKey.from_seed_bytes(data)
        return mldsa.MLDSA44PublicKey.from_public_bytes(data)
    except UnsupportedAlgorithm as err:
        raise Unsupported(missing) from err


def ml_dsa_44_public(seed: bytes) -> bytes:
    public: bytes = _ml_dsa_44("private", seed).public_key().public_bytes_raw()
    return public


@lru_cache(maxsize=_REMEMBERED)
def is_ml_dsa_44_signature(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        ml_dsa_44_key(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class Secret:
    """A private key that signs; its bytes are not shown."""

    __slots__ = ("_key",)

    def __init__(self, seed: bytes, *, is_ml_dsa: bool) -> None:
        self._key: Any = _ml_dsa_44("private", seed) if is_ml_dsa else Ed25519PrivateKey.from_private_bytes(seed)

    def sign(self, message: bytes) -> bytes:
        signature: bytes = self._key.sign(message)
        return signature
