"""Which workers there are, and what each runs: each says so every second (a hint, never a right).

A beat goes into a stream that forgets it after a few seconds, and everybody hears it at once. Only who can have a beat
stored is seen: a worker that is cut off from the servers' majority is not. Whoever has fallen silent is asked; of a
process that was killed the server knows that nobody listens any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from adapters.jetstream.forgetful import create_replicated, forgetful_config
from adapters.jetstream.messages import direct_get
from bus.sharing import FORMAT, Member

STREAM: Final = "TALLY_WORKERS"
_PREFIX: Final = "tally.workers."
#: Where a beat is told once it is stored; the stream's own subjects have no other listener, so that its loss is seen.
_TOLD: Final = "tally.beats."
_ALIVE: Final = "tally.alive."
BEAT_S: Final = 1.0
FORGOTTEN_AFTER_S: Final = 4.0
#: Whoever was not heard for so long is asked whether he is there; it costs a request, and who is there answers.
SILENT_S: Final = 0.7
ANSWER_WITHIN_S: Final = 0.5
#: After a reconnect or a new stream, everybody gets so long to be heard before somebody takes himself for the only one.
SETTLED_AFTER_S: Final = 1.5
BEAT_WITHIN_S: Final = 2.0
#: Without a beat of ours stored for so long, we may be the one who hears nothing: nobody is taken for gone.
UNSURE_AFTER_S: Final = 2.0
LEADER_WITHIN_S: Final = 5.0

_decode: Final = msgspec.json.Decoder(Member).decode
_encode: Final = msgspec.json.Encoder().encode


class Membership:
    """One worker's place among its peers."""

    def __init__(self, client: Client, worker_id: str) -> None:
        self._client = client
        self._id = worker_id
        #: Set when somebody has something new to say.
        self.news = asyncio.Event()
        #: When a beat of ours was stored the last time (`time.monotonic`).
        self._seen_at = time.monotonic()
        self._was_away = False
        #: Worker -> what it said last, and when that was heard or found.
        self._heard: dict[str, tuple[Member, float]] = {}
        #: Workers of whom the server knows that they are gone, until they are heard again.
        self._gone: set[str] = set()
        self._reconnects = 0
        self._settled_at = 0.0
        self._must_look = True
        self._is_listening = False

    async def join(self, member: Member) -> None:
        """Create the stream when it is missing, listen, and be seen."""
        self._reconnects = self._client.stats["reconnects"]
        if not self._is_listening:
            self._is_listening = True
            await self._client.subscribe(f"{_TOLD}*", cb=self._on_beat)
            await self._client.subscribe(f"{_ALIVE}{self._id}", cb=_answer)
        await self._create()
        await self._be_seen(member)

    async def _create(self) -> None:
        config = forgetful_config(STREAM, f"{_PREFIX}*", FORGOTTEN_AFTER_S)
        await create_replicated(self._client, config, timeout_s=BEAT_WITHIN_S)

    async def beat(self, member: Member) -> None:
        """Be seen for a few more seconds; the stream lives in memory: after a restart of the server it is made anew."""
        try:
            await self._say(member)
        except nats.errors.NoRespondersError:
            await self._create()
            self._settled_at = time.monotonic() + SETTLED_AFTER_S
            await self._be_seen(member)

    @property
    def is_away(self) -> bool:
        """Whether the others may have forgotten us, until `come_back`."""
        return self._was_away or time.monotonic() - self._seen_at > FORGOTTEN_AFTER_S

    @property
    def _is_unsure(self) -> bool:
        return time.monotonic() - self._seen_at > UNSURE_AFTER_S

    def come_back(self) -> None:
        """We have looked who runs what, and go by it."""
        self._was_away = False

    async def _say(self, member: Member) -> None:
        self._was_away = self.is_away
        body = _encode(msgspec.structs.replace(member, is_away=self._was_away))
        await self._client.request(f"{_PREFIX}{self._id}", body, timeout=BEAT_WITHIN_S)
        now = time.monotonic()
        if self._is_unsure:  # the others were as little seen as we, and have the same time to be heard again
            self._heard = {name: (member, now) for name, (member, _) in self._heard.items()}
            self._settled_at = now + SETTLED_AFTER_S
        self._seen_at = now
        await self._client.publish(f"{_TOLD}{self._id}", body)

    async def _be_seen(self, member: Member) -> None:
        """The first beat into a new stream, which in a cluster has no leader for a moment."""
        async with asyncio.timeout(LEADER_WITHIN_S):
            while True:
                try:
                    await self._say(member)
                except nats.errors.NoRespondersError:
                    await asyncio.sleep(0.1)
                else:
                    return

    async def members(self) -> dict[str, Member]:
        """Every other worker that is there, and what it said last."""
        await self._settle()
        if self._must_look or self.is_away:
            await self._look()
        if not self._is_unsure:
            await self._part_with_the_silent()
        return {name: member for name, (member, _) in self._heard.items() if name not in self._gone}

    async def _part_with_the_silent(self) -> None:
        now = time.monotonic()
        await self._ask(name for name, (_, at) in self._heard.items() if SILENT_S < now - at <= FORGOTTEN_AFTER_S)
        for name in [name for name, (_, at) in self._heard.items() if now - at > FORGOTTEN_AFTER_S]:
            del self._heard[name]
            self._gone.discard(name)

    async def _look(self) -> None:
        """Take from the stream who was seen lately, as we could not hear it."""
        found = await direct_get(self._client, STREAM, {"multi_last": [f"{_PREFIX}*"]})
        self._must_look = False
        for _, subject, body in found:
            self._note(subject.removeprefix(_PREFIX), body)

    async def _settle(self) -> None:
        if self._client.stats["reconnects"] != self._reconnects:
            self._reconnects = self._client.stats["reconnects"]
            self._settled_at = time.monotonic() + SETTLED_AFTER_S
            self._must_look = True
        await asyncio.sleep(max(0.0, self._settled_at - time.monotonic()))

    async def _ask(self, silent: Iterable[str]) -> None:
        """Ask whoever has fallen silent; no answer says nothing, but that nobody listens does."""
        names = list(silent)
        asked = (self._client.request(f"{_ALIVE}{name}", b"", timeout=ANSWER_WITHIN_S) for name in names)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        self._gone |= {
            name
            for name, answer in zip(names, answers, strict=True)
            if isinstance(answer, nats.errors.NoRespondersError)
        }

    async def _on_beat(self, message: Msg) -> None:
        name = message.subject.removeprefix(_TOLD)
        if name != self._id:
            before = self._heard.get(name)
            self._gone.discard(name)
            self._note(name, message.data)
            if before is None or before[0] != self._heard.get(name, (None,))[0]:
                self.news.set()

    def _note(self, name: str, body: bytes) -> None:
        """Note what a worker says; one that speaks another format is there, and what it runs is not known."""
        if name == self._id:
            return
        try:
            member = _decode(body)
        except msgspec.MsgspecError:
            member = Member()
        self._heard[name] = (member if member.format == FORMAT else Member()), time.monotonic()


async def _answer(message: Msg) -> None:
    await message.respond(b"")
