"""Read models in PostgreSQL: rows and position of a batch in one transaction."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

import psycopg

from adapters import postgres, postgres_parking
from adapters.postgres_schema import READ_MODELS
from bus.envelope import Recorded
from bus.follower import Position, StreamIdentity
from projections import read_models
from projections.errors import Fenced, Inconsistent, ProjectionError
from projections.generations import LIVE
from projections.parking import Parked, project_or_park, ready
from projections.positions import advance
from projections.read_models import TREASURY, Writes, array

log = logging.getLogger(__name__)

_COPY_PLAYERS: Final = "COPY players (player, region, cohort, registered_at, xp, level) FROM STDIN (FORMAT csv)"
_COPY_BADGES: Final = "COPY badges (player, quest, badge, awarded_at) FROM STDIN (FORMAT csv)"
_COPY_ATTEMPTS: Final = (
    "COPY attempts (player, quest, attempt, divisions, status, accepted_at, finished_at, steps_reached, elapsed_ms) "
    "FROM STDIN (FORMAT csv)"
)
_COPY_STEPS: Final = "COPY attempt_steps (player, quest, attempt, step, elapsed_ms, reached_at) FROM STDIN (FORMAT csv)"
_COPY_POSTINGS: Final = (
    "COPY postings (account, stream_seq, counterparty, amount, balance, reason, at) "
    "FROM STDIN (FORMAT csv, FORCE_NOT_NULL (reason))"
)
_COPY_QUESTS: Final = (
    "COPY quests (quest, title, published_at, opens_at, closes_at, divisions, supply) "
    "FROM STDIN (FORMAT csv, FORCE_NOT_NULL (title))"
)
_COPY_QUEST_STEPS: Final = "COPY quest_steps (quest, step, ordinal, xp) FROM STDIN (FORMAT csv)"

_PLAYERS: Final = """
UPDATE players SET xp = u.xp, level = u.level
FROM unnest(%s::text[], %s::bigint[], %s::integer[]) AS u (player, xp, level) WHERE players.player = u.player
"""
_ATTEMPTS: Final = """
UPDATE attempts AS a SET
    status = coalesce(u.status, a.status), finished_at = coalesce(u.finished_at, a.finished_at),
    steps_reached = u.steps_reached, elapsed_ms = coalesce(u.elapsed_ms, a.elapsed_ms)
FROM unnest(%s::text[], %s::text[], %s::integer[], %s::text[], %s::timestamptz[], %s::integer[], %s::bigint[])
    AS u (player, quest, attempt, status, finished_at, steps_reached, elapsed_ms)
WHERE a.player = u.player AND a.quest = u.quest AND a.attempt = u.attempt
"""
_QUESTS: Final = """
UPDATE quests AS q SET
    accepted = q.accepted + u.accepted, completed = q.completed + u.completed, abandoned = q.abandoned + u.abandoned,
    expired = q.expired + u.expired, best_ms = least(q.best_ms, u.best_ms), taken = coalesce(u.taken, q.taken),
    retired_at = coalesce(u.retired_at, q.retired_at), closed_at = coalesce(u.closed_at, q.closed_at)
FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
    %s::timestamptz[], %s::timestamptz[])
    AS u (quest, accepted, completed, abandoned, expired, best_ms, taken, retired_at, closed_at)
