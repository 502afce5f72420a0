"""Tables of a tenant's read models, and the migrations that bring a schema forward.

Every tenant has a schema of its own. A migration that was released is never changed: the next one is added below it.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

from projections import read_models
from projections.generations import LIVE

IDENTIFIER_BYTES_MAX: Final = 63
PREFIX: Final = "tally_"

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
MIGRATIONS: Final = (
    """
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
    """,
    """
    ALTER TABLE attempts DROP CONSTRAINT attempts_status_check;
    ALTER TABLE attempts ADD CONSTRAINT attempts_status_check
        CHECK (status IN ('accepted', 'completed', 'abandoned', 'expired'));
    ALTER TABLE quests ADD COLUMN expired bigint NOT NULL DEFAULT 0, ADD COLUMN closed_at timestamptz;
    """,
    """
    ALTER TABLE position
        ADD COLUMN version integer NOT NULL DEFAULT 1,
        ADD COLUMN generation text NOT NULL DEFAULT gen_random_uuid()::text,
        ADD COLUMN retired_at timestamptz;
    COMMENT ON COLUMN position.generation IS 'a follower goes on only in the generation that it opened';
    """,
    PARKED,
)


class Tables(NamedTuple):
    """A projection that lives in a schema of its own: its name, its version, how its tables are made."""

    name: str
    version: int
    migrations: tuple[str, ...]


READ_MODELS: Final = Tables(read_models.NAME, read_models.VERSION, MIGRATIONS)
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
