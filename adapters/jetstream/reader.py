"""Reading streams: raw pulls with one inbox whose frames are taken as they come, and direct gets."""

from __future__ import annotations

import asyncio
import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Collection, Sequence
from typing import Any, Final, Generic, TypeVar

from nats.aio.client import Client

from adapters.jetstream.connection import API_TIMEOUT_S, api, first_answer_to
from adapters.jetstream.frames import Frame, FrameSubscription, subscribe_frames
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
#: A server answers at most so many subjects in one `multi_last`.
MULTI_LAST_MAX: Final = 1_000
DIRECT_GET_MESSAGES: Final = 1_000
#: "no message found"
NO_MESSAGE: Final = 10037

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

    @abstractmethod
    def _kept(self, first_seq: int, frames: Sequence[Frame]) -> list[T]:
        """What is held of messages that follow each other until they are taken."""

    async def take(self, count_max: int, *, timeout_s: float | None = None) -> list[T]:
        """At least one, at most so many; an empty list only when `timeout_s` passed."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        heard_at = loop.time()
        look_at = heard_at + BEHIND_AFTER_S
        while not self._buffer:
            is_reconnected = self._client.stats["reconnects"] != self._reconnects
            if self._is_broken or is_reconnected or loop.time() - heard_at > SILENCE_MAX_S:
                await self._restart()
                heard_at = loop.time()
            await self._ask()
            wait_s = 1.0 if deadline is None else min(1.0, deadline - loop.time())
            if wait_s <= 0:
                return []
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), wait_s)
            except TimeoutError:
                if loop.time() > look_at:
                    look_at = loop.time() + BEHIND_AGAIN_S
                    self._is_broken = self._is_broken or await self._is_behind()
                continue
            heard_at = loop.time()
        taken, self._buffer = self._buffer[:count_max], self._buffer[count_max:]
        await self._ask()
        return taken

    def _wanted_at_once(self, came: Sequence[Frame]) -> int:
        """What is pending, as far as it fits into `PULL_BYTES`: a server that stores all the time answers late.

        Who keeps up asks for few at once: what comes at once is taken apart before anything else is done.
        """
        sizes = [len(frame.data) for frame in came[:: -(-len(came) // _SIZES_SEEN)]]
        fitting = PULL_BYTES * len(sizes) // max(sum(sizes), 1)
        return max(PULL_MESSAGES, min(fitting, self._pull_messages_max, pending(came[-1].reply)))

    @property
    def has_more(self) -> bool:
        """Whether something has come that nobody took yet."""
        return bool(self._buffer)

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
        return await _get(self._client, self._stream, wanted) is not None

    async def _restart(self) -> None:
        await self.close()
        info = await stream_info(self._client, self._stream)
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
        self._reconnects = self._client.stats["reconnects"]
        self._consumer_seq = 0
        self._reply_start = self._reply_next = b""
        self._asked = 0
        self._is_broken = False
        self._inbox = self._client.new_inbox()
        self._subscription = await subscribe_frames(self._client, self._inbox, self._on_frames)

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


async def direct_get(client: Client, stream: str, request: dict[str, Any]) -> list[tuple[int, str, bytes]]:
    """A batched direct get as (sequence, subject, body); fewer than asked for only when there are no more.

    A server cuts an answer at 64 MB; the rest is asked for here. Followers may answer.
    """
    found, pending = await _direct_page(client, stream, request)
    while pending and len(found) < request.get("batch", MULTI_LAST_MAX):
        if "multi_last" in request:
            had = {subject for _, subject, _ in found}
            rest = {**request, "multi_last": [subject for subject in request["multi_last"] if subject not in had]}
        else:
            rest = {**request, "seq": found[-1][0] + 1, "batch": request["batch"] - len(found)}
            rest.pop("start_time", None)
        page, pending = await _direct_page(client, stream, rest)
        found += page
    return found


async def _direct_page(
    client: Client, stream: str, request: dict[str, Any]
) -> tuple[list[tuple[int, str, bytes]], int]:
    """One answer of the server, and how many more messages fit the request; a server that died is asked again."""

    def ask() -> Awaitable[tuple[list[tuple[int, str, bytes]], int]]:
        return _direct_answer(client, stream, request)

    try:
        return await first_answer_to(client, ask, API_TIMEOUT_S)
    except TimeoutError as err:
        message = f"stream {stream} does not answer a direct get"
        raise StoreUnavailable(message) from err


async def _direct_answer(
    client: Client, stream: str, request: dict[str, Any]
) -> tuple[list[tuple[int, str, bytes]], int]:
    found: list[tuple[int, str, bytes]] = []
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def on_frames(frames: list[Frame]) -> None:
        for frame in frames:
            headers = frame.headers
            status = headers.get("Status")
            if done.done():
                return
            if status is None:
                found.append((int(headers["Nats-Sequence"]), headers["Nats-Subject"], frame.data))
            elif status in {"204", "404"}:
                done.set_result(int(headers.get("Nats-Num-Pending", "0")) if found else 0)
            else:
                words = headers.get("Description", "")
                done.set_exception(StoreUnavailable(f"stream {stream} cannot be read directly: {status} {words}"))

    inbox = client.new_inbox()
    subscription = await subscribe_frames(client, inbox, on_frames)
    try:
        await client.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox)
        return found, await done
    finally:
        await subscription.unsubscribe()


async def last_seqs(client: Client, stream: str, wanted: Collection[str]) -> dict[str, int]:
    """The last sequence of each subject that has one."""
    every = list(wanted)
    found: dict[str, int] = {}
    for start in range(0, len(every), MULTI_LAST_MAX):
        request = {"multi_last": every[start : start + MULTI_LAST_MAX]}
        found |= {subject: seq for seq, subject, _ in await direct_get(client, stream, request)}
    return found


async def history(client: Client, stream: str, subject_filter: str, after_seq: int = 0) -> list[tuple[int, str, bytes]]:
    """All messages under a subject filter that come after a sequence, in stream order."""
    found: list[tuple[int, str, bytes]] = []
    while True:
        after = found[-1][0] if found else after_seq
        request = {"seq": after + 1, "batch": DIRECT_GET_MESSAGES, "next_by_subj": subject_filter}
        page = await direct_get(client, stream, request)
        found += page
        if len(page) < DIRECT_GET_MESSAGES:
            return found


async def message_at(client: Client, stream: str, seq: int) -> tuple[str, bytes, str] | None:
    """Subject, body and arrival time of the message at a sequence, from the leader; None when there is none."""
    return await _get(client, stream, {"seq": seq})


async def last_message(client: Client, stream: str, subject: str) -> tuple[int, bytes] | None:
    """Sequence and body of a subject's last message, from the leader; None when it has none."""
    answer = await api(client, f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    return None if _is_not_found(answer, stream) else (int(answer["message"]["seq"]), _body(answer))


async def _get(client: Client, stream: str, request: dict[str, Any]) -> tuple[str, bytes, str] | None:
    answer = await api(client, f"STREAM.MSG.GET.{stream}", request)
    if _is_not_found(answer, stream):
        return None
    message = answer["message"]
    return message["subject"], _body(answer), message["time"]


def _body(answer: dict[str, Any]) -> bytes:
    return base64.b64decode(answer["message"].get("data", ""))


def _is_not_found(answer: dict[str, Any], stream: str) -> bool:
    error = answer.get("error")
    if error is None:
        return False
    if error.get("err_code") == NO_MESSAGE:
        return True
    message = f"stream {stream} cannot be read: {error.get('description')}"
    raise WrongStream(message)


async def stream_info(client: Client, stream: str, *, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The server's description of a stream; raises `WrongStream` when there is none."""
    answer = await api(client, f"STREAM.INFO.{stream}", body or {})
    if "error" in answer:
        message = f"stream {stream}: {answer['error'].get('description')}: create the tenant (tally tenant create)"
        raise WrongStream(message)
    return answer


async def subjects_of(client: Client, stream: str, subject_filter: str) -> list[str]:
    """All subjects under a filter that hold messages."""
    found: list[str] = []
    while True:
        info = await stream_info(client, stream, body={"subjects_filter": subject_filter, "offset": len(found)})
        page = info["state"].get("subjects") or {}
        found += page
        if not page or len(found) >= int(info.get("total", 0)):
            return found


async def stream_names(client: Client) -> Sequence[str]:
    """All streams of the account."""
    names: list[str] = []
    while True:
        answer = await api(client, "STREAM.NAMES", {"offset": len(names)})
        page = answer.get("streams") or []
        names += page
        if not page or len(names) >= int(answer.get("total", 0)):
            return names
