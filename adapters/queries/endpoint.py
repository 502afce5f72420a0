"""What a query is made of: an async function from what was asked to the answer, with the decorator that declares it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Generic, NamedTuple, TypeVar, get_args, get_type_hints

from nats.aio.client import Client

from adapters.settings import Settings
from bus.errors import BusError
from bus.queries import Query, Request

R = TypeVar("R", bound=Request)
R_co = TypeVar("R_co", bound=Request, covariant=True)
Thing = TypeVar("Thing")
#: Opens what a query reads from: a client, a pool.
Opens = Callable[[Settings], AbstractAsyncContextManager[Thing]]


class Sources:
    """What the queries of one process share: settings, the NATS connection, and whatever they open, once each."""

    def __init__(self, settings: Settings, nats: Client) -> None:
        self.settings = settings
        self.nats = nats
        self._opened: dict[Opens[Any], Any] = {}
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def once(self, opens: Opens[Thing]) -> Thing:
        """What `opens` gives; opened when it is first asked for, closed when the process ends."""
        async with self._opening:
            if opens not in self._opened:
                self._opened[opens] = await self._stack.enter_async_context(opens(self.settings))
            thing: Thing = self._opened[opens]
        return thing

    async def close(self) -> None:
        """Close what was opened, the last first."""
        await self._stack.aclose()


class Asked(NamedTuple, Generic[R_co]):
    """One query: whose data, the open tokens of its subject by name, the request."""

    tenant: str
    named: dict[str, str]
    request: R_co
    sources: Sources


class Endpoint(NamedTuple):
    """A query and the function that answers it; bytes go out as they are, anything else as JSON."""

    query: Query
    answer: Callable[[Asked[Any]], Awaitable[Any]]


def endpoint(path: str, example: tuple[Request, Any]) -> Callable[[Callable[[Asked[R]], Awaitable[Any]]], Endpoint]:
    """Declare a query: `async def top(asked: Asked[Top]) -> Lines`, its docstring being what people read about it."""

    def declare(answer: Callable[[Asked[R]], Awaitable[Any]]) -> Endpoint:
        hints = get_type_hints(answer)
        request = get_args(hints.get("asked"))
        if not request or "return" not in hints:
            raise BusError(f"query {path} is answered by {answer}, wanted (asked: Asked[Request]) -> Answer")
        summary = inspect.cleandoc(answer.__doc__ or "").partition("\n")[0]
        return Endpoint(Query(path, summary, request[0], hints["return"], example), answer)

    return declare
