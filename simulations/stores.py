"""Reads the real stores for checks and progress: the stream, the log, Redis, PostgreSQL, Iceberg; through adapters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, Self

from adapters import iceberg, postgres
from adapters.jetstream.connection import connect
from adapters.jetstream.messages import history, stream_info
from adapters.jetstream.reader import PullReader
from adapters.redis_ranks import Boards
from adapters.settings import Settings
from bus import subjects
from bus.errors import StoreUnavailable
from ledger.checkpoint import parse_checkpoint
from ledger.files import Folder
from ledger.reader import LogReader
from ledger.tiles import CHECKPOINT, TILE_WIDTH, tile_at
from projections.boards import Board
from projections.errors import ProjectionError
from projections.read_models import TREASURY
from simulations.fold import Fold
from simulations.lag import EVENTS
from simulations.moments import Moment, digest

LOG, BOARDS, READ_MODELS, ANALYTICS = "log", "leaderboards", "read models", "Iceberg"
PROJECTIONS: Final = (LOG, BOARDS, READ_MODELS, ANALYTICS)
READ_AT_ONCE: Final = 4_000
PAGE: Final = 10_000
SILENCE_MAX_S: Final = 30.0
ANALYTICS_EVERY_S: Final = 1.0


class Stores:
    """All stores of one tenant, opened once; an async context manager."""

    def __init__(self, settings: Settings, tenant: str) -> None:
        self.settings = settings
        self.tenant = tenant
        self._stream = subjects.events_stream(tenant)
        self._log = Folder(settings.log_dir / tenant)
        self._postgres: postgres.Connection | None = None
        self._analytics_seq = 0
        self._analytics: asyncio.Task[int] | None = None

    async def __aenter__(self) -> Self:
        self.client = await connect(self.settings.nats_url, "tally-simulation")
        self._boards = Boards(self.settings, self.tenant)
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._analytics is not None:
            self._analytics.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._analytics
        if self._postgres is not None:
            await self._postgres.close()
        await self._boards.__aexit__(*failure)
        await self.client.close()

    # -- positions ----------------------------------------------------------------------------------------------------

    async def positions(self) -> dict[str, int]:
        """Where everything stands; the projections are read before the stream, so that none seems ahead of it."""
        found = {
            LOG: self.tree_size(),
            BOARDS: await self._boards_seq(),
            READ_MODELS: await self._read_models_seq(),
            ANALYTICS: self._analytics_seq_lately(),
        }
        return {EVENTS: await self.events(), **found}

    async def events(self) -> int:
        """How many events the stream holds."""
        return int((await stream_info(self.client, self._stream))["state"]["last_seq"])

    def tree_size(self) -> int:
        """The size that the latest checkpoint signs, 0 before the first."""
        data = self._log.read(CHECKPOINT)
        return 0 if data is None else parse_checkpoint(CHECKPOINT, data)[0].tree_size

    async def _boards_seq(self) -> int:
        with suppress(ProjectionError):
            position = await self._boards.position()
            return 0 if position is None else position.stream_seq
        return 0

    async def _read_models_seq(self) -> int:
        try:
            if self._postgres is None:
                self._postgres = await postgres.connect(self.settings, self.tenant)
            position = await postgres.stored_position(self._postgres)
        except Exception:  # noqa: BLE001 - not there yet, or restarting: shows as a position that does not move
            connection, self._postgres = self._postgres, None
            if connection is not None:
                await connection.close()
            return 0
        return 0 if position is None else position.stream_seq

    def _analytics_seq_lately(self) -> int:
        """Iceberg's position is dear to read: it is read in the background, the last one found counts."""
        if self._analytics is not None and self._analytics.done():
            if self._analytics.exception() is None:
                self._analytics_seq = self._analytics.result()
            self._analytics = None
        if self._analytics is None:
            self._analytics = asyncio.create_task(self._read_analytics_seq())
        return self._analytics_seq

    async def _read_analytics_seq(self) -> int:
        await asyncio.sleep(ANALYTICS_EVERY_S)
        position = await iceberg.read_position(self.settings, self.tenant)
        return 0 if position is None else position.stream_seq

    # -- contents -----------------------------------------------------------------------------------------------------

    async def moment(self, boards: Sequence[Board]) -> Moment:
        """What boards hold, all at one position."""
        stream_seq, lines = await self._boards.at_one_moment(boards)
        return Moment(stream_seq, {board.name: digest(of) for board, of in zip(boards, lines, strict=True)})

    async def fold(
        self,
        own_prefix: str = "",
        on_progress: Callable[[int], None] | None = None,
        moments: Sequence[Moment] = (),
    ) -> Stream:
        """The whole stream, folded and hashed; commands whose ids begin with the prefix are also counted apart.

        `at` of what is returned has the boards of each moment as the fold had them then.
        """
        wanted = {moment.stream_seq: moment.boards for moment in moments}
        at: dict[int, dict[str, str]] = {}
        events = await self.events()
        folded, leaves = Fold(own_prefix), sha256()
        reader = PullReader(self.client, self._stream, 0)
        try:
            while folded.stream_seq < events:
                taken = await reader.take(min(READ_AT_ONCE, events - folded.stream_seq), timeout_s=SILENCE_MAX_S)
                if not taken:
                    line = f"{self._stream} holds {events} events, after {folded.stream_seq} none comes any more"
                    raise StoreUnavailable(line)
                for stream_seq, message in taken:
                    folded.add(stream_seq, message.data)
                    if stream_seq in wanted:
                        at[stream_seq] = {name: digest(folded.board(name)) for name in wanted[stream_seq]}
                    leaves.update(sha256(b"\x00" + message.data).digest())
                if on_progress is not None:
                    on_progress(folded.stream_seq)
        finally:
            await reader.close()
        return Stream(folded, leaves.hexdigest(), at)

    def leaves_digest(self, tree_size: int) -> str:
        """A digest over all leaf hashes of the log, to compare with the stream's."""
        reader, digest = LogReader(self._log, tree_size), sha256()
        for number in range(-(-tree_size // TILE_WIDTH)):
            digest.update(reader.tile_bytes(tile_at(0, number, tree_size)))
        return digest.hexdigest()

    async def board(self, board: Board) -> list[tuple[str, int]]:
        """A whole leaderboard in its order."""
        lines: list[tuple[str, int]] = []
        while page := await self._boards.top(board, PAGE, len(lines)):
            lines += [(line.player, line.score) for line in page]
        return lines

    async def xp_in_postgres(self) -> dict[str, int]:
        """XP by player in the read models."""
        return await self._pairs("SELECT player AS owner, xp AS value FROM players")

    async def tokens_in_postgres(self) -> dict[str, int]:
        """Balances by account in the read models, the treasury's among them under its own name."""
        return await self._pairs("SELECT account AS owner, balance AS value FROM accounts")

    async def _pairs(self, query: str) -> dict[str, int]:
        async with postgres.reading(self.settings, self.tenant) as connection:
            return {row["owner"]: row["value"] for row in await postgres.rows(connection, query, [])}

    async def rows_by_type(self) -> Mapping[str, int]:
        """How many rows of each event type Iceberg holds, counted in the rows."""
        return await asyncio.to_thread(iceberg.count_by_type, self.settings, self.tenant)

    async def event_id(self, player: str, kind: str) -> str | None:
        """The id of a player's event of a type, the latest one."""
        subject = subjects.event(self.tenant, "player", player)
        found: list[dict[str, Any]] = [
            json.loads(body) for _, _, body in await history(self.client, self._stream, subject)
        ]
        return next((event["id"] for event in reversed(found) if event["type"] == kind), None)


class Stream:
    """What was read from the event stream: its fold, a digest over the hashes of its events, boards at moments."""

    def __init__(self, fold: Fold, leaves_digest: str, at: Mapping[int, Mapping[str, str]]) -> None:
        self.fold = fold
        self.leaves_digest = leaves_digest
        self.at = at


def split_treasury(accounts: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """The accounts of players, and the treasury's balance."""
    return {name: balance for name, balance in accounts.items() if name != TREASURY}, accounts.get(TREASURY, 0)
