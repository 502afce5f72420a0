"""The one place where a NATS connection is made, and where a request to JetStream's API becomes an answer or a line."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any, Final, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from adapters.errors import NotConfigured
from adapters.jetstream.frames import install
from adapters.masking import masked
from bus.errors import StoreUnavailable

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

API_TIMEOUT_S: Final = 10.0
#: A server that hangs, or whose machine is gone, is left for another one after six seconds.
PING_EVERY_S: Final = 2
PINGS_OUTSTANDING_MAX: Final = 2
PENDING_BYTES_MAX: Final = 64 * 1024 * 1024
NO_RESPONDERS: Final = 503
LOOK_EVERY_S: Final = 0.1
#: What is asked of a stream whose leader was killed is answered by nobody, nor by the leader that comes after it.
ASK_AGAIN_S: Final = 1.0
#: "JetStream system temporarily unavailable": no leader at this moment.
NO_LEADER: Final = 10008
#: Requests that may be made twice: they change nothing, or (a consumer that has a name) the second one nothing more.
_MAY_BE_REPEATED: Final = ("STREAM.INFO.", "STREAM.MSG.GET.", "STREAM.NAMES", "CONSUMER.CREATE.")


class _Client(Client):
    """A client of nats-py that lets go of a server that took the connection and then said nothing.

    nats-py itself connects to the next one over it, and leaves the socket to the garbage collector.
    """

    async def _connect_to_server(self, s: Any) -> None:
        if self._transport:
            self._transport.close()
        await super()._connect_to_server(s)


async def connect(url: str, name: str, *, patience_s: float = 5.0) -> Client:
    """A connection that reconnects for ever once it stood; raises `NotConfigured` when no server answers."""
    client = _Client()
    install(client)
    met: list[Exception] = []

    async def on_error(err: Exception) -> None:
        met.append(err)
        del met[:-1]
        log.debug("nats: %s", err)

    try:
        async with asyncio.timeout(patience_s):
            await client.connect(
                [each.strip() for each in url.split(",")],
                name=name,
                connect_timeout=2,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,  # type: ignore[arg-type] # it sleeps so long; fractions are fine
                ping_interval=PING_EVERY_S,
                max_outstanding_pings=PINGS_OUTSTANDING_MAX,
                pending_size=PENDING_BYTES_MAX,
                error_cb=on_error,
            )
    except (nats.errors.Error, OSError, TimeoutError) as err:
        await client.close()
        words = met[0] if met else "no answer"
        line = f"no NATS server answers at {masked(url)} ({words}): start one (tally up), or set TALLY_NATS_URL"
        raise NotConfigured(line) from err
    return client


async def answer_to(client: Client, waiting: Awaitable[Answer], timeout_s: float) -> Answer:
    """An answer that comes over this connection; raises `TimeoutError`, at once when the connection is lost.

    What was asked before a reconnect is never answered after it: waiting on would only delay the next attempt. Time in
    which this process itself did something else, or nothing, is not counted: the answer may be there, unread.
    """
    work = asyncio.ensure_future(waiting)
    # A future is awaited itself, which takes a turn of the loop less. A task is not waited for once it is to end:
    # nats-py has places that go on.
    answer = work if work is waiting else asyncio.shield(work)
    patience = _Patience(client, answer, ceil(timeout_s / LOOK_EVERY_S))
    # Python 3.11 and 3.12 count a failed task group as a request to end that is never taken back.
    ending_before = _requests_to_end()
    try:
        return await answer
    except asyncio.CancelledError as err:
        if patience.is_at_its_end and _requests_to_end() <= ending_before:
            raise TimeoutError from err
        raise
    finally:
        patience.end()
        work.cancel()


def _requests_to_end() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task else 0


class _Patience:
    """Cancels a future after so many looks, or at the first one that finds the connection lost since the beginning."""

    def __init__(self, client: Client, future: asyncio.Future[Any], looks: int) -> None:
        self.is_at_its_end = False
        self._client = client
        self._future = future
        self._looks_left = looks
        self._reconnects = client.stats["reconnects"]
        self._look_later()

    def end(self) -> None:
        """Look no more."""
        self._watch.cancel()

    def _look_later(self) -> None:
        self._watch = self._future.get_loop().call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self._looks_left -= 1
        is_lost = not self._client.is_connected or self._client.stats["reconnects"] != self._reconnects
        self.is_at_its_end = is_lost or self._looks_left <= 0
        if self.is_at_its_end:
            self._future.cancel()
        else:
            self._look_later()


async def first_answer_to(
    client: Client,
    ask: Callable[[], Awaitable[Answer]],
    timeout_s: float,
    *,
    is_coming: Callable[[], bool] = lambda: False,
) -> Answer:
    """The first answer to what may be asked several times: it is asked anew every second until one comes.

    Not in a second in which a part of a large answer has come (`is_coming`): a second one would only hold up the first.
    Raises what asking raises, and `TimeoutError` as `answer_to`.
    """
    asked: list[asyncio.Future[Answer]] = []

    async def any_answer() -> Answer:
        while True:
            if not is_coming():
                asked.append(asyncio.ensure_future(ask()))
            answered, _ = await asyncio.wait(asked, timeout=ASK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
            if answered:
                return await answered.pop()

    try:
        return await answer_to(client, any_answer(), timeout_s)
    finally:
        for each in asked:
            each.cancel()


async def api(
    client: Client, subject: str, body: dict[str, Any], *, timeout_s: float = API_TIMEOUT_S
) -> dict[str, Any]:
    """One request to `$JS.API.<subject>`; an error of the server comes back under the key `error`.

    Where there is no leader just now, it is waited for. Raises `StoreUnavailable` when nobody answers in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = await _ask(client, subject, json.dumps(body).encode(), max(LOOK_EVERY_S, deadline - time.monotonic()))
        is_leaderless = (answer.get("error") or {}).get("err_code") == NO_LEADER
        if not is_leaderless or time.monotonic() + LOOK_EVERY_S > deadline:
            return answer
        await asyncio.sleep(LOOK_EVERY_S)


async def _ask(client: Client, subject: str, body: bytes, timeout_s: float) -> dict[str, Any]:
    def ask() -> Awaitable[Msg]:
        return client.request(f"$JS.API.{subject}", body, timeout=timeout_s)

    try:
        if subject.startswith(_MAY_BE_REPEATED):
            reply = await first_answer_to(client, ask, timeout_s)
        else:
            reply = await answer_to(client, ask(), timeout_s)
    except (nats.errors.Error, TimeoutError) as err:
        message = f"JetStream does not answer {subject} ({type(err).__name__}): is the server up, JetStream enabled?"
        raise StoreUnavailable(message) from err
    answer = json.loads(reply.data)
    if not isinstance(answer, dict):
        message = f"JetStream answers {subject} with {reply.data[:80]!r}, wanted a JSON object"
        raise StoreUnavailable(message)
    return answer
