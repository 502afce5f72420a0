"""What a batch does to the tables of the read models, as SQL; inside of the transaction that moves the position.

It is written out before anything is sent: while PostgreSQL works on one batch the next one can be written out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from adapters.postgres import Connection
from projections import read_models
from projections.errors import Inconsistent
from projections.read_models import TREASURY, Writes, array


class _Table(NamedTuple):
    """Where rows are added: its name, its columns with their types, and those that hold what people wrote."""

    name: str
    columns: dict[str, str]
    written: tuple[str, ...] = ()
    #: Whether every value is there and needs no quotes.
    is_plain: bool = False

    def copy(self) -> str:
        """For a table without row-level security, the faster way."""
        if self.is_plain:
            return f"COPY {self.name} ({', '.join(self.columns)}) FROM STDIN"
        force = "".join(f", FORCE_NOT_NULL ({name})" for name in self.written if name != "divisions")
        return f"COPY {self.name} ({', '.join(self.columns)}) FROM STDIN (FORMAT csv{force})"

    def insert(self) -> str:
        """PostgreSQL takes no COPY where row-level security holds."""
        kinds = ", ".join(f"%s::{'text' if kind == 'text[]' else kind}[]" for kind in self.columns.values())
        chosen = ", ".join(f"{name}::{kind}" for name, kind in self.columns.items())
        names = ", ".join(self.columns)
        return f"INSERT INTO {self.name} ({names}) SELECT {chosen} FROM unnest({kinds}) AS u ({names})"  # noqa: S608 - names that stand above


_QUESTS: Final = _Table(
    "quests",
    {
        "quest": "text",
        "title": "text",
        "published_at": "timestamptz",
        "opens_at": "timestamptz",
        "closes_at": "timestamptz",
        "divisions": "text[]",
        "supply": "bigint",
    },
    written=("title", "divisions"),
)
_QUEST_STEPS: Final = _Table("quest_steps", {"quest": "text", "step": "text", "ordinal": "integer", "xp": "bigint"})
_PLAYERS: Final = _Table(
    "players",
    {
        "player": "text",
        "region": "text",
        "cohort": "text",
        "registered_at": "timestamptz",
        "xp": "bigint",
        "level": "integer",
    },
)
_ATTEMPTS: Final = _Table(
    "attempts",
    {
        "player": "text",
        "quest": "text",
        "attempt": "integer",
        "divisions": "text[]",
        "status": "text",
        "accepted_at": "timestamptz",
        "finished_at": "timestamptz",
        "elapsed_ms": "bigint",
    },
    written=("divisions",),
)
_STEPS: Final = _Table(
    "attempt_steps",
    {
        "player": "text",
        "quest": "text",
        "attempt": "integer",
        "step": "text",
        "elapsed_ms": "bigint",
        "reached_at": "timestamptz",
    },
    is_plain=True,
)
_BADGES: Final = _Table(
    "badges", {"player": "text", "quest": "text", "badge": "text", "awarded_at": "timestamptz"}, is_plain=True
)
_XP_AWARDS: Final = _Table(
    "xp_awards",
    {"player": "text", "quest": "text", "awarded_at": "timestamptz", "amount": "bigint", "total": "bigint"},
    is_plain=True,
)
_POSTINGS: Final = _Table(
    "postings",
    {
        "account": "text",
        "stream_seq": "bigint",
        "counterparty": "text",
        "amount": "bigint",
        "balance": "bigint",
        "reason": "text",
        "at": "timestamptz",
    },
    written=("reason",),
)
_COPIES: Final = {table.name: table.copy() for table in (
    _QUESTS, _QUEST_STEPS, _PLAYERS, _ATTEMPTS, _STEPS, _BADGES, _XP_AWARDS, _POSTINGS)}  # fmt: skip
_INSERTS: Final = {table.name: table.insert() for table in (
    _QUESTS, _QUEST_STEPS, _PLAYERS, _ATTEMPTS, _STEPS, _BADGES, _XP_AWARDS, _POSTINGS)}  # fmt: skip

_CHANGE_PLAYERS: Final = """
UPDATE players SET xp = u.xp, level = u.level
FROM unnest(%s::text[], %s::bigint[], %s::integer[]) AS u (player, xp, level) WHERE players.player = u.player
"""
_CHANGE_ATTEMPTS: Final = """
UPDATE attempts AS a SET status = u.status, finished_at = u.finished_at, elapsed_ms = u.elapsed_ms
FROM unnest(%s::text[], %s::text[], %s::integer[], %s::text[], %s::timestamptz[], %s::bigint[])
    AS u (player, quest, attempt, status, finished_at, elapsed_ms)
