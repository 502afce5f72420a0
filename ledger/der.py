"""Strict DER (X.690): what a time stamp is written in. Read, never repaired; anything that is not DER is `Malformed`.

Only what RFC 3161 and RFC 5652 need: tags of one byte, definite lengths in their shortest form.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from ledger.errors import Malformed

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_ID: Final = 0x06
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31
CONTEXT: Final = 0xA0  # [0], constructed; [1] is one more

_LONG: Final = 0x80
_LENGTH_BYTES_MAX: Final = 4
_TIME: Final = re.compile(r"([0-9]{14})(?:\.([0-9]{0,5}[1-9]))?Z", re.ASCII)


class Element(NamedTuple):
    """A tag, what it holds, and its bytes as they stood."""

    tag: int
    content: bytes
    raw: bytes


def read_der(what: str, data: bytes, tag: int) -> Element:
    """The one element that the bytes are; raises `Malformed` when another tag or more bytes stand there."""
    element, end = _element(what, data, 0)
    if end != len(data):
        raise Malformed(what, expected=f"{end} bytes of DER", found=f"{len(data)}")
    return _require_tag(what, element, tag)


def _element(what: str, data: bytes, at: int) -> tuple[Element, int]:
    start = at
    head = data[at : at + 2]
    if len(head) < 2 or head[0] & 0x1F == 0x1F:
        raise Malformed(
            what, expected="DER: a tag of one byte and a length", found=data[at : at + 8].hex() or "nothing"
        )
    at += 2
    length = head[1]
    if length & _LONG:
        size = length & ~_LONG
        length = int.from_bytes(data[at : at + size], "big")
        if not 1 <= size <= _LENGTH_BYTES_MAX or length < _LONG or length >> (8 * (size - 1)) == 0:
            raise Malformed(what, expected="DER: a length in its shortest form", found=data[start : start + 8].hex())
        at += size
    if at + length > len(data):
        raise Malformed(what, expected=f"DER: {length} bytes", found=f"{max(0, len(data) - at)}")
    return Element(head[0], data[at : at + length], data[start : at + length]), at + length


def _require_tag(what: str, element: Element, tag: int) -> Element:
    if element.tag != tag:
        raise Malformed(what, expected=f"DER tag 0x{tag:02x}", found=f"0x{element.tag:02x}")
    return element


class Fields:
    """The elements within one that is constructed, taken in their order."""

    def __init__(self, what: str, element: Element) -> None:
        self._what = what
        self._rest: list[Element] = []
        at = 0
        while at < len(element.content):
            found, at = _element(what, element.content, at)
            self._rest.append(found)
        self._rest.reverse()

    def __bool__(self) -> bool:
        return bool(self._rest)

    def take(self, tag: int) -> Element:
        """The next element, which must have this tag."""
        if not self._rest:
            raise Malformed(self._what, expected=f"DER tag 0x{tag:02x}", found="the end")
        return _require_tag(self._what, self._rest.pop(), tag)

    def take_if(self, tag: int) -> Element | None:
        """The next element if it has this tag."""
        return self._rest.pop() if self._rest and self._rest[-1].tag == tag else None

    def take_all(self, tag: int) -> list[Element]:
        """All that are left, each with this tag."""
        found = [_require_tag(self._what, element, tag) for element in reversed(self._rest)]
        self._rest.clear()
        return found

    def finish(self) -> None:
        """Raises `Malformed` when something is left."""
        if self._rest:
            raise Malformed(self._what, expected="the end", found=f"DER tag 0x{self._rest[-1].tag:02x}")


def integer(what: str, element: Element) -> int:
    """An INTEGER in its shortest form."""
    data = element.content
    if not data or (len(data) > 1 and (data[0], data[1] >> 7) in {(0, 0), (0xFF, 1)}):
        raise Malformed(what, expected="an INTEGER in its shortest form", found=data[:8].hex() or "nothing")
    return int.from_bytes(data, "big", signed=True)


def object_id(what: str, element: Element) -> str:
    """An OBJECT IDENTIFIER in dots."""
    data = element.content
    if not data or data[-1] & 0x80:
        raise Malformed(what, expected="an OBJECT IDENTIFIER", found=data[:8].hex() or "nothing")
    numbers, value, is_first = [], 0, True
    for byte in data:
        if is_first and byte == 0x80:
            raise Malformed(what, expected="an OBJECT IDENTIFIER in its shortest form", found=data[:8].hex())
        value = value << 7 | byte & 0x7F
        is_first = not byte & 0x80
        if is_first:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def general_time(what: str, element: Element) -> datetime:
    """A GeneralizedTime in UTC, to the microsecond (RFC 3161 2.4.2: a Z, no zeros at the end of a fraction)."""
    match = _TIME.fullmatch(element.content.decode("latin-1"))
    try:
        if match is not None:
            whole = datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
            return whole + timedelta(microseconds=int((match[2] or "").ljust(6, "0")))
    except ValueError:
        pass
    raise Malformed(what, expected="a GeneralizedTime in UTC", found=repr(element.content[:30]))


def encode_der(tag: int, *parts: bytes) -> bytes:
    """An element around the parts, up to 65,535 bytes."""
    content = b"".join(parts)
    size = len(content)
    length = bytes([size]) if size < _LONG else bytes([0x81, size]) if size < 256 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def encode_integer(value: int) -> bytes:
    return encode_der(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))
