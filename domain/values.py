"""Values that several aggregates share: what a token in a subject looks like, times, amounts, encrypted fields."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated

import msgspec

#: An id as it stands in a subject: letters, digits, `-`, `_`; 1 to 64 of them.
Token = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z", min_length=1, max_length=64)]
#: One line for people. No control characters: it may end up in a terminal.
Line = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]*\Z", max_length=200)]
#: XP or tokens; a double in a leaderboard holds every one of them exactly.
Amount = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
AmountOrNone = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
#: From the start of an attempt, in milliseconds; up to ten years.
ElapsedMs = Annotated[int, msgspec.Meta(ge=1, le=315_576_000_000)]
#: RFC 3339 in UTC with milliseconds, as every stored time is written.
Time = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")]

#: The last moment that a stored time can name, in milliseconds since 1970: the end of the year 9999.
TIME_MS_LAST = 253_402_300_799_999

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EncryptedField(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A personal value as ciphertext: the only form in which one may enter an event (LEDGER.md 2).

    The associated data are the length-prefixed tenant, aggregate, id, version, event id and field name; they are
    derived from the envelope and therefore not stored here. Erasing the key erases the value everywhere.
    """

    alg: Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9-]{1,32}\Z")]
    key_id: Token
    nonce: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]{16}\Z")]
    ciphertext: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]*={0,2}\Z", max_length=8192)]


def to_ms(time: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time; `ValueError` when it is none or has no zone."""
    moment = datetime.fromisoformat(time)
    if moment.tzinfo is None:
        message = f"time {time!r} has no zone; write it in UTC with a final Z"
        raise ValueError(message)
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000


def to_time(at_ms: int) -> str:
    """Milliseconds since 1970 as RFC 3339 in UTC with milliseconds and `Z`."""
    at_s, ms = divmod(at_ms, 1000)
    return f"{_second(at_s)}.{ms:03d}Z"


@lru_cache(maxsize=64)
def _second(at_s: int) -> str:
    """The second, which what is written at once has in common; to format it takes 15 µs."""
    return f"{_EPOCH + timedelta(seconds=at_s):%Y-%m-%dT%H:%M:%S}"
