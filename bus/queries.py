"""Queries over NATS: what one looks like on the wire, and how a no is answered (docs/queries.md)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from bus import subjects
from bus.errors import BusError

# Codes in the header Nats-Service-Error-Code, as HTTP numbers them.
BAD_REQUEST: Final = "400"
NOT_FOUND: Final = "404"
BUSY: Final = "429"
FAILED: Final = "500"
UNAVAILABLE: Final = "503"
TOO_LATE: Final = "504"


class QueryRefused(BusError):
    """A query that is answered with a code and one line."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what a query asks: a misspelt field is named, not passed over. No payload is `{}`."""


class Query(NamedTuple):
    """One query: the tokens after `tally.q.<tenant>.` (`{name}` is any token), what it asks and answers, an example."""

    path: str
    summary: str
    request: type[Request]
    answer: type[msgspec.Struct]
    example: tuple[Request, Any]

    @property
    def name(self) -> str:
        """`leaderboard-top` of `leaderboard.top`, as service tools and `tally schema` show it."""
        return "-".join(token for token in self.path.split(".") if not token.startswith("{"))

    @property
    def word(self) -> str:
        """`LeaderboardTop`, as the AsyncAPI document calls it."""
        return "".join(part.capitalize() for part in self.name.split("-"))

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the tokens that stand open."""
        return tuple(token[1:-1] for token in self.path.split(".") if token.startswith("{"))

    def subject(self, tenant: str) -> str:
        """The subject to listen on."""
        tokens = ("*" if token.startswith("{") else token for token in self.path.split("."))
        return subjects.query(tenant, *tokens)

    def named(self, tenant: str, subject: str) -> dict[str, str]:
        """The open tokens of a subject by their names; raises `InvalidToken`."""
        given = subject.split(".")[len(subjects.query(tenant).split(".")) :]
        pairs = zip(self.path.split("."), given, strict=True)
        return {name[1:-1]: subjects.require_token(name[1:-1], token) for name, token in pairs if name.startswith("{")}