WHERE a.player = u.player AND a.quest = u.quest AND a.attempt = u.attempt
"""
_CHANGE_QUESTS: Final = """
UPDATE quests AS q SET
    accepted = q.accepted + u.accepted, completed = q.completed + u.completed, abandoned = q.abandoned + u.abandoned,
    expired = q.expired + u.expired, best_ms = least(q.best_ms, u.best_ms), taken = coalesce(u.taken, q.taken),
    retired_at = coalesce(u.retired_at, q.retired_at), closed_at = coalesce(u.closed_at, q.closed_at)
FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
    %s::timestamptz[], %s::timestamptz[])
    AS u (quest, accepted, completed, abandoned, expired, best_ms, taken, retired_at, closed_at)
WHERE q.quest = u.quest
"""
_CHANGE_QUEST_STEPS: Final = """
UPDATE quest_steps AS s SET reached = s.reached + u.reached
FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS u (quest, step, reached)
WHERE s.quest = u.quest AND s.step = u.step
"""
_ADD_BALANCES: Final = """
INSERT INTO accounts (account, balance) SELECT * FROM unnest(%s::text[], %s::bigint[])
ON CONFLICT (account) DO UPDATE SET balance = excluded.balance
"""
_ADD_TREASURY: Final = """
INSERT INTO accounts (account, balance) SELECT * FROM unnest(%s::text[], %s::bigint[])
ON CONFLICT (account) DO UPDATE SET balance = accounts.balance + excluded.balance
"""
_ADD_DAYS: Final = """
INSERT INTO days AS d (day, registered, minted, spent, sent)
SELECT * FROM unnest(%s::date[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
ON CONFLICT (day) DO UPDATE SET
    registered = d.registered + excluded.registered, minted = d.minted + excluded.minted,
    spent = d.spent + excluded.spent, sent = d.sent + excluded.sent
"""
_ADD_QUEST_DAYS: Final = """
INSERT INTO quest_days AS d (quest, day, accepted, steps_reached, completed, abandoned, expired, badges)
SELECT * FROM unnest(%s::text[], %s::date[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
    %s::bigint[])
ON CONFLICT (day, quest) DO UPDATE SET
    accepted = d.accepted + excluded.accepted, steps_reached = d.steps_reached + excluded.steps_reached,
    completed = d.completed + excluded.completed, abandoned = d.abandoned + excluded.abandoned,
    expired = d.expired + excluded.expired, badges = d.badges + excluded.badges
"""


class Prepared(NamedTuple):
    """What is sent for a batch: statements with their text or arrays, and how many rows each change must find."""

    copies: list[tuple[str, str]]
    inserts: list[tuple[str, list[Any]]]
    changes: list[tuple[str, list[str], int]]


def prepared(writes: Writes, *, is_guarded: bool) -> Prepared:
    """The rows to add and to change, as text; PostgreSQL takes no COPY where row-level security holds."""
    added = [
        (table, rows)
        for table, rows in (
            (_QUESTS, writes.quests),
            (_QUEST_STEPS, writes.quest_steps),
            (_PLAYERS, writes.players.values()),
            (_ATTEMPTS, writes.attempts.values()),
            (_STEPS, writes.steps),
            (_BADGES, writes.badges),
            (_XP_AWARDS, writes.xp_awards),
            (_POSTINGS, writes.postings),
        )
        if rows
    ]
    return Prepared(
        copies=[] if is_guarded else [(_COPIES[table.name], _lines(table, rows)) for table, rows in added],
        inserts=[(_INSERTS[table.name], _arrays(table, rows)) for table, rows in added] if is_guarded else [],
        changes=[
            (statement, [array(column) for column in columns], wanted)
            for statement, wanted, columns in _changes(writes)
        ],
    )


async def write(connection: Connection, batch: Prepared) -> None:
    """Add and change the rows; raises `Inconsistent` when one that must be there is not.

    Statements do not wait for each other's answers: a small batch is as many of them as a large one.
    """
    for statement, lines in batch.copies:
        async with connection.cursor() as cursor, cursor.copy(statement) as copy:
            await copy.write(lines)
    async with connection.pipeline():
        for statement, arrays in batch.inserts:
            await connection.execute(statement, arrays)
        changed = [
            (statement, wanted, await connection.execute(statement, arrays))
            for statement, arrays, wanted in batch.changes
        ]
    for statement, wanted, done in changed:
        if done.rowcount != wanted:
            table_name = statement.split()[1 if statement.lstrip().startswith("UPDATE") else 2]
            message = (
                f"{read_models.NAME}: {done.rowcount} of {wanted} rows of {table_name} were there; "
                "something else changed the read models: replace them (tally rebuild readmodels --accept)"
            )
            raise Inconsistent(message)


def _lines(table: _Table, rows: Collection[Sequence[Any]]) -> str:
    if table.is_plain:
        line = "\t".join(["%s"] * len(table.columns)) + "\n"
        return "".join(map(line.__mod__, rows))
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue()


def _arrays(table: _Table, rows: Collection[Sequence[Any]]) -> list[Any]:
    columns = zip(table.columns, zip(*rows, strict=True), strict=True)
    return [_escaped(values) if name in table.written else array(values) for name, values in columns]


def _escaped(values: Iterable[str]) -> str:
    """What people wrote, as a PostgreSQL array."""
    quoted = ['"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values]
    return "{" + ",".join(quoted) + "}"


def _changes(writes: Writes) -> Iterator[tuple[str, int, Iterable[Iterable[Any]]]]:
    """Statements that change rows, how many each must find, and their columns."""
    if players := writes.players_changed:
        yield _CHANGE_PLAYERS, len(players), [players, *zip(*players.values(), strict=True)]
    if attempts := writes.attempts_changed:
        changes = [(c.status, c.finished_at, c.elapsed_ms) for c in attempts.values()]
        columns = [*zip(*attempts, strict=True), *zip(*changes, strict=True)]
        yield _CHANGE_ATTEMPTS, len(attempts), columns
    if quests := writes.quests_changed:
        counts = [
            (c.accepted, c.completed, c.abandoned, c.expired, c.best_ms, c.taken, c.retired_at, c.closed_at)
            for c in quests.values()
        ]
        yield _CHANGE_QUESTS, len(quests), [quests, *zip(*counts, strict=True)]
    if steps := writes.steps_reached:
        yield _CHANGE_QUEST_STEPS, len(steps), [*zip(*steps, strict=True), steps.values()]
    if balances := writes.balances:
        yield _ADD_BALANCES, len(balances), [balances, balances.values()]
    if days := writes.days:
        yield _ADD_DAYS, len(days), [days, *zip(*days.values(), strict=True)]
    if quest_days := writes.quest_days:
        columns = [*zip(*quest_days, strict=True), *zip(*quest_days.values(), strict=True)]
        yield _ADD_QUEST_DAYS, len(quest_days), columns
    if writes.treasury:
        yield _ADD_TREASURY, 1, [[TREASURY], [writes.treasury]]
