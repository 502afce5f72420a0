"""From the library's threads into asyncio: one event loop in one thread, and in it one connection to NATS."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import nats.errors
from eventsourcing.persistence import InterfaceError, OperationalError, ProgrammingError
from nats.aio.client import Client

from adapters.errors import NotConfigured
from adapters.jetstream.append import BatchPublisher
from adapters.jetstream.connection import connect
from adapters.jetstream.frames import Frame
from bus.errors import BusError, StoreUnavailable, WrongStream

T = TypeVar("T")

CONNECT_WITHIN_S: Final = 5.0
CLOSE_WITHIN_S: Final = 10.0
TEMPORARY: Final = 503


class Portal:
    """Runs coroutines for any number of threads; open from construction until `close`.

    Also closed when nobody holds it any more, or the interpreter ends.
    """

    def __init__(self, url: str, name: str) -> None:
        self._engine = _Engine(name)
        weakref.finalize(self, self._engine.close)
        try:
            self.client = self.call(connect(url, name, patience_s=CONNECT_WITHIN_S))
        except BaseException:
            self.close()
            raise
        self._engine.client = self.client
        self.publisher = PatientPublisher(self.client)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine; what it raises comes as the library's errors (`PersistenceError`)."""
        return self.result(self.start(work))

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Begin a coroutine; raises `InterfaceError` when the portal is closed, or of another process."""
        return self._engine.start(work)

    def result(self, future: concurrent.futures.Future[T]) -> T:
        """Wait for a coroutine that was started."""
        try:
            return future.result()
        except concurrent.futures.CancelledError as err:
            raise _closed() from err
        except NotConfigured as err:
            line = "no NATS server answers at JETSTREAM_URL: start one, or set JETSTREAM_URL to one that runs"
            raise OperationalError(line) from err
        except WrongStream as err:
            raise ProgrammingError(str(err)) from err
        except BusError as err:
            raise OperationalError(str(err)) from err
        except nats.errors.ConnectionClosedError as err:
            raise _closed() from err
        except (nats.errors.Error, OSError) as err:
            line = f"the connection to NATS failed: {type(err).__name__} {err}"
            raise OperationalError(line) from err
        except KeyboardInterrupt:
            future.cancel()
            raise

    def later(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin a coroutine that nobody waits for; when the portal is closed, there is nothing left to tidy up."""
        with contextlib.suppress(InterfaceError):
            self.start(make())

    def close(self) -> None:
        """End what runs, close the connection, stop the thread; again: nothing."""
        self._engine.close()


class PatientPublisher(BatchPublisher):
    """Tells a stream that nobody leads for the moment (a failover) from one that refuses a batch."""

    def _on_answer(self, frame: Frame) -> None:
        waiting = self._waiting.get(frame.subject.rpartition(".")[2])
        if waiting is not None and not waiting.done() and _is_temporary(frame.data):
            line = f"the event store is not ready: {frame.data.decode(errors='replace')[:200] or 'no leader answers'}"
            waiting.set_exception(StoreUnavailable(line))
        else:
            super()._on_answer(frame)


def _is_temporary(answer: bytes) -> bool:
    """Whether nobody answered, or the server says 503, its code for what will pass; nothing is stored then."""
    if not answer:
        return True
    return b'"error"' in answer and json.loads(answer)["error"].get("code") == TEMPORARY


class _Engine:
    """The loop, its thread, and what runs there; it does not hold the portal, so that a forgotten one is collected."""

    def __init__(self, name: str) -> None:
        self.client: Client | None = None
        self._pid = os.getpid()
        # Re-entrant: a garbage collection within `start` may call `close`.
        self._lock = threading.RLock()
        self._is_closed = False
        self._running: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        # A daemon, so that an application that nobody closed does not hold the interpreter up.
        self._thread = threading.Thread(target=_run, args=(self._loop,), name=f"jetstream {name}", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        tracked = self._tracked(work)
        try:
            with self._lock:
                if self._is_closed or os.getpid() != self._pid:
                    raise _closed()
                return asyncio.run_coroutine_threadsafe(tracked, self._loop)
        except (InterfaceError, RuntimeError) as err:
            tracked.close()
            work.close()
            raise _closed() from err

    def close(self) -> None:
        with self._lock:
            if self._is_closed or os.getpid() != self._pid:
                return
            self._is_closed = True
        if threading.current_thread() is self._thread:
            # A garbage collection called from the thread itself, which cannot wait for its own end.
            self._closing = self._loop.create_task(self._shut_down())
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop)
        self._thread.join(CLOSE_WITHIN_S)

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        if task is None:
            raise _closed()
        self._running.add(task)
        try:
            return await work
        finally:
            self._running.discard(task)

    async def _shut_down(self) -> None:
        try:
            running = list(self._running)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            if self.client is not None:
                await asyncio.wait_for(self.client.close(), CLOSE_WITHIN_S / 2)
        finally:
            self._loop.stop()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(_tidy_up())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _tidy_up() -> None:
    """End what the client leaves behind on its way out."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _closed() -> InterfaceError:
    line = "the connection of this factory is closed, or belongs to another process: construct a new one"
    return InterfaceError(line)
