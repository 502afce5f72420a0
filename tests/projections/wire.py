"""A wire between a client and a real server that breaks where it is told to."""

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit


class Wire:
    """Forwards to the server of a URL; `break_after(n)` ends every connection at the n-th piece from the client.

    With `reply_lost` the piece is still delivered and its answer thrown away: done, and nobody was told.
    """

    def __init__(self, url):
        self._url = urlsplit(url)
        self._left = None
        self._reply_lost = False
        self._writers = set()
        self._tasks = set()
        self.breaks = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        login = self._url.netloc.rpartition("@")
        self.url = self._url._replace(netloc=f"{login[0]}{login[1]}127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(self, *failure):
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def break_after(self, pieces, *, reply_lost):
        self._left, self._reply_lost = pieces, reply_lost

    def mend(self):
        self._left = None

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        server_reader, server_writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        self._writers |= {writer, server_writer}
        answers = asyncio.create_task(self._answers(server_reader, writer))
        try:
            await self._requests(reader, server_writer, answers)
        except OSError:
            pass
        finally:
            answers.cancel()
            await asyncio.wait([answers])
            writer.close()
            server_writer.close()

    async def _requests(self, reader, server_writer, answers):
        while piece := await reader.read(1 << 16):
            if self._left is not None:
                self._left -= 1
                if self._left <= 0:
                    self.breaks += 1
                    if self._reply_lost:
                        answers.cancel()
                        server_writer.write(piece)
                        await server_writer.drain()
                        await asyncio.sleep(0.02)
                    return
            server_writer.write(piece)
            await server_writer.drain()

    async def _answers(self, server_reader, writer):
        with suppress(OSError):
            while piece := await server_reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()
        writer.close()
