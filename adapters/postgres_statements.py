"""Accounts and days, as people ask for them: statements with running balances as of any date, the books, rollups."""

from __future__ import annotations

from datetime import date, datetime
from typing import Final

import msgspec

from adapters.postgres import PostgresSettings, Readers, reading, rows
from projections.errors import NotFound
from projections.generations import LIVE
from projections.read_models import TREASURY


class Posting(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a movement; `balance` is what the account held after it."""

    stream_seq: int
    at: datetime
    amount: int
    balance: int
    counterparty: str
    reason: str


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """An account: what it held, and its newest movements, the balance after each of them.

    Now, movements stand in the order of the ledger; as of a date, in the order in which they happened.
    """

    account: str
    as_of: datetime | None
    opening: int
    postings: list[Posting]
    balance: int
    postings_total: int


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """Double entry as a whole: balances and postings sum to zero, no account is off."""

    balances: int
    postings: int
    accounts_off: int

    @property
    def balance(self) -> bool:
        """Whether they do."""
        return (self.balances, self.postings, self.accounts_off) == (0, 0, 0)


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """What happened on a day, by the time of the events in UTC."""

    day: date
    registered: int
    accepted: int
    steps_reached: int
    completed: int
    abandoned: int
    expired: int
    badges: int
    minted: int
    spent: int
    sent: int


_HELD_NOW: Final = """
SELECT (SELECT balance FROM accounts WHERE account = %(account)s) AS balance,
    EXISTS (SELECT FROM players WHERE player = %(account)s) AS registered,
    (SELECT count(*) FROM postings WHERE account = %(account)s) AS total
"""
# The treasury has a posting for most movements of everybody: of the days before, the rollup knows what it gave and got.
_HELD_THEN: Final = """
SELECT CASE WHEN %(account)s = %(treasury)s THEN
        (SELECT coalesce(sum(spent - minted), 0) FROM days WHERE day < %(day)s) +
        (SELECT coalesce(sum(amount), 0) FROM postings
            WHERE account = %(account)s AND at >= %(day)s::timestamp AT TIME ZONE 'UTC' AND at <= %(as_of)s)
    ELSE (SELECT coalesce(sum(amount), 0) FROM postings WHERE account = %(account)s AND at <= %(as_of)s)
    END::bigint AS balance,
    EXISTS (SELECT FROM players WHERE player = %(account)s AND registered_at <= %(as_of)s) AS registered,
    (SELECT count(*) FROM postings WHERE account = %(account)s AND at <= %(as_of)s) AS total
"""
_LINES_NOW: Final = """
SELECT stream_seq, at, amount, counterparty, reason FROM postings WHERE account = %(account)s
ORDER BY stream_seq DESC LIMIT %(lines)s
"""
_LINES_THEN: Final = """
SELECT stream_seq, at, amount, counterparty, reason FROM postings WHERE account = %(account)s AND at <= %(as_of)s
ORDER BY at DESC, stream_seq DESC LIMIT %(lines)s
"""


async def statement(
    source: PostgresSettings | Readers,
    tenant: str,
    account: str,
    postings_max: int,
    *,
    as_of: datetime | None = None,
    generation: str = LIVE,
) -> Statement:
    """An account's newest movements; raises `NotFound` for who neither played then nor is the treasury."""
    asked = {"account": account, "treasury": TREASURY, "as_of": as_of, "day": as_of and as_of.date()}
    async with reading(source, tenant, generation) as connection:
        held = await rows(connection, _HELD_NOW if as_of is None else _HELD_THEN, asked)
        balance, registered, total = held[0].values()
        if not total and not registered and account != TREASURY:
            then = "" if as_of is None else f" as of {as_of.isoformat()}"
            raise NotFound(f"account {account} is not known to {tenant}{then}; name a registered player, or {TREASURY}")
        newest = await rows(connection, _LINES_NOW if as_of is None else _LINES_THEN, asked | {"lines": postings_max})
    after = balance = balance or 0
    postings = []
    for row in newest:
        postings.append(Posting(**row, balance=after))
        after -= row["amount"]
    return Statement(
        account=account, as_of=as_of, opening=after, postings=postings[::-1], balance=balance, postings_total=total
    )


async def books(source: PostgresSettings | Readers, tenant: str) -> Books:
    """Whether the books sum to zero, counted in every row; raises `SinkUnavailable`."""
    async with reading(source, tenant) as connection:
        found = await rows(connection, "SELECT balances, postings, accounts_off FROM books", [])
    return Books(**found[0])


async def days(source: PostgresSettings | Readers, tenant: str, first: date, last: date) -> list[Day]:
    """The days on which something happened, from the first to the last, both included."""
    columns = ", ".join(Day.__struct_fields__)
    query = f"SELECT {columns} FROM daily WHERE day BETWEEN %s AND %s ORDER BY day"  # noqa: S608 - fields of Day
    async with reading(source, tenant) as connection:
        return [Day(**row) for row in await rows(connection, query, [first, last])]
