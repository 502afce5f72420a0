"""The three sinks in one form: how each is fed, where it stands, what it holds, and what it must hold."""

from typing import ClassVar

import psycopg
from rows import read, rows_of
from stories import ranking

from adapters import iceberg, postgres, redis_ranks
from adapters.iceberg import AnalyticsFollower
from adapters.postgres_readmodels import ReadModelFollower
from adapters.postgres_schema import schema_of
from adapters.redis_boards import LeaderboardFollower
from adapters.redis_keys import connect, live_keys
from projections import analytics
from projections.boards import quest_board, xp_board


def hexed(seq):
    """A sequence as docs/formats.md has it."""
    return f"{' ABCDEFGHIJKL'[len(f'{seq:x}')]}{seq:x}"


class Leaderboards:
    follower = LeaderboardFollower
    environ: ClassVar = {}
    events_per_kill = 120
    write_s = 0.02
    refusal = "Fenced"
    url = "redis_url"
    pieces_max = 8
    batch_max = 90
    read_position = staticmethod(redis_ranks.read_position)

    @staticmethod
    def wanted(fold):
        return {
            board_named(name).name: {
                "board": [(f"{hexed(scores[player][1])}{player}", scores[player][0]) for player in ranking(scores)],
                "members": {player: f"{hexed(seq)}{score}" for player, (score, seq) in scores.items()},
                "scores": sorted({score for score, _ in scores.values()}),
            }
            for name, scores in fold["scores"].items()
        }

    @staticmethod
    async def found(settings, tenant, _):
        """Every key of the boards, as Redis has them."""
        async with connect(settings) as client:
            keys, found = await live_keys(client, tenant), {}
            for name in await client.smembers(keys.boards):
                members, board, scores = keys.of_board(name)
                found[name] = {
                    "board": await client.zrange(board, 0, -1, withscores=True, score_cast_func=int),
                    "members": await client.hgetall(members),
                    "scores": [int(score) for score in await client.zrange(scores, 0, -1)],
                }
        return found


class ReadModels:
    follower = ReadModelFollower
    environ: ClassVar = {}
    events_per_kill = 120
    write_s = 0.02
    refusal = "Fenced"
    url = "postgres_dsn"
    pieces_max = 60
    batch_max = 90
    read_position = staticmethod(postgres.read_position)

    @staticmethod
    def wanted(fold):
        """Every row, every column."""
        return rows_of(fold["bodies"])

    @staticmethod
    async def found(settings, tenant, fold):
        options = f'-c search_path="{schema_of(tenant)}" -c timezone=UTC'
        with psycopg.connect(settings.postgres_dsn, options=options) as connection:
            there = connection.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
            )
            tables = {name for (name,) in there.fetchall()} - {"position", "migrations", "parked"}
            return {table: rows for table, rows in read(connection, tables).items() if rows}


class Analytics:
    @staticmethod
    def follower(settings):
        return AnalyticsFollower(settings, commit_rows=1)

    environ: ClassVar = {"TALLY_ANALYTICS_COMMIT_ROWS": "17", "TALLY_ANALYTICS_COMMIT_AGE_S": "1"}
    events_per_kill = 60
    write_s = 0.15
    refusal = "failed (CommitFailedException)"
    url = None
    batch_max = 250
    read_position = staticmethod(iceberg.read_position)

    @staticmethod
    def wanted(fold):
        return {"types": dict(fold["types"]), "events": list(enumerate(fold["bodies"], 1)), "altered": []}

    @staticmethod
    async def found(settings, tenant, fold):
        rows = iceberg.read_rows(settings, tenant)
        return {
            "types": iceberg.count_by_type(settings, tenant),
            "events": [(row["stream_seq"], analytics.body_of(row)) for row in rows],
            "altered": [row["event_id"] for row in rows if not analytics.is_faithful(row)],
        }


def board_named(name):
    if name == "xp":
        return xp_board()
    _, quest, *division = name.split(":")
    return quest_board(quest, *division)
