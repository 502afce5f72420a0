"""Do the three read sides tell the same story? Pure: what each says at one position in, the differences out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from domain import player, token

ALTERED_SHOWN: Final = 3


class ReadModelSums(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over a tenant's read models at one position; `unbalanced` accounts differ from their postings."""

    stream_seq: int
    players: int
    xp: int
    accepted: int
    steps_reached: int
    completed: int
    abandoned: int
    badges: int
    accounts: int
    balances: int
    treasury: int
    postings: int
    unbalanced: int
    completed_by_quest: dict[str, int]
    expired: int = 0


class BoardSums(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the leaderboards at one position; `ranked` counts the finishers of each quest."""

    stream_seq: int
    xp: int
    ranked: dict[str, int]


class EventSums(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the analytics rows at one position; `altered` names events whose row is not what was signed."""

    stream_seq: int
    rows: int
    distinct: int
    types: dict[str, int]
    xp: int
    minted: int
    spent: int
    altered: tuple[str, ...]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Two numbers that should be one."""

    what: str
    got: int
    wanted: int

    def __str__(self) -> str:
        return f"{self.what}: {self.got:,}, wanted {self.wanted:,}"


def compare(models: ReadModelSums, boards: BoardSums, events: EventSums) -> list[Difference]:
    """All differences; none means that the three agree. The three must be at the same position."""
    pairs = [*_events(events), *_counts(models, events.types), *_books(models, events), *_boards(models, boards)]
    return [Difference(what=what, got=got, wanted=wanted) for what, got, wanted in pairs if got != wanted]


def _events(events: EventSums) -> Iterator[tuple[str, int, int]]:
    yield "rows in Iceberg against its position", events.rows, events.stream_seq
    yield "distinct events in Iceberg against its rows", events.distinct, events.rows
    named = ", ".join(events.altered[:ALTERED_SHOWN])
    yield f"rows in Iceberg that are not what was signed ({named or 'none'})", len(events.altered), 0


def _counts(models: ReadModelSums, types: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
    for what, got, kind in (
        ("players", models.players, player.PLAYER_REGISTERED),
        ("attempts", models.accepted, player.QUEST_ACCEPTED),
        ("steps reached", models.steps_reached, player.STEP_REACHED),
        ("completed attempts", models.completed, player.QUEST_COMPLETED),
        ("abandoned attempts", models.abandoned, player.QUEST_ABANDONED),
        ("expired attempts", models.expired, player.ATTEMPT_EXPIRED),
        ("badges", models.badges, player.BADGE_AWARDED),
    ):
        yield f"{what} in PostgreSQL against {kind} in Iceberg", got, types.get(kind, 0)
    sent, received = types.get(token.TOKENS_SENT, 0), types.get(token.TOKENS_RECEIVED, 0)
    yield f"{token.TOKENS_RECEIVED} against {token.TOKENS_SENT} in Iceberg", received, sent


def _books(models: ReadModelSums, events: EventSums) -> Iterator[tuple[str, int, int]]:
    yield "XP in PostgreSQL against what was awarded", models.xp, events.xp
    yield "tokens held by players against minted less spent", models.balances, events.minted - events.spent
    yield "accounts and treasury together", models.balances + models.treasury, 0
    yield "all postings together", models.postings, 0
    yield "accounts that differ from their postings", models.unbalanced, 0


def _boards(models: ReadModelSums, boards: BoardSums) -> Iterator[tuple[str, int, int]]:
    yield "XP in Redis against PostgreSQL", boards.xp, models.xp
    for quest, completed in models.completed_by_quest.items():
        yield f"ranked in {quest} against completed attempts", boards.ranked.get(quest, 0), completed
    yield "completed attempts against quest statistics", models.completed, sum(models.completed_by_quest.values())
