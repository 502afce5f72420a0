"""Strict text encodings: ASCII decimals, months and padded standard base64, each accepted in its one canonical form."""

from __future__ import annotations

import binascii
import json
import re
from typing import Any, Final

from ledger.errors import Malformed, excerpt

_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_MONTH: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])", re.ASCII)
SIZE_MAX: Final = 2**63 - 1
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def parse_decimal(what: str, text: str) -> int:
    """A number from 0 to 2^63-1 without sign, leading zero, space or underscore."""
    value = int(text) if _DECIMAL.fullmatch(text) else -1
    if not 0 <= value <= SIZE_MAX:
        raise Malformed(what, expected="a decimal number from 0 to 2^63-1", found=excerpt(text))
    return value


def is_month(text: str) -> bool:
    """Whether a text is a month, YYYY-MM."""
    return _MONTH.fullmatch(text) is not None


def encode_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_base64(what: str, text: str, length: int | None = None) -> bytes:
    """The bytes of canonical base64; `length` is their required number."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        data = None
    if data is None or encode_base64(data) != text:
        raise Malformed(what, expected="canonical padded base64", found=excerpt(text))
    if length is not None and len(data) != length:
        raise Malformed(what, expected=f"{length} bytes", found=len(data))
    return data


def encode_json(value: Any) -> bytes:
    """Compact JSON with the keys in their order: the one form in which we publish it."""
    return _encode(value).encode()


def _refuse_number(text: str) -> Any:
    raise ValueError(f"the number {text[:40]} is no integer")


_decoder: Final = json.JSONDecoder(parse_float=_refuse_number, parse_constant=_refuse_number)


def parse_json(what: str, data: bytes) -> Any:
    """The value of JSON without floats; raises `Malformed`. Whoever takes it compares what writing it again gives."""
    try:
        return _decoder.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as err:
        raise Malformed(what, expected="JSON without floats", found=excerpt(f"{err}", 120)) from err


def decode_json(what: str, data: bytes) -> Any:
    """The value of compact JSON; raises `Malformed` for floats, duplicate keys, spaces and any other encoding of it."""
    value = parse_json(what, data)
    try:
        canonical = encode_json(value)
    except (ValueError, RecursionError) as err:
        raise Malformed(what, expected="JSON that is UTF-8", found=excerpt(f"{err}", 120)) from err
    if canonical != data:
        at = next((i for i, (a, b) in enumerate(zip(canonical, data, strict=False)) if a != b), len(canonical))
        raise Malformed(
            what, expected="compact JSON without duplicate keys", found=f"another encoding from byte {at} on"
        )
    return value
