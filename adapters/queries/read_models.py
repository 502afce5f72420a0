"""Read models over NATS: a player's page, an account's statement, a quest's funnel, the books, days."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Final

import msgspec

from adapters import postgres_queries, postgres_statements
from adapters.postgres import Readers, shared_readers
from adapters.postgres_queries import Attempt, Badge, PlayerPage, QuestPage, QuestStep, StepTime
from adapters.postgres_statements import Books, Day, Posting, Statement
from adapters.queries.endpoint import Asked, Sources, endpoint
from bus.queries import BAD_REQUEST, QueryRefused, Request
from projections.errors import AsOfRefused
from projections.moments import parse_as_of
from projections.read_models import TREASURY

DAYS_MAX: Final = 1_000


class PageOf(Request, frozen=True, kw_only=True):
    """`as_of` a day, to its end in UTC (2014-04-21), or a moment (2014-04-21T14:00:00Z); now without it."""

    as_of: str | None = None


class StatementOf(PageOf, frozen=True, kw_only=True):
    """The newest `lines` movements."""

    lines: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 20


class DaysOf(Request, frozen=True, kw_only=True):
    """From the first to the last day, both included: 1,000 at most."""

    first: date
    last: date


class BooksOf(Request, frozen=True, kw_only=True):
    """Nothing."""


class Days(msgspec.Struct, frozen=True, kw_only=True):
    """The days on which something happened."""

    days: list[Day]


_START: Final = datetime(2014, 4, 21, 14, tzinfo=UTC)
_FINISH: Final = datetime(2014, 4, 21, 16, 8, 37, 200_000, tzinfo=UTC)
_STATEMENT: Final = Statement(
    account="b1234",
    as_of=None,
    opening=0,
    postings=[
        Posting(
            stream_seq=40215, at=_FINISH, amount=26, balance=26, counterparty=TREASURY, reason="completed boston-2014"
        )
    ],
    balance=26,
    postings_total=1,
)
_DAY: Final = Day(
    day=_START.date(),
    registered=0,
    accepted=31984,
    steps_reached=287302,
    completed=31984,
    abandoned=0,
    expired=0,
    badges=31984,
    minted=831584,
    spent=0,
    sent=0,
)


async def _readers(sources: Sources) -> Readers:
    return await sources.once(shared_readers)


def _as_of(asked: PageOf) -> datetime | None:
    try:
        return None if asked.as_of is None else parse_as_of(asked.as_of)
    except AsOfRefused as err:
        raise QueryRefused(BAD_REQUEST, str(err)) from err


@endpoint(
    "player.{player}",
    example=(
        PageOf(),
        PlayerPage(
            player="b1234",
            as_of=None,
            region="USA",
            cohort=None,
            registered_at=_START,
            xp=1090,
            level=4,
            balance=26,
            badges=[Badge(badge="finisher", quest="boston-2014", awarded_at=_FINISH)],
            attempts=[
                Attempt(
                    quest="boston-2014",
                    attempt=1,
                    status="completed",
                    divisions=["runners"],
                    accepted_at=_START,
                    finished_at=_FINISH,
                    elapsed_ms=7717200,
                    steps_reached=1,
                    steps=[StepTime(step="5k", elapsed_ms=905000, reached_at=_START)],
                )
            ],
        ),
    ),
)
async def player(asked: Asked[PageOf]) -> PlayerPage:
    """A player's page: profile, XP, level, balance, badges, attempts and their steps."""
    readers, as_of = await _readers(asked.sources), _as_of(asked.request)
    return await postgres_queries.player_page(readers, asked.tenant, asked.named["player"], as_of=as_of)


@endpoint("account.{account}", example=(StatementOf(lines=1), _STATEMENT))
async def account(asked: Asked[StatementOf]) -> Statement:
    """A player's token account: its balance and its newest movements, the balance after each."""
    readers, as_of = await _readers(asked.sources), _as_of(asked.request)
    lines = asked.request.lines
    return await postgres_statements.statement(readers, asked.tenant, asked.named["account"], lines, as_of=as_of)


@endpoint(
    "treasury",
    example=(StatementOf(lines=0), msgspec.structs.replace(_STATEMENT, account=TREASURY, postings=[], balance=-26)),
)
async def treasury(asked: Asked[StatementOf]) -> Statement:
    """The other side of all minting and spending."""
    readers, as_of = await _readers(asked.sources), _as_of(asked.request)
    return await postgres_statements.statement(readers, asked.tenant, TREASURY, asked.request.lines, as_of=as_of)


@endpoint("books", example=(BooksOf(), Books(balances=0, postings=0, accounts_off=0)))
async def books(asked: Asked[BooksOf]) -> Books:
    """Double entry, counted in every row: both sums are zero, and no account is off."""
    return await postgres_statements.books(await _readers(asked.sources), asked.tenant)


@endpoint(
    "quest.{quest}.funnel",
    example=(
        PageOf(as_of="2014-04-21"),
        QuestPage(
            quest="boston-2014",
            as_of=None,
            title="Boston Marathon 2014",
            retired_at=None,
            closed_at=None,
            accepted=31984,
            completed=31984,
            abandoned=0,
            expired=0,
            best_ms=7717200,
            taken=0,
            supply=None,
            steps=[QuestStep(step="5k", xp=10, reached=31912)],
        ),
    ),
)
async def quest(asked: Asked[PageOf]) -> QuestPage:
    """A quest's statistics and how far the attempts at it came."""
    readers, as_of = await _readers(asked.sources), _as_of(asked.request)
    return await postgres_queries.quest_page(readers, asked.tenant, asked.named["quest"], as_of=as_of)


@endpoint("days", example=(DaysOf(first=_START.date(), last=_START.date()), Days(days=[_DAY])))
async def days(asked: Asked[DaysOf]) -> Days:
    """What happened on each day, by the time of the events in UTC."""
    first, last = asked.request.first, asked.request.last
    if not 0 <= (last - first).days < DAYS_MAX:
        raise QueryRefused(
            BAD_REQUEST, f"{first} to {last} are not 1 to {DAYS_MAX:,} days; ask for fewer, in their order"
        )
    return Days(days=await postgres_statements.days(await _readers(asked.sources), asked.tenant, first, last))


ENDPOINTS: Final = (player, account, treasury, books, quest, days)
