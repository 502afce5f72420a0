"""A connection that is made anew lets go of servers that took it and said nothing."""

import asyncio
import gc
import warnings
from urllib.parse import urlparse

from nats.aio.client import Srv

from adapters.jetstream.connection import connect


def test_a_server_that_took_the_connection_and_said_nothing_is_let_go(server):
    async def story():
        took, let_go = asyncio.Event(), asyncio.Event()

        async def say_nothing(reader, writer):
            took.set()
            await reader.read()  # until its end
            let_go.set()
            writer.close()

        silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        client = await connect(server.url, "test")
        client._server_pool.append(Srv(uri=urlparse(f"nats://127.0.0.1:{port}")))
        await asyncio.to_thread(server.stop)
        try:
            async with asyncio.timeout(20):
                await took.wait()
                await let_go.wait()
        finally:
            await client.close()
            silent.close()

    gc.disable()  # which would let go of it as well, sooner or later
    try:
        with warnings.catch_warnings(record=True) as met:
            warnings.simplefilter("always")
            asyncio.run(story())
    finally:
        gc.enable()
    # Python 3.11.7 and later close it when nobody refers to it any more, and say so.
    assert [str(each.message) for each in met if "unclosed" in str(each.message)] == []
