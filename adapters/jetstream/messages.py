"""Asking a stream: for single messages and pages of them, for what it is."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Collection, Sequence
from typing import Any, Final

from nats.aio.client import Client

from adapters.jetstream.connection import API_TIMEOUT_S, ASK_AGAIN_S, api, first_answer_to
from adapters.jetstream.frames import Frame, subscribe_frames
from bus.errors import StoreUnavailable, WrongStream

#: A server answers at most so many subjects in one `multi_last`.
MULTI_LAST_MAX: Final = 1_000
DIRECT_GET_MESSAGES: Final = 1_000
#: "no message found"
NO_MESSAGE: Final = 10037


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
    came_at = [-ASK_AGAIN_S]

    def ask() -> Awaitable[tuple[list[tuple[int, str, bytes]], int]]:
        return _direct_answer(client, stream, request, came_at)

    def is_coming() -> bool:
        return time.monotonic() - came_at[-1] < ASK_AGAIN_S

    try:
        return await first_answer_to(client, ask, API_TIMEOUT_S, is_coming=is_coming)
    except TimeoutError as err:
        message = f"stream {stream} does not answer a direct get"
        raise StoreUnavailable(message) from err


async def _direct_answer(
    client: Client, stream: str, request: dict[str, Any], came_at: list[float]
) -> tuple[list[tuple[int, str, bytes]], int]:
    """The messages of one answer, and how many more there are; notes when the last of them came."""
    found: list[tuple[int, str, bytes]] = []
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def on_frames(frames: list[Frame]) -> None:
        came_at[-1] = time.monotonic()
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


async def first_seq(client: Client, stream: str, request: dict[str, Any]) -> int:
    """The sequence of the first message that fits a request (`STREAM.MSG.GET`), from the leader; 0 when none does."""
    answer = await api(client, f"STREAM.MSG.GET.{stream}", request)
    return 0 if _is_not_found(answer, stream) else int(answer["message"]["seq"])


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
