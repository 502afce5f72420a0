"""Reading streams: raw pulls with one inbox whose frames are taken as they come."""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

from nats.aio.client import Client

from adapters.jetstream.connection import api
from adapters.jetstream.frames import Frame, FrameSubscription, subscribe_frames
from adapters.jetstream.messages import first_seq, stream_info
from adapters.jetstream.replies import delivered, pending
from bus.errors import StoreUnavailable, StreamReplaced, WrongStream

PULL_MESSAGES: Final = 2_000
#: Who may ask for more at once does so up to about so many bytes: a server drops a client for which 64 MiB wait.
PULL_BYTES: Final = 16 * 1024 * 1024
_SIZES_SEEN: Final = 16
PULL_EXPIRES_S: Final = 20.0
SILENCE_MAX_S: Final = 30.0
#: Without a message for so long, the stream's leader is asked whether there is one, and again in longer steps.
BEHIND_AFTER_S: Final = 1.0
BEHIND_AGAIN_S: Final = 3.0

T = TypeVar("T")


class MessageReader(ABC, Generic[T]):
    """The messages of a stream in order from a sequence on, without acknowledgements and without a gap.

    One ephemeral consumer; when it is lost (server restart, silence) or a message is missing, a new one goes on after
    the last message taken. Who is far behind asks for up to `pull_messages_max` at once where messages are small;
    at most two and a half times as many are held, of each what `_kept` makes of it.
    """

    def __init__(
        self,
        client: Client,
        stream: str,
        after_seq: int,
        *,
        subject_filter: str | None = None,
        created: str | None = None,
        pull_messages_max: int = PULL_MESSAGES,
    ) -> None:
        #: When the stream was made, as the server says it; None before the first message, unless it was given.
        self.created = created
        self._client = client
        self._stream = stream
        self._filter = subject_filter
        self._pull_messages = PULL_MESSAGES
        self._pull_messages_max = pull_messages_max
        self._last_seq = after_seq
        self._consumer = ""
        self._consumer_seq = 0
        self._reply_start = self._reply_next = b""
        self._inbox = ""
        self._subscription: FrameSubscription | None = None
        self._buffer: list[T] = []
        self._arrived = asyncio.Event()
        self._asked = 0
        self._is_broken = True
        self._reconnects = 0
        self._heard_at = self._look_at = 0.0

    @abstractmethod
    def _kept(self, first_seq: int, frames: Sequence[Frame]) -> list[T]:
        """What is held of messages that follow each other until they are taken."""

    async def take(self, count_max: int, *, timeout_s: float | None = None) -> list[T]:
        """At least one, at most so many; an empty list only when `timeout_s` passed."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._buffer:
            is_reconnected = self._client.stats["reconnects"] != self._reconnects
            if self._is_broken or is_reconnected or time.monotonic() - self._heard_at > SILENCE_MAX_S:
                await self._restart()
                self._hear()
            await self._ask()
            wait_s = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if wait_s <= 0:
                return []
            self._arrived.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._arrived.wait()
            except TimeoutError:
                if time.monotonic() > self._look_at:
                    self._look_at = time.monotonic() + BEHIND_AGAIN_S
                    self._is_broken = self._is_broken or await self._is_behind()
        taken, self._buffer = self._buffer[:count_max], self._buffer[count_max:]
        await self._ask()
        return taken

    def _hear(self) -> None:
        """Something came; silence after it counts over however many calls of `take`."""
        self._heard_at = time.monotonic()
        self._look_at = self._heard_at + BEHIND_AFTER_S

    def _wanted_at_once(self, came: Sequence[Frame]) -> int:
        """What is pending, as far as it fits into `PULL_BYTES`: a server that stores all the time answers late.

        Who keeps up asks for few at once: what comes at once is taken apart before anything else is done.
        """
        sizes = [len(frame.data) for frame in came[:: -(-len(came) // _SIZES_SEEN)]]
        fitting = PULL_BYTES * len(sizes) // max(sum(sizes), 1)
        return max(PULL_MESSAGES, min(fitting, self._pull_messages_max, pending(came[-1].reply)))

    def has_more(self) -> bool:
        """Whether something has come that nobody took yet."""
        return bool(self._buffer)

    @property
    def is_current(self) -> bool:
        """Whether the server is the one whose stream is read, without a break since that was looked at."""
        is_connected = self._client.is_connected and self._client.stats["reconnects"] == self._reconnects
        return is_connected and not self._is_broken

    async def close(self) -> None:
        """Remove the consumer; a connection that is gone takes it along."""
        if self._subscription is not None and not self._client.is_closed:
            await self._subscription.unsubscribe()
            self._subscription = None
        if self._consumer and self._client.is_connected:
            await self._client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}", b"")
            self._consumer = ""

    async def _is_behind(self) -> bool:
        """Whether a message waits that did not come: a consumer on a replica that is behind gives what that one has."""
        wanted: dict[str, Any] = {"seq": self._last_seq + 1}
        if self._filter is not None:
            wanted["next_by_subj"] = self._filter
        return await first_seq(self._client, self._stream, wanted) > 0

    async def _restart(self) -> None:
        await self.close()
        reconnects = self._client.stats["reconnects"]
        await self._require_goes_on(await stream_info(self._client, self._stream))
        name = self._client.new_inbox().rpartition(".")[2]
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._last_seq + 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 60_000_000_000,
            "replay_policy": "instant",
        }
        if self._filter is not None:
            config["filter_subject"] = self._filter
        body = {"stream_name": self._stream, "config": config, "action": "create"}
        answer = await api(self._client, f"CONSUMER.CREATE.{self._stream}.{name}", body)
        if "error" in answer:
            message = f"stream {self._stream} cannot be read: {answer['error'].get('description')}"
            raise WrongStream(message)
        self._consumer = name
        self._reconnects = reconnects
        self._consumer_seq = 0
        self._reply_start = self._reply_next = b""
        self._asked = 0
        self._is_broken = False
        self._inbox = self._client.new_inbox()
        self._subscription = await subscribe_frames(self._client, self._inbox, self._on_frames)

    async def _require_goes_on(self, info: dict[str, Any]) -> None:
        """Refuse to go on with a stream that does not begin with what was read."""
        last_seq = int(info["state"]["last_seq"])
        if self.created not in {None, info["created"]}:
            message = (
                f"stream {self._stream} was made anew while it was read ({info['created']}, before {self.created}); "
                "nothing of it was taken: restore the one before, or start this process again"
            )
            raise StreamReplaced(message)
        self.created = info["created"]
        if last_seq < self._last_seq:
            message = f"stream {self._stream} ends at {last_seq}, {self._last_seq} was read from it before"
            raise StoreUnavailable(message)

    async def _ask(self) -> None:
        """Keep a request open as long as the buffer has room."""
        count = self._pull_messages
        if self._is_broken or self._asked > count // 2 or len(self._buffer) > count:
            return
        self._asked += count
        request = {"batch": count, "expires": int(PULL_EXPIRES_S * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        await self._client.publish(subject, json.dumps(request).encode(), reply=self._inbox)

    def _on_frames(self, frames: list[Frame]) -> None:
        for frame in frames[self._take_next(frames) :]:
            self._on_frame(frame)
        self._hear()
        self._arrived.set()

    def _take_next(self, frames: list[Frame]) -> int:
        """Take what is one by one the next of a whole stream; returns how many, the rest is to be taken apart.

        Each reply subject is compared with the one that must come, which costs less than reading its numbers.
        """
        if self._is_broken or not self._reply_next:
            return 0
        wanted, stream_seq, consumer_seq = self._reply_next, self._last_seq, self._consumer_seq
        for frame in frames:
            if not frame.reply.startswith(wanted % (stream_seq + 1, consumer_seq + 1)):
                break
            stream_seq += 1
            consumer_seq += 1
        count = stream_seq - self._last_seq
        if count:
            taken = frames[:count]
            self._buffer += self._kept(self._last_seq + 1, taken)
            self._asked -= count
            self._last_seq, self._consumer_seq = stream_seq, consumer_seq
            self._pull_messages = self._wanted_at_once(taken)
        return count

    def _on_frame(self, frame: Frame) -> None:
        if not frame.reply:
            self._on_status(frame)
            return
        if self._is_broken:
            return
        # Of one consumer all reply subjects begin alike: only what follows is taken apart.
        if self._reply_start and frame.reply.startswith(self._reply_start):
            at = frame.reply[len(self._reply_start) :].split(b".", 2)
            stream_seq, consumer_seq = int(at[0]), int(at[1])
        else:
            stream_seq, consumer_seq, consumer = delivered(frame.reply)
            if consumer != self._consumer:
                return
            self._reply_start = frame.reply[: frame.reply.rindex(b".%d.%d." % (stream_seq, consumer_seq)) + 1]
            if self._filter is None:
                self._reply_next = self._reply_start.replace(b"%", b"%%") + b"%d.%d."
        self._asked -= 1
        if consumer_seq != self._consumer_seq + 1:
            self._is_broken = True
        else:
            self._consumer_seq = consumer_seq
            self._last_seq = stream_seq
            self._buffer += self._kept(stream_seq, [frame])

    def _on_status(self, frame: Frame) -> None:
        headers = frame.headers
        if headers.get("Status") in {"408", "404"}:  # the request ran out of time, or there is nothing: ask again
            self._asked = max(0, self._asked - int(headers.get("Nats-Pending-Messages", self._pull_messages)))
        else:
            self._is_broken = True


class PullReader(MessageReader[tuple[int, Frame]]):
    """Gives each message as it came, with its sequence."""

    def _kept(self, first_seq: int, frames: Sequence[Frame]) -> list[tuple[int, Frame]]:
        return list(enumerate(frames, first_seq))
