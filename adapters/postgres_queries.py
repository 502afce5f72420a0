"""What people ask of the read models, now or as of a date: a player's page, a quest's funnel; sums for checks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

from adapters.postgres import PostgresSettings, Readers, reading, rows
from domain.player import level_of
from projections.errors import NotFound, SinkUnavailable
from projections.generations import LIVE
from projections.read_models import TREASURY
from projections.reconciliation import ReadModelSums

FOR_EVER: Final = datetime.max.replace(tzinfo=UTC)
#: The version of the projector that began to keep xp_awards.
XP_HISTORY_SINCE: Final = 2


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
    as_of: datetime | None
    region: str | None
    cohort: str | None
    registered_at: datetime
    xp: int
    level: int
    balance: int
    badges: list[Badge]
    attempts: list[Attempt]


class QuestStep(msgspec.Struct, frozen=True, kw_only=True):
    """How many attempts reached a step."""

    step: str
    xp: int
    reached: int


class QuestPage(msgspec.Struct, frozen=True, kw_only=True):
    """A quest, its statistics and its funnel in the order of its steps."""

    quest: str
    as_of: datetime | None
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


_PLAYER: Final = """
SELECT p.player, region, cohort, registered_at, xp, level, (SELECT version FROM position) AS version,
    coalesce((SELECT balance FROM accounts WHERE account = p.player), 0) AS balance,
    (SELECT coalesce(sum(amount), 0)::bigint FROM xp_awards AS x
        WHERE x.player = p.player AND awarded_at <= %(until)s) AS xp_then,
    (SELECT coalesce(sum(amount), 0)::bigint FROM postings WHERE account = p.player AND at <= %(until)s) AS balance_then
FROM players AS p WHERE p.player = %(player)s AND registered_at <= %(until)s
"""
_BADGES: Final = """
SELECT badge, quest, awarded_at FROM badges WHERE player = %(player)s AND awarded_at <= %(until)s
ORDER BY awarded_at, quest, badge
"""
_ATTEMPTS: Final = """
SELECT quest, attempt, CASE WHEN finished_at <= %(until)s THEN status ELSE 'accepted' END AS status, divisions,
    accepted_at, CASE WHEN finished_at <= %(until)s THEN finished_at END AS finished_at,
    CASE WHEN finished_at <= %(until)s THEN elapsed_ms END AS elapsed_ms,
    (SELECT coalesce(json_agg(json_build_object('step', step, 'elapsed_ms', s.elapsed_ms, 'reached_at', reached_at)
        ORDER BY s.elapsed_ms, step), '[]') FROM attempt_steps AS s
        WHERE s.player = a.player AND s.quest = a.quest AND s.attempt = a.attempt AND reached_at <= %(until)s) AS steps
FROM attempts AS a WHERE player = %(player)s AND accepted_at <= %(until)s ORDER BY accepted_at, quest, attempt
"""
_QUEST: Final = """
SELECT quest, title, retired_at, closed_at, accepted, completed, abandoned, expired, best_ms, taken, supply
FROM quests WHERE quest = %(quest)s
"""
_STEPS: Final = "SELECT step, xp, reached FROM quest_steps WHERE quest = %(quest)s ORDER BY ordinal"
# No index leads here: a funnel of the past is counted in the rows of all attempts at the quest.
_QUEST_THEN: Final = """
SELECT quest, title, CASE WHEN retired_at <= %(until)s THEN retired_at END AS retired_at,
    CASE WHEN closed_at <= %(until)s THEN closed_at END AS closed_at,
    counted.*, supply, CASE WHEN supply IS NULL THEN 0 ELSE
        (SELECT count(*) FROM badges WHERE badges.quest = quests.quest AND awarded_at <= %(until)s) END AS taken
FROM quests, LATERAL (
    SELECT count(*) AS accepted,
        count(*) FILTER (WHERE status = 'completed' AND finished_at <= %(until)s) AS completed,
        count(*) FILTER (WHERE status = 'abandoned' AND finished_at <= %(until)s) AS abandoned,
        count(*) FILTER (WHERE status = 'expired' AND finished_at <= %(until)s) AS expired,
        min(elapsed_ms) FILTER (WHERE status = 'completed' AND finished_at <= %(until)s) AS best_ms
    FROM attempts WHERE attempts.quest = quests.quest AND accepted_at <= %(until)s) AS counted
WHERE quest = %(quest)s AND published_at <= %(until)s
"""
_STEPS_THEN: Final = """
SELECT step, xp, (SELECT count(*) FROM attempt_steps AS s
    WHERE s.quest = q.quest AND s.step = q.step AND reached_at <= %(until)s) AS reached
FROM quest_steps AS q WHERE quest = %(quest)s ORDER BY ordinal
"""


async def player_page(
    source: PostgresSettings | Readers,
    tenant: str,
    player: str,
    *,
    as_of: datetime | None = None,
    generation: str = LIVE,
) -> PlayerPage:
    """The player's page; raises `NotFound`."""
    asked = {"player": player, "until": as_of or FOR_EVER}
    async with reading(source, tenant, generation) as connection:
        found = await rows(connection, _PLAYER, asked)
        if not found:
            then = "" if as_of is None else f" as of {as_of.isoformat()}"
            raise NotFound(f"player {player} is not registered with {tenant}{then}; send RegisterPlayer first")
        badges = await rows(connection, _BADGES, asked)
        attempts = await rows(connection, _ATTEMPTS, asked)
    page = found[0]
    if as_of is not None:
        if page["version"] < XP_HISTORY_SINCE:
            raise SinkUnavailable(
                f"readmodels of {tenant} were made by version {page['version']}, which kept no history of XP: make "
                "them anew (tally rebuild readmodels --accept)"
            )
        page |= {"xp": page["xp_then"], "level": level_of(page["xp_then"]), "balance": page["balance_then"]}
    for attempt in attempts:
        attempt["steps_reached"] = len(attempt["steps"])
    return msgspec.convert(page | {"as_of": as_of, "badges": badges, "attempts": attempts}, PlayerPage)


async def quest_page(
    source: PostgresSettings | Readers, tenant: str, quest: str, *, as_of: datetime | None = None
) -> QuestPage:
    """A quest's statistics and funnel; raises `NotFound`."""
    asked = {"quest": quest, "until": as_of or FOR_EVER}
    async with reading(source, tenant) as connection:
        found = await rows(connection, _QUEST if as_of is None else _QUEST_THEN, asked)
        if not found:
            then = "" if as_of is None else f" by {as_of.isoformat()}"
            raise NotFound(f"quest {quest} was never published with {tenant}{then}; send PublishQuest first")
        steps = await rows(connection, _STEPS if as_of is None else _STEPS_THEN, asked)
    return msgspec.convert(found[0] | {"as_of": as_of, "steps": steps}, QuestPage)


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
