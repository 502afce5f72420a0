"""Reads of a stream with replicas: any of them may answer a direct get, and one that is behind must not be believed.

What a worker restores, and what a refusal rests on, is read so; writes are guarded by the versions that they expect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeVar

from nats.aio.client import Client

from adapters.jetstream.connection import API_TIMEOUT_S
from adapters.jetstream.messages import MULTI_LAST_MAX, direct_get, last_message, last_seqs, stream_info
from bus.errors import StoreUnavailable

Found = TypeVar("Found")
#: A replica that is behind catches up within moments, or is cut off.
LOOK_AGAIN_S: Final = 0.05


class Replicas:
    """Reads one event stream as it stands; with a single replica nothing is asked twice."""

    def __init__(self, client: Client, stream: str) -> None:
        self._client = client
        self._stream = stream
        self._is_replicated: bool | None = None
        self._subject = ""
        self._seq = 0

    def saw(self, subject: str, seq: int) -> None:
        """Note the newest event of which we know; an answer that does not hold it is out of date."""
        self._subject, self._seq = subject, seq

    def look_anew(self) -> None:
        """Ask again how many replicas there are."""
        self._is_replicated = None

    async def last_seqs(self, wanted: Collection[str]) -> dict[str, int]:
        """The last sequence of each subject that has one, as of now."""
        if self._is_replicated is False:
            return await last_seqs(self._client, self._stream, wanted)
        info = await stream_info(self._client, self._stream)
        self._is_replicated = int(info["config"].get("num_replicas", 1)) > 1
        if not self._is_replicated:
            return await last_seqs(self._client, self._stream, wanted)
        up_to_seq = max(self._seq, int(info["state"]["last_seq"]))
        every = list(wanted)
        found: dict[str, int] = {}
        for start in range(0, len(every), MULTI_LAST_MAX - 1):
            found |= await self._page(every[start : start + MULTI_LAST_MAX - 1], up_to_seq)
        return found

    async def _page(self, wanted: list[str], up_to_seq: int) -> dict[str, int]:
        """A replica that does not reach so far finds nothing: not even what we know to be there."""
        if not self._seq:
            answers = [(subject, await last_message(self._client, self._stream, subject)) for subject in wanted]
            return {subject: answer[0] for subject, answer in answers if answer is not None}

        async def read() -> dict[str, int] | None:
            request = {"multi_last": [*wanted, self._subject], "up_to_seq": up_to_seq}
            answer = await direct_get(self._client, self._stream, request)
            found = {subject: seq for seq, subject, _ in answer}
            return found if found.get(self._subject, 0) >= self._seq else None

        found = await abreast(self._stream, read)
        return {subject: found[subject] for subject in wanted if subject in found}

    async def is_replicated(self) -> bool:
        """Whether another replica than the one that took our events may answer."""
        if self._is_replicated is None:
            await self.last_seqs([])
        return bool(self._is_replicated)

    def reaches(self, end_seq: int) -> bool:
        """Whether an answer that ends at a sequence holds everything that we know to be there."""
        return end_seq >= self._seq


async def abreast(stream: str, read: Callable[[], Awaitable[Found | None]]) -> Found:
    """What `read` finds as soon as that is not None: replicas that are behind are asked again, for a while."""
    deadline = asyncio.get_running_loop().time() + API_TIMEOUT_S
    while (found := await read()) is None:
        if asyncio.get_running_loop().time() > deadline:
            message = f"stream {stream} is answered by a replica that is behind; is a node cut off from the others?"
            raise StoreUnavailable(message)
        await asyncio.sleep(LOOK_AGAIN_S)
    return found
