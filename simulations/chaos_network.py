"""The network of a crash test's cluster: every route and every client's connection runs through a proxy on loopback.

A link that is cut either ends its connections and takes no new ones, or stands still: nothing passes and nobody is
told, and all that was on its way arrives late, when the link is mended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from adapters.embedded_probe import HOST, free_port

CHUNK: Final = 1 << 16


class Link:
    """One way in, to one port; `target` is asked anew for each connection."""

    def __init__(self, target: Callable[[], int]) -> None:
        self.port = 0
        self._target = target
        self._passes = asyncio.Event()
        self._passes.set()
        self._is_closed = False
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._accepted: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def cut(self, *, silently: bool) -> None:
        """Let nothing pass any more."""
        if silently:
            self._passes.clear()
            return
        self._is_closed = True
        self._abort()

    def mend(self) -> None:
        """Let everything pass again, first what was held back."""
        self._is_closed = False
        self._passes.set()

    async def close(self) -> None:
        """End the link and all that runs over it."""
        self._is_closed = True
        if self._server is not None:
            self._server.close()
        self._abort()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._accepted, return_exceptions=True)

    def _abort(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._accepted.add(task)
            task.add_done_callback(self._accepted.discard)
        self._ends.add(writer)
        await self._keep(self._join(reader, writer))
        await self._let_go(writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passes.wait()
        if self._is_closed:
            return
        there_reader, there_writer = await asyncio.open_connection(HOST, self._target())
        self._ends.add(there_writer)
        pumps = [self._pump(reader, there_writer), self._pump(there_reader, writer)]
        try:
            both = [asyncio.ensure_future(self._keep(each)) for each in pumps]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.transport.abort()
            await self._let_go(there_writer)

    async def _let_go(self, end: asyncio.StreamWriter) -> None:
        end.transport.abort()
        with suppress(OSError):
            await end.wait_closed()
        self._ends.discard(end)

    async def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what ends with its connection, however that ends."""
        task = asyncio.ensure_future(work)
        self._pumps.add(task)
        with suppress(OSError, asyncio.CancelledError):
            await task
        self._pumps.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._passes.wait()
            writer.write(data)
            await writer.drain()


class Network:
    """The links of a cluster: from each node to each other, and one to each node for its clients."""

    def __init__(self, nodes: int) -> None:
        self.route_ports = [free_port() for _ in range(nodes)]
        #: Where the servers listen for clients; whoever starts one says so.
        self.client_ports = [0] * nodes
        self._routes = {
            (here, there): Link(lambda there=there: self.route_ports[there])  # type: ignore[misc] # mypy: defaults
            for here in range(nodes)
            for there in range(nodes)
            if here != there
        }
        self._clients = [Link(lambda number=number: self.client_ports[number]) for number in range(nodes)]  # type: ignore[misc]
        #: What nodes tell each other to connect to, so that no route avoids its link.
        self._nowhere = Link(lambda: 0)

    async def open(self) -> None:
        """Open every link."""
        self._nowhere.cut(silently=False)
        for link in self._every:
            await link.open()

    async def close(self) -> None:
        """End every link."""
        for link in self._every:
            await link.close()

    @property
    def _every(self) -> list[Link]:
        return [*self._routes.values(), *self._clients, self._nowhere]

    @property
    def nowhere(self) -> int:
        """A port that takes no connection."""
        return self._nowhere.port

    def routes_of(self, node: int) -> list[int]:
        """The ports over which a node reaches each other one."""
        return [link.port for (here, _), link in self._routes.items() if here == node]

    def clients_of(self, node: int) -> int:
        """The port over which clients reach a node."""
        return self._clients[node].port

    def cut(self, node: int, *, with_clients: bool, silently: bool) -> None:
        """Cut a node off from the others, and from its clients if wanted."""
        for link in self._links_of(node, with_clients=with_clients):
            link.cut(silently=silently)

    def mend(self, node: int) -> None:
        """Undo every cut of a node."""
        for link in self._links_of(node, with_clients=True):
            link.mend()

    def _links_of(self, node: int, *, with_clients: bool) -> list[Link]:
        routes = [link for ends, link in self._routes.items() if node in ends]
        return [*routes, self._clients[node]] if with_clients else routes