WHERE q.quest = u.quest
"""
_QUEST_STEPS: Final = """
UPDATE quest_steps AS s SET reached = s.reached + u.reached
FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS u (quest, step, reached)
WHERE s.quest = u.quest AND s.step = u.step
"""
_BALANCES: Final = """
INSERT INTO accounts (account, balance) SELECT * FROM unnest(%s::text[], %s::bigint[])
ON CONFLICT (account) DO UPDATE SET balance = excluded.balance
"""
_TREASURY: Final = """
INSERT INTO accounts (account, balance) VALUES (%s, %s)
ON CONFLICT (account) DO UPDATE SET balance = accounts.balance + excluded.balance
"""


class ReadModelFollower:
    """Feeds the read models of one tenant."""

    name = read_models.NAME
    tables = READ_MODELS

    def __init__(self, settings: postgres.PostgresSettings, generation: str = LIVE) -> None:
        self._settings = settings
        self._generation = generation
        self._connection: postgres.Connection | None = None
        self._held: list[Recorded] = []
        self._parked: dict[str, int] = {}

    async def open(self, tenant: str, stream: StreamIdentity) -> Position:
        """Bring the schema forward; returns the stored position. Raises `ForeignPosition`, `SinkUnavailable`."""
        await self.close()
        self._connection = connection = await postgres.connect(self._settings, tenant, self._generation, self.tables)
        try:
            await postgres.migrate(connection, tenant, self._generation, self.tables)
            self._position, self._opened = await postgres.open_position(connection, stream, self.tables)
            await self._retry_parked(connection)
        except psycopg.Error as err:
            await self.close()
            raise postgres.unavailable(err) from err
        except ProjectionError:
            await self.close()
            raise
        return self._position

    async def apply(self, records: Sequence[Recorded]) -> None:
        """Commit rows and position together, but never between the two halves of a transfer.

        Raises `OutOfOrder`, `Fenced`, `Switched`, `Inconsistent`, `SinkUnavailable`; then nothing of it is there.
        """
        waiting = [*self._held, *records] if self._held else records
        whole = self._whole(waiting)
        advance(self.name, self._position, waiting)
        after = advance(self.name, self._position, waiting[:whole])
        if after is not self._position:
            is_live = self._generation == LIVE
            writes, parked = project_or_park(self.name, self._project, waiting[:whole], self._parked, is_live=is_live)
            await self._commit(writes, parked, after)
            for one in parked:
                self._parked.setdefault(one.subject, one.stream_seq)
        self._held = list(waiting[whole:])
        self._position = after

    async def idle(self) -> None:
        """Nothing waits but the first half of a transfer, whose second half is already in the stream."""

    async def close(self) -> None:
        """Let go of the connection."""
        self._held = []
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _whole(self, records: Sequence[Recorded]) -> int:
        return read_models.whole_movements(records)

    def _project(self, records: Sequence[Recorded]) -> Any:
        return read_models.project(records)

    async def _write(self, cursor: Any, writes: Any) -> None:
        await _add(cursor, writes)
        await _change(cursor, writes)

    async def _retry_parked(self, connection: postgres.Connection) -> None:
        """Apply what can be projected now, each aggregate in order and in one transaction."""
        parked = await postgres_parking.stored(connection)
        self._parked = {}
        for one in parked:
            self._parked.setdefault(one.subject, one.stream_seq)
        for subject, writes in ready(self._project, parked):
            try:
                await self._commit(writes, (), self._position, released=subject)
            except Inconsistent as err:
                log.warning("%s stays parked: %s", subject, err)
                continue
            log.info("%s: the parked events of %s are applied", self.name, subject)
            del self._parked[subject]

    async def _commit(
        self, writes: Any, parked: Sequence[Parked], after: Position, *, released: str | None = None
    ) -> None:
        if self._connection is None:
            message = f"{self.name}: not open; open it first"
            raise Inconsistent(message)
        try:
            async with self._connection.transaction():
                found = await postgres.move_position(self._connection, self._position, after, self._opened, self.tables)
                if found is not None:
                    raise Fenced(self.name, self._position.stream_seq, found)
                async with self._connection.cursor() as cursor:
                    await self._write(cursor, writes)
                    if parked:
                        await postgres_parking.keep(cursor, parked)
                    if released is not None:
                        await postgres_parking.release(cursor, released)
        except psycopg.errors.UniqueViolation as err:
            message = (
                f"{self.name}: a row of the events after {self._position.stream_seq} is already there ({_key(err)}); "
                f"something else changed the rows: replace them (tally rebuild {self.name} --accept)"
            )
            raise Inconsistent(message) from err
        except psycopg.Error as err:
            raise postgres.unavailable(err) from err


async def _add(cursor: Any, writes: Writes) -> None:
    for statement, rows in (
        (_COPY_QUESTS, writes.quests),
        (_COPY_QUEST_STEPS, writes.quest_steps),
        (_COPY_PLAYERS, writes.players.values()),
        (_COPY_ATTEMPTS, writes.attempts.values()),
        (_COPY_STEPS, writes.steps),
        (_COPY_BADGES, writes.badges),
        (_COPY_POSTINGS, writes.postings),
    ):
        if rows:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows)
            async with cursor.copy(statement) as copy:
                await copy.write(text.getvalue())


async def _change(cursor: Any, writes: Writes) -> None:
    if players := writes.players_changed:
        await _update(cursor, _PLAYERS, len(players), [players, *zip(*players.values(), strict=True)])
    if attempts := writes.attempts_changed:
        changes = [(c.status, c.finished_at, c.steps_reached, c.elapsed_ms) for c in attempts.values()]
        await _update(cursor, _ATTEMPTS, len(attempts), [*zip(*attempts, strict=True), *zip(*changes, strict=True)])
    if quests := writes.quests_changed:
        counts = [
            (c.accepted, c.completed, c.abandoned, c.expired, c.best_ms, c.taken, c.retired_at, c.closed_at)
            for c in quests.values()
        ]
        await _update(cursor, _QUESTS, len(quests), [quests, *zip(*counts, strict=True)])
    if steps := writes.steps_reached:
        await _update(cursor, _QUEST_STEPS, len(steps), [*zip(*steps, strict=True), steps.values()])
    if balances := writes.balances:
        await _update(cursor, _BALANCES, len(balances), [balances, balances.values()])
    if writes.treasury:
        await cursor.execute(_TREASURY, [TREASURY, writes.treasury])


async def _update(cursor: Any, statement: str, wanted: int, columns: Iterable[Iterable[Any]]) -> None:
    await cursor.execute(statement, [array(column) for column in columns])
    if cursor.rowcount != wanted:
        table = statement.split()[1 if statement.lstrip().startswith("UPDATE") else 2]
        message = (
            f"{read_models.NAME}: {cursor.rowcount} of {wanted} rows of {table} were there; "
            "something else changed the read models: replace them (tally rebuild readmodels --accept)"
        )
        raise Inconsistent(message)


def _key(err: psycopg.Error) -> str:
    return err.diag.message_detail or err.diag.message_primary or "unnamed"
