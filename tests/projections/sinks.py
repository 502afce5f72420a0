"""The three sinks in one form: how each is fed, where it stands, what it holds, and what it must hold."""

from typing import ClassVar

import psycopg
from stories import ranking

from adapters import iceberg, postgres, redis_boards
from adapters.iceberg import AnalyticsFollower
from adapters.postgres_readmodels import ReadModelFollower
from adapters.postgres_schema import schema_of
from adapters.redis_boards import Boards, LeaderboardFollower
from projections import analytics
from projections.leaderboards import Board


class Leaderboards:
    follower = LeaderboardFollower
    environ: ClassVar = {}
    events_per_kill = 120
    write_s = 0.02
    refusal = "Fenced"
    url = "redis_url"
    pieces_max = 8
    batch_max = 90
    read_position = staticmethod(redis_boards.read_position)

    @staticmethod
    def wanted(fold):
        return {name: [(player, abs(scores[player][0])) for player in ranking(scores)]
                for name, scores in fold["scores"].items()}  # fmt: skip

    @staticmethod
    async def found(settings, tenant, fold):
        async with Boards(settings, tenant) as boards:
            found = {}
            for name in fold["scores"]:
                lines = await boards.top(board_named(name), 1000)
                assert [line.place for line in lines] == list(range(1, len(lines) + 1))
                found[name] = [(line.player, line.score) for line in lines]
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
        return {
            "players": {player: tuple(row) for player, row in fold["players"].items()},
            "xp_awards": fold["xp_awards"],
            "days": {day: tuple(row.values()) for day, row in fold["days"].items()},
            "quest_days": {key: tuple(row.values()) for key, row in fold["quest_days"].items()},
            "badges": fold["badges"],
            "attempts": {key: tuple(row) for key, row in fold["attempts"].items()},
            "steps": fold["steps"],
            "balances": dict(fold["balances"]),
            "postings": sorted(fold["postings"]),
            "quests": {quest: tuple(row.values()) for quest, row in fold["quests"].items()},
            "quest_steps": fold["quest_steps"],
        }

    @staticmethod
    async def found(settings, tenant, fold):
        def ask(columns, table):
            return connection.execute(f"SELECT {columns} FROM {table}").fetchall()  # type: ignore[arg-type]

        with psycopg.connect(settings.postgres_dsn, options=f'-c search_path="{schema_of(tenant)}"') as connection:
            return {
                "players": {row[0]: row[1:] for row in ask("player, region, cohort, xp, level", "players")},
                "badges": set(ask("player, quest, badge", "badges")),
                "xp_awards": set(ask("player, quest, amount, total", "xp_awards")),
                "days": {row[0]: row[1:] for row in ask("day::text, registered, minted, spent, sent", "days")},
                "quest_days": {
                    row[:2]: row[2:]
                    for row in ask(
                        "quest, day::text, accepted, steps_reached, completed, abandoned, expired, badges", "quest_days"
                    )
                },
                "attempts": {
                    row[:3]: row[3:] for row in ask("player, quest, attempt, status, elapsed_ms, divisions", "attempts")
                },
                "steps": {row[:4]: row[4] for row in ask("player, quest, attempt, step, elapsed_ms", "attempt_steps")},
                "balances": dict(ask("account, balance", "accounts")),
                "postings": sorted(ask("account, stream_seq, counterparty, amount, reason", "postings")),
                "quests": {
                    row[0]: row[1:]
                    for row in ask("quest, title, accepted, completed, abandoned, expired, taken", "quests")
                },
                "quest_steps": {row[:2]: row[2] for row in ask("quest, step, reached", "quest_steps")},
            }


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
        return Board("xp")
    _, quest, *division = name.split(":")
    return Board(f"quest:{quest}", division[0] if division else None)
