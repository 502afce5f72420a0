"""What people ask of the read models: a player's page, an account's statement, a quest's funnel, sums for the books."""

from __future__ import annotations

from datetime import datetime

import msgspec

from adapters.postgres import PostgresSettings, reading, rows
from projections.errors import NotFound
from projections.generations import LIVE
from projections.read_models import TREASURY
from projections.reconciliation import ReadModelSums


class StepTime(msgspec.Struct, frozen=True, kw_only=True):
    """A step of an attempt and when it was reached."""

    step: str
    elapsed_ms: int
    reached_at: datetime


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a quest; `elapsed_ms` once it is completed."""

    quest: str
    attempt: int
    status: str
    divisions: list[str]
    accepted_at: datetime
    finished_at: datetime | None
    elapsed_ms: int | None
    steps_reached: int
    steps: list[StepTime]


class Badge(msgspec.Struct, frozen=True, kw_only=True):
    """A badge and the quest that earned it."""

    badge: str
    quest: str
    awarded_at: datetime


class PlayerPage(msgspec.Struct, frozen=True, kw_only=True):
    """All that the read models know of a player."""

    player: str
    region: str | None
    cohort: str | None
    registered_at: datetime
    xp: int
    level: int
    balance: int
    badges: list[Badge]
    attempts: list[Attempt]


class Posting(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a movement; `balance` is what the account held after it."""

    stream_seq: int
    at: datetime
    amount: int
    balance: int | None
    counterparty: str
    reason: str


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """An account: what it holds, and its newest movements in the order in which they were made."""

    account: str
    balance: int
    postings: list[Posting]
    postings_total: int


class QuestStep(msgspec.Struct, frozen=True, kw_only=True):
    """How many attempts reached a step."""

    step: str
    xp: int
    reached: int


class QuestPage(msgspec.Struct, frozen=True, kw_only=True):
    """A quest, its statistics and its funnel in the order of its steps."""

    quest: str
    title: str
    retired_at: datetime | None
    closed_at: datetime | None
    accepted: int
    completed: int
    abandoned: int
    expired: int
    best_ms: int | None
    taken: int
    supply: int | None
    steps: list[QuestStep]


async def player_page(settings: PostgresSettings, tenant: str, player: str, generation: str = LIVE) -> PlayerPage:
    """The player's page; raises `NotFound`."""
    async with reading(settings, tenant, generation) as connection:
        found = await rows(
            connection,
            "SELECT p.player, region, cohort, registered_at, xp, level, coalesce(balance, 0) AS balance "
            "FROM players AS p LEFT JOIN accounts ON account = p.player WHERE p.player = %s",
            [player],
        )
        if not found:
            raise NotFound(f"player {player} is not registered with {tenant}; send RegisterPlayer first")
        badges = await rows(
            connection,
            "SELECT badge, quest, awarded_at FROM badges WHERE player = %s ORDER BY awarded_at, quest, badge",
            [player],
        )
        attempts = await rows(
            connection,
            "SELECT quest, attempt, status, divisions, accepted_at, finished_at, elapsed_ms, "
            "(SELECT count(*) FROM attempt_steps AS s WHERE s.player = a.player AND s.quest = a.quest "
            "AND s.attempt = a.attempt) AS steps_reached, "
            "(SELECT coalesce(json_agg(json_build_object('step', step, 'elapsed_ms', s.elapsed_ms, "
            "'reached_at', reached_at) ORDER BY s.elapsed_ms, step), '[]') FROM attempt_steps AS s "
            "WHERE s.player = a.player AND s.quest = a.quest AND s.attempt = a.attempt) AS steps "
            "FROM attempts AS a WHERE player = %s ORDER BY accepted_at, quest, attempt",
            [player],
        )
    return msgspec.convert(found[0] | {"badges": badges, "attempts": attempts}, PlayerPage)


async def statement(
    settings: PostgresSettings, tenant: str, account: str, postings_max: int, generation: str = LIVE
) -> Statement:
    """The newest movements of an account; raises `NotFound` for who neither plays nor is the treasury."""
    async with reading(settings, tenant, generation) as connection:
        held = await rows(
            connection,
            "SELECT (SELECT balance FROM accounts WHERE account = %s) AS balance, "
            "EXISTS (SELECT FROM players WHERE player = %s) AS registered, "
            "(SELECT count(*) FROM postings WHERE account = %s) AS total",
            [account, account, account],
        )
        balance, registered, total = held[0].values()
        if balance is None and not registered and account != TREASURY:
            raise NotFound(f"account {account} is not known to {tenant}; name a registered player, or {TREASURY}")
        newest = await rows(
            connection,
            "SELECT stream_seq, at, amount, balance, counterparty, reason FROM postings WHERE account = %s "
            "ORDER BY stream_seq DESC LIMIT %s",
            [account, postings_max],
        )
    postings = msgspec.convert(newest[::-1], list[Posting])
    return Statement(account=account, balance=balance or 0, postings=postings, postings_total=total)


async def quest_page(settings: PostgresSettings, tenant: str, quest: str) -> QuestPage:
    """A quest's statistics and funnel; raises `NotFound`."""
    async with reading(settings, tenant) as connection:
        found = await rows(
            connection,
            "SELECT quest, title, retired_at, closed_at, accepted, completed, abandoned, expired, best_ms, taken, "
            "supply FROM quests WHERE quest = %s",
            [quest],
        )
        if not found:
            raise NotFound(f"quest {quest} was never published with {tenant}; send PublishQuest first")
        steps = await rows(
            connection, "SELECT step, xp, reached FROM quest_steps WHERE quest = %s ORDER BY ordinal", [quest]
        )
    return msgspec.convert(found[0] | {"steps": steps}, QuestPage)


_SUMS = """
SELECT
    (SELECT stream_seq FROM position) AS stream_seq,
    (SELECT count(*) FROM players) AS players,
    (SELECT coalesce(sum(xp), 0)::bigint FROM players) AS xp,
    (SELECT count(*) FROM attempts) AS accepted,
    (SELECT count(*) FROM attempt_steps) AS steps_reached,
    (SELECT count(*) FROM attempts WHERE status = 'completed') AS completed,
    (SELECT count(*) FROM attempts WHERE status = 'abandoned') AS abandoned,
    (SELECT count(*) FROM attempts WHERE status = 'expired') AS expired,
    (SELECT count(*) FROM badges) AS badges,
    (SELECT count(*) FROM accounts WHERE account <> %(treasury)s) AS accounts,
    (SELECT coalesce(sum(balance), 0)::bigint FROM accounts WHERE account <> %(treasury)s) AS balances,
    (SELECT coalesce(sum(balance), 0)::bigint FROM accounts WHERE account = %(treasury)s) AS treasury,
    (SELECT coalesce(sum(amount), 0)::bigint FROM postings) AS postings,
    (SELECT count(*) FROM accounts FULL JOIN (SELECT account, sum(amount) AS amount FROM postings GROUP BY account) AS p
        USING (account) WHERE coalesce(balance, 0) <> coalesce(amount, 0)) AS unbalanced
"""


async def sums(settings: PostgresSettings, tenant: str) -> ReadModelSums:
    """Sums over everything, at one moment; raises `SinkUnavailable`."""
    async with reading(settings, tenant) as connection:
        found = (await rows(connection, _SUMS, {"treasury": TREASURY}))[0]
        quests = await rows(connection, "SELECT quest, completed FROM quests", [])
    by_quest = {row["quest"]: row["completed"] for row in quests}
    return msgspec.convert(found | {"completed_by_quest": by_quest}, ReadModelSums)
