"""A worker and the timers of one tenant on a real server, which tests may stop and start."""

import asyncio
import contextlib
import json
import time
import uuid

from adapters.feed import SharedRead, keep_following, keep_pumping
from adapters.jetstream import streams
from adapters.jetstream.connection import connect
from adapters.jetstream.messages import direct_get
from adapters.timers import TimersFollower
from adapters.worker import Worker
from bus import subjects
from domain.catalogue import COMMANDS
from domain.values import to_time

PATIENCE_S = 12.0


def now_ms():
    return time.time_ns() // 1_000_000


class Installation:
    """What a test needs: send commands, read events, let the follower come and go."""

    def __init__(self, settings, tenant):
        self.settings, self.tenant = settings, tenant
        self._following = None

    @contextlib.asynccontextmanager
    async def running(self, *, follows=True):
        self.client = await connect(self.settings.nats_url, "test-timers")
        await streams.create_tenant(self.client, self.tenant, partitions=2)
        stop, ready = asyncio.Event(), asyncio.Event()
        worker = Worker(self.settings.nats_url, only_tenants=frozenset({self.tenant}))
        deciding = asyncio.create_task(worker.run(stop, ready))
        await ready.wait()
        if follows:
            await self.follow()
        try:
            yield self
        finally:
            await self.unfollow()
            stop.set()
            await deciding
            await self.client.close()

    async def follow(self):
        described = await streams.describe(self.client, self.tenant)
        read, stop = SharedRead(self.client, self.tenant), asyncio.Event()
        pump = asyncio.create_task(keep_pumping(read, self.tenant))
        follower = TimersFollower(self.settings)
        run = keep_following(self.client, self.tenant, described.events, read, follower, stop)
        self._following = stop, pump, asyncio.create_task(run)

    async def unfollow(self):
        """Stop the follower in order."""
        if self._following is not None:
            stop, pump, task = self._following
            self._following = None
            stop.set()
            await task
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def send(self, name, owner, data, *, at_ms=None, command_id=None):
        """Publish a command as a service does; returns its outcome."""
        stored, aggregate, _ = COMMANDS[name]
        body = {
            "specversion": "1.0",
            "id": command_id or uuid.uuid4().hex,
            "source": "//test",
            "type": stored,
            "subject": f"{aggregate}/{owner}",
            "time": to_time(now_ms() if at_ms is None else at_ms),
            "tenantid": self.tenant,
            "data": data,
        }
        inbox = self.client.new_inbox()
        answers = await self.client.subscribe(inbox, max_msgs=1)
        subject = subjects.command(self.tenant, aggregate, owner, name)
        await self.client.publish(subject, json.dumps(body).encode(), headers={"Tally-Reply-To": inbox})
        outcome = json.loads((await answers.next_msg(timeout=PATIENCE_S)).data)
        return outcome["data"].get("code", "accepted")

    async def events(self):
        """(type, causation id, data) of every event, inbox events left out."""
        stream = subjects.events_stream(self.tenant)
        request = {"seq": 1, "batch": 1_000, "next_by_subj": subjects.all_events(self.tenant)}
        bodies = [json.loads(body) for _, _, body in await direct_get(self.client, stream, request)]
        return [(b["type"], b["causationid"], b["data"]) for b in bodies if b["type"] != "commands-decided/1"]

    async def refused(self):
        """Ids and codes of the refused commands."""
        stream = subjects.events_stream(self.tenant)
        request = {"seq": 1, "batch": 1_000, "next_by_subj": subjects.event(self.tenant, "inbox", "*")}
        bodies = [json.loads(body) for _, _, body in await direct_get(self.client, stream, request)]
        return [(line[1], line[2]) for body in bodies for line in body["data"]["refused"]]

    async def seen(self, kind, count=1):
        """The events of a type, once there are so many."""
        return await eventually(lambda: self.of(kind), lambda found: len(found) >= count)

    async def of(self, kind):
        return [event for event in await self.events() if event[0] == kind]

    async def timer_subjects(self, which):
        """What the timer stream holds: `set` or `due`."""
        stream = subjects.timers_stream(self.tenant)
        wanted = f"tally.timer.{self.tenant}.{which}.>"
        request = {"seq": 1, "batch": 1_000, "next_by_subj": wanted}
        return sorted(
            subjects.timer_key(self.tenant, subject)
            for _, subject, body in await direct_get(self.client, stream, request)
            if body
        )


async def eventually(look, is_enough=bool, patience_s=PATIENCE_S):
    """What `look` finds once it is enough; what it found last when patience ran out."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            found = await look()
        except Exception:
            if time.monotonic() > deadline:
                raise
            found = None
        if (found is not None and is_enough(found)) or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.05)
