"""The process that answers queries: one NATS micro service for each tenant, an endpoint for each query.

Several such processes share the queries of a tenant (a queue group). In one, so many are worked on at once and so many
may wait; one more is refused at once. A deadline counts from the arrival, waiting included.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.micro.request import Request as MicroRequest
from nats.micro.service import Service, ServiceConfig, ServiceStats

from adapters.errors import TallyError
from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.queries.catalogue import endpoints
from adapters.queries.endpoint import Asked, Endpoint, Sources
from adapters.settings import Settings
from bus.asyncapi import CONTRACT_VERSION
from bus.errors import BusError, StoreUnavailable, WireError
from bus.queries import BAD_REQUEST, BUSY, FAILED, NOT_FOUND, TOO_LATE, UNAVAILABLE, QueryRefused
from bus.subjects import InvalidToken
from projections.errors import NotFound, ProjectionError, SinkUnavailable, WrongBoard

log = logging.getLogger(__name__)

AT_ONCE_MAX: Final = 64
WAITING_MAX: Final = 1_000
DEADLINE_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 900_000
TENANTS_EVERY_S: Final = 1.0
LINE_MAX: Final = 400


class QueryServices:
    """Answers the queries of all tenants until `stop` is set; a tenant that is created meanwhile within a second."""

    def __init__(
        self,
        settings: Settings,
        only_tenants: frozenset[str] | None = None,
        *,
        served: Sequence[Endpoint] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._settings = settings
        self._only_tenants = only_tenants
        self._endpoints = endpoints() if served is None else served
        self._deadline_s = deadline_s
        self._services: dict[str, _TenantService] = {}

    async def run(self, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Serve; what is being answered when `stop` is set is answered still."""
        client = await connect(self._settings.nats_url, "tally-queries")
        sources = Sources(self._settings, client)
        try:
            async with asyncio.TaskGroup() as group:
                desk = _Desk(group, sources, self._deadline_s)
                while not stop.is_set():
                    try:
                        await self._tend(client, desk)
                        ready.set()
                    except (BusError, nats.errors.Error, TimeoutError) as err:
                        log.warning("queries: %s", err)
                    await _wait(stop, TENANTS_EVERY_S)
                for service in self._services.values():
                    await service.stop()
        finally:
            await sources.close()
            await client.close()

    async def _tend(self, client: Client, desk: _Desk) -> None:
        found = set(await streams.tenants(client))
        wanted = found if self._only_tenants is None else found & self._only_tenants
        for tenant in self._services.keys() - wanted:
            await self._services.pop(tenant).stop()
        for tenant in wanted - self._services.keys():
            service = _TenantService(client, tenant)
            try:
                for one in self._endpoints:
                    await service.add(one, desk)
                await service.start()  # seen by service tools when it answers
            except BaseException:
                await service.stop()
                raise
            self._services[tenant] = service


class _Counter:
    """What an endpoint did: the library's own figures end when a query is accepted, not when it is answered."""

    def __init__(self) -> None:
        self.errors = 0
        self.nanoseconds = 0
        self.last_error = ""


class _TenantService(Service):
    """A tenant's micro service."""

    def __init__(self, client: Client, tenant: str) -> None:
        about = f"queries of tenant {tenant}: docs/queries.md, tally schema asyncapi"
        name = f"tally-{tenant}"
        super().__init__(client, ServiceConfig(name=name, version=CONTRACT_VERSION, description=about))
        self._metadata = {"tenant": tenant}
        self._tenant = tenant
        self._counters: dict[str, _Counter] = {}

    async def add(self, one: Endpoint, desk: _Desk) -> None:
        counter = self._counters[one.query.name] = _Counter()

        async def handle(request: MicroRequest) -> None:
            await desk.take(one, self._tenant, request, counter)

        await self.add_endpoint(
            name=one.query.name,
            handler=handle,
            subject=one.query.subject(self._tenant),
            metadata={"summary": one.query.summary, "format": "application/json", "schema": one.query.name},
        )

    def stats(self) -> ServiceStats:
        """The figures with what happened after a query was accepted."""
        found = super().stats()
        for one in found.endpoints:
            counter = self._counters[one.name]
            one.num_errors += counter.errors
            one.last_error = counter.last_error or one.last_error
            one.processing_time = counter.nanoseconds
            one.average_processing_time = counter.nanoseconds // max(1, one.num_requests)
        return found


