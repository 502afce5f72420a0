"""Tables of a tenant's read models, and the migrations that bring a schema forward.

Every tenant has a schema of its own. A migration that was released is never changed: the next one is added below it.
How they are applied: adapters/postgres_migrations.py. Who may do what with what they make: adapters/postgres_roles.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final, NamedTuple

from projections import read_models
from projections.generations import LIVE

IDENTIFIER_BYTES_MAX: Final = 63
PREFIX: Final = "tally_"


class Migration(NamedTuple):
    """One step forward. Statements and backfill are one transaction, in which readers wait for locks a moment only."""

    #: What changes tables; nothing that reads or rewrites many rows while it holds a lock that readers wait for.
    statements: str
    #: Rows that follow from rows, where a table is new and its past can be told without the events.
    backfill: str = ""
    #: Indexes by name, made without a lock that anybody waits for once the rest is committed.
    indexes: Mapping[str, str] = {}


#: Events that could not be projected, and those of their aggregates behind them (projections/parking.py).
PARKED: Final = """
CREATE TABLE parked (
    stream_seq bigint PRIMARY KEY,
    subject text COLLATE "C" NOT NULL,
    body bytea NOT NULL,
    reason text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now()
);
"""
#: Daily rollups, by the day of the event in UTC; the history of XP; views for people and programs that are not ours.
STATISTICS: Final = """
CREATE TABLE xp_awards (
    player text COLLATE "C" NOT NULL,
    quest text COLLATE "C" NOT NULL,
    awarded_at timestamptz NOT NULL,
    amount bigint NOT NULL,
    total bigint NOT NULL,
    PRIMARY KEY (player, quest)
);
CREATE TABLE days (
    day date PRIMARY KEY,
    registered bigint NOT NULL DEFAULT 0,
    minted bigint NOT NULL DEFAULT 0,
    spent bigint NOT NULL DEFAULT 0,
    sent bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE quest_days (
    quest text COLLATE "C" NOT NULL,
    day date NOT NULL,
    accepted bigint NOT NULL DEFAULT 0,
    steps_reached bigint NOT NULL DEFAULT 0,
    completed bigint NOT NULL DEFAULT 0,
    abandoned bigint NOT NULL DEFAULT 0,
    expired bigint NOT NULL DEFAULT 0,
    badges bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (day, quest)
) WITH (fillfactor = 50);
COMMENT ON COLUMN days.day IS 'the day of the event in UTC';
COMMENT ON COLUMN quest_days.day IS 'the day of the event in UTC';

CREATE VIEW quest_funnel WITH (security_invoker = true) AS
    SELECT quest, 0 AS ordinal, 'accepted' AS stage, accepted AS reached FROM quests
    UNION ALL SELECT quest, ordinal, step, reached FROM quest_steps
    UNION ALL SELECT quest, 1000000, 'completed', completed FROM quests;
CREATE VIEW account_statements WITH (security_invoker = true) AS
    SELECT account, at, stream_seq, counterparty, reason, amount,
        sum(amount) OVER (PARTITION BY account ORDER BY at, stream_seq)::bigint AS balance
    FROM postings;
CREATE VIEW books WITH (security_invoker = true) AS
    SELECT
        (SELECT coalesce(sum(balance), 0) FROM accounts)::bigint AS balances,
        (SELECT coalesce(sum(amount), 0) FROM postings)::bigint AS postings,
        (SELECT count(*) FROM accounts FULL JOIN
            (SELECT account, sum(amount) AS amount FROM postings GROUP BY account) AS posted USING (account)
            WHERE coalesce(balance, 0) <> coalesce(amount, 0)) AS accounts_off;
CREATE VIEW daily WITH (security_invoker = true) AS
    SELECT day, coalesce(registered, 0) AS registered, coalesce(accepted, 0) AS accepted,
        coalesce(steps_reached, 0) AS steps_reached, coalesce(completed, 0) AS completed,
        coalesce(abandoned, 0) AS abandoned, coalesce(expired, 0) AS expired, coalesce(badges, 0) AS badges,
        coalesce(minted, 0) AS minted, coalesce(spent, 0) AS spent, coalesce(sent, 0) AS sent
    FROM days FULL JOIN (
        SELECT day, sum(accepted)::bigint AS accepted, sum(steps_reached)::bigint AS steps_reached,
            sum(completed)::bigint AS completed, sum(abandoned)::bigint AS abandoned,
            sum(expired)::bigint AS expired, sum(badges)::bigint AS badges
        FROM quest_days GROUP BY day) AS by_day USING (day);
"""
BACKFILL: Final = """
INSERT INTO days (day, registered, minted, spent, sent)
    SELECT day, sum(registered), sum(minted), sum(spent), sum(sent) FROM (
        SELECT (registered_at AT TIME ZONE 'UTC')::date AS day, 1 AS registered, 0 AS minted, 0 AS spent, 0 AS sent
            FROM players
        UNION ALL SELECT (at AT TIME ZONE 'UTC')::date, 0,
            CASE WHEN account = '@treasury' AND amount < 0 THEN -amount ELSE 0 END,
            CASE WHEN account = '@treasury' AND amount > 0 THEN amount ELSE 0 END,
            CASE WHEN account <> '@treasury' AND counterparty <> '@treasury' AND amount < 0 THEN -amount ELSE 0 END
            FROM postings
    ) AS facts GROUP BY day;
INSERT INTO quest_days (quest, day, accepted, steps_reached, completed, abandoned, expired, badges)
    SELECT quest, (at AT TIME ZONE 'UTC')::date, count(*) FILTER (WHERE fact = 'accepted'),
        count(*) FILTER (WHERE fact = 'step'), count(*) FILTER (WHERE fact = 'completed'),
        count(*) FILTER (WHERE fact = 'abandoned'), count(*) FILTER (WHERE fact = 'expired'),
        count(*) FILTER (WHERE fact = 'badge')
    FROM (
        SELECT quest, accepted_at AS at, 'accepted' AS fact FROM attempts
        UNION ALL SELECT quest, finished_at, status FROM attempts WHERE finished_at IS NOT NULL
        UNION ALL SELECT quest, reached_at, 'step' FROM attempt_steps
        UNION ALL SELECT quest, awarded_at, 'badge' FROM badges
    ) AS facts GROUP BY 1, 2;
"""
#: A few bytes for many rows that came at about the same time: what the statement of a day has to look through.
POSTINGS_AT: Final = "CREATE INDEX {concurrently} postings_at ON postings USING brin (at) WITH (autosummarize = on)"
MIGRATIONS: Final = (
    Migration("""
    CREATE TABLE position (
        projection text PRIMARY KEY,
        stream_created text NOT NULL,
        stream_seq bigint NOT NULL,
        leaf_hash text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE players (
        player text COLLATE "C" PRIMARY KEY,
        region text,
        cohort text,
        registered_at timestamptz NOT NULL,
        xp bigint NOT NULL,
        level integer NOT NULL
    ) WITH (fillfactor = 85);
    CREATE TABLE badges (
        player text COLLATE "C" NOT NULL,
        quest text COLLATE "C" NOT NULL,
        badge text COLLATE "C" NOT NULL,
        awarded_at timestamptz NOT NULL,
        PRIMARY KEY (player, quest, badge)
    );
    CREATE TABLE attempts (
        player text COLLATE "C" NOT NULL,
        quest text COLLATE "C" NOT NULL,
        attempt integer NOT NULL,
        divisions text[] NOT NULL,
        status text NOT NULL CHECK (status IN ('accepted', 'completed', 'abandoned')),
        accepted_at timestamptz NOT NULL,
        finished_at timestamptz,
        steps_reached integer NOT NULL,
        elapsed_ms bigint,
        PRIMARY KEY (player, quest, attempt)
    ) WITH (fillfactor = 70);
    CREATE TABLE attempt_steps (
        player text COLLATE "C" NOT NULL,
        quest text COLLATE "C" NOT NULL,
        attempt integer NOT NULL,
        step text COLLATE "C" NOT NULL,
        elapsed_ms bigint NOT NULL,
        reached_at timestamptz NOT NULL,
        PRIMARY KEY (player, quest, attempt, step)
    );
    CREATE TABLE accounts (
        account text COLLATE "C" PRIMARY KEY,
        balance bigint NOT NULL
    ) WITH (fillfactor = 85);
    CREATE TABLE postings (
        account text COLLATE "C" NOT NULL,
        stream_seq bigint NOT NULL,
        counterparty text COLLATE "C" NOT NULL,
        amount bigint NOT NULL CHECK (amount <> 0),
        balance bigint,
        reason text NOT NULL,
        at timestamptz NOT NULL,
        PRIMARY KEY (account, stream_seq)
    );
    CREATE TABLE quests (
        quest text COLLATE "C" PRIMARY KEY,
        title text NOT NULL,
        published_at timestamptz NOT NULL,
        opens_at timestamptz,
        closes_at timestamptz,
        divisions text[] NOT NULL,
        supply bigint,
        taken bigint NOT NULL DEFAULT 0,
        retired_at timestamptz,
        accepted bigint NOT NULL DEFAULT 0,
        completed bigint NOT NULL DEFAULT 0,
        abandoned bigint NOT NULL DEFAULT 0,
        best_ms bigint
    ) WITH (fillfactor = 50);
    CREATE TABLE quest_steps (
        quest text COLLATE "C" NOT NULL,
        step text COLLATE "C" NOT NULL,
        ordinal integer NOT NULL,
        xp bigint NOT NULL,
        reached bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (quest, step)
    ) WITH (fillfactor = 50);
    COMMENT ON COLUMN postings.account IS 'a player, or @treasury, whose running balance is not kept';
    """),
    Migration("""
    ALTER TABLE attempts DROP CONSTRAINT attempts_status_check;
    ALTER TABLE attempts ADD CONSTRAINT attempts_status_check
        CHECK (status IN ('accepted', 'completed', 'abandoned', 'expired'));
    ALTER TABLE quests ADD COLUMN expired bigint NOT NULL DEFAULT 0, ADD COLUMN closed_at timestamptz;
    """),
    Migration("""
    ALTER TABLE position
        ADD COLUMN version integer NOT NULL DEFAULT 1,
        ADD COLUMN generation text NOT NULL DEFAULT gen_random_uuid()::text,
        ADD COLUMN retired_at timestamptz;
    COMMENT ON COLUMN position.generation IS 'a follower goes on only in the generation that it opened';
    """),
    Migration(PARKED),
    Migration(STATISTICS, BACKFILL, {"postings_at": POSTINGS_AT}),
    # By itself, as nobody may wait for the rows above: how many steps an attempt reached stands in attempt_steps.
    Migration("ALTER TABLE attempts DROP COLUMN steps_reached"),
)


class Tables(NamedTuple):
    """A projection that lives in a schema of its own: its name, its version, how its tables are made."""

    name: str
    version: int
    migrations: tuple[Migration, ...]
    #: Tables to which rows are only added, and their keys: a generation in the making gets these keys at its end.
    appended: Mapping[str, str] = {}


READ_MODELS: Final = Tables(
    read_models.NAME,
    read_models.VERSION,
    MIGRATIONS,
    {
        "attempt_steps": "player, quest, attempt, step",
        "badges": "player, quest, badge",
        "postings": "account, stream_seq",
        "xp_awards": "player, quest",
    },
)
#: The first migration of any other projection.
POSITION: Final = """
CREATE TABLE position (
    projection text PRIMARY KEY,
    stream_created text NOT NULL,
    stream_seq bigint NOT NULL,
    leaf_hash text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    version integer NOT NULL,
    generation text NOT NULL DEFAULT gen_random_uuid()::text,
    retired_at timestamptz
);
"""


def schema_of(tenant: str, generation: str = LIVE, projection: str = READ_MODELS.name) -> str:
    """The schema of a tenant's projection; a generation in the making has a schema beside the live one."""
    name = f"{PREFIX}{tenant}" if projection == READ_MODELS.name else f"{PREFIX}{tenant}+{projection}"
    if generation != LIVE:
        name = f"{name}@{generation}"
    if len(name) <= IDENTIFIER_BYTES_MAX:
        return name
    # PostgreSQL would cut the name, and two tenants might meet.
    return f"{name[:40]}@{sha256(name.encode()).hexdigest()[:16]}"
