"""Any projection into tables of its own in PostgreSQL: a module with NAME, VERSION, MIGRATIONS and project (docs)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from adapters.postgres import Connection, PostgresSettings
from adapters.postgres_generations import ReadModelGenerations
from adapters.postgres_readmodels import ReadModelFollower
from adapters.postgres_schema import PARKED, POSITION, Migration, Tables
from bus.envelope import Recorded
from projections.generations import LIVE


class TableProjection(Protocol):
    """What a module must have to be a projection; `project` is pure and gives statements with their rows, in order."""

    NAME: str
    VERSION: int
    MIGRATIONS: tuple[str, ...]

    def project(self, records: Sequence[Recorded]) -> Iterable[tuple[str, Sequence[Sequence[Any]]]]:
        """Each statement is executed once for each of its rows, in one transaction with the position."""


def tables_of(projection: TableProjection) -> Tables:
    """Its tables, the position first."""
    steps = (POSITION + PARKED, *projection.MIGRATIONS)
    return Tables(projection.NAME, projection.VERSION, tuple(Migration(statements) for statements in steps))


class TablesFollower(ReadModelFollower):
    """Feeds such a projection of one tenant."""

    look_at = staticmethod(lambda record: record.event)

    def __init__(self, projection: TableProjection, settings: PostgresSettings, generation: str = LIVE) -> None:
        super().__init__(settings, generation)
        self.name = projection.NAME
        self.tables = tables_of(projection)
        self._projection = projection

    def _whole(self, records: Sequence[Recorded]) -> int:
        return len(records)

    def _project(self, records: Sequence[Recorded]) -> Any:
        return list(self._projection.project(records))

    def _prepared(self, writes: Any) -> Any:
        return writes

    async def _write(self, connection: Connection, batch: Any) -> None:
        async with connection.cursor() as cursor:
            for statement, rows in batch:
                if rows:
                    await cursor.executemany(statement, rows)


class TablesGenerations(ReadModelGenerations):
    """The generations of such a projection of one tenant."""

    def __init__(self, projection: TableProjection, settings: PostgresSettings, tenant: str) -> None:
        super().__init__(settings, tenant, tables_of(projection))
        self._projection = projection

    def _feeder(self, generation: str) -> TablesFollower:
        return TablesFollower(self._projection, self._settings, generation)
