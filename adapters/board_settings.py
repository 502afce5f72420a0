"""The boards that a tenant has defined: said and read, every version kept (docs/adr/0028-boards-as-data.md)."""

from __future__ import annotations

from pathlib import Path

from adapters.errors import TallyError
from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.jetstream.settings import BOARDS, read_setting, say_setting
from adapters.settings import Settings
from projections.boards import BoardSettings, decode_settings


def read_boards(path: Path) -> bytes:
    """The boards in a file; raises `TallyError`, `WrongBoard`."""
    try:
        body = path.read_bytes()
    except OSError as err:
        raise TallyError(f"{path} cannot be read ({err.strerror}): name a JSON file (docs/leaderboards.md)") from err
    decode_settings(body)
    return body


async def define(settings: Settings, tenant: str, body: bytes) -> int:
    """Say which boards a tenant has, besides those that every tenant has; returns the version.

    What was said before is replaced. Readers see it after a rebuild. Raises `WrongBoard`, `WrongStream`, `Conflict`.
    """
    decode_settings(body)
    client = await connect(settings.nats_url, "tally-boards")
    try:
        await streams.describe(client, tenant)
        return await say_setting(client, tenant, BOARDS, body)
    finally:
        await client.close()


async def defined(settings: Settings, tenant: str) -> tuple[BoardSettings, int]:
    """The boards as they were last defined, and the version."""
    client = await connect(settings.nats_url, "tally-boards")
    try:
        version, body = await read_setting(client, tenant, BOARDS)
    finally:
        await client.close()
    return decode_settings(body), version