class _Desk:
    """Works on so many queries at once."""

    def __init__(self, group: asyncio.TaskGroup, sources: Sources, deadline_s: float) -> None:
        self._group = group
        self._sources = sources
        self._deadline_s = deadline_s
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)
        self._taken = 0

    async def take(self, one: Endpoint, tenant: str, request: MicroRequest, counter: _Counter) -> None:
        """Begin to answer, or refuse at once when too many wait."""
        if self._taken >= AT_ONCE_MAX + WAITING_MAX:
            line = f"{WAITING_MAX:,} queries wait here, none more is taken; ask again in a moment"
            await _refuse(request, BUSY, line, counter)
            return
        self._taken += 1
        self._group.create_task(self._answer(one, tenant, request, counter))

    async def _answer(self, one: Endpoint, tenant: str, request: MicroRequest, counter: _Counter) -> None:
        began = time.perf_counter_ns()
        try:
            async with asyncio.timeout(self._deadline_s), self._slots:
                body = await self._body(one, tenant, request)
            await request.respond(body)
        except Exception as err:  # the asker gets a line, whatever it is; nobody else waits for this task
            code, line = refusal_of(err)
            if code == FAILED:
                log.exception("query %s of %s", one.query.name, tenant)
            await _refuse(request, code, line, counter)
        finally:
            self._taken -= 1
            counter.nanoseconds += time.perf_counter_ns() - began

    async def _body(self, one: Endpoint, tenant: str, request: MicroRequest) -> bytes:
        query = one.query
        asked = msgspec.json.decode(request.data or b"{}", type=query.request)
        answer = await one.answer(Asked(tenant, query.named(tenant, request.subject), asked, self._sources))
        body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
        if len(body) > ANSWER_BYTES_MAX:
            message = f"the answer has {len(body):,} bytes, at most {ANSWER_BYTES_MAX:,} are sent: ask for less"
            raise QueryRefused(BAD_REQUEST, message)
        return body


def refusal_of(err: BaseException) -> tuple[str, str]:
    """The code and the line with which a failure is answered."""
    line = " ".join(str(err).split())[:LINE_MAX]
    match err:
        case QueryRefused():
            return err.code, line
        case NotFound():
            return NOT_FOUND, line
        case msgspec.ValidationError() | InvalidToken() | WrongBoard():
            return BAD_REQUEST, line
        case msgspec.DecodeError() | UnicodeDecodeError():
            return BAD_REQUEST, f"the payload is no JSON object ({line})"
        case SinkUnavailable() | StoreUnavailable() | nats.errors.Error():
            return UNAVAILABLE, line or type(err).__name__
        case TimeoutError():
            return TOO_LATE, "no answer in time; ask again, or ask for less"
        case ProjectionError() | TallyError() | BusError() if not isinstance(err, WireError):
            return UNAVAILABLE, line
        case _:
            return FAILED, f"{type(err).__name__}; the process's log says more"


async def _refuse(request: MicroRequest, code: str, line: str, counter: _Counter) -> None:
    counter.errors += 1
    counter.last_error = f"{code}: {line}"
    body: dict[str, Any] = {"code": code, "message": line}
    try:
        await request.respond_error(code, line, msgspec.json.encode(body))
    except (nats.errors.Error, ValueError) as err:  # nobody to answer, or no connection to answer on
        log.debug("a refusal was not heard: %s", err)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
