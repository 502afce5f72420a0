"""Replays the 2014 Boston Marathon onto NATS, as the timing service of a race would.

A program of its own: plain nats-py and JSON, nothing of Tallyroot is imported. Any language can do as much.

    python -m simulations.clients.marathon --nats nats://127.0.0.1:4222 --tenant boston

Ids of commands are derived from what they say (`m14-b19-reach-5k`), so a second run, or one that goes on after Ctrl-C,
sends the same ids, gets the original outcomes and changes nothing. No player has two unanswered commands: what is sent
again can never overtake, or be overtaken by, another command of the same player. Progress goes to standard output, one
JSON object per line.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gzip
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import nats
from nats.aio.msg import Msg

DATA: Final = Path(__file__).resolve().parent.parent / "data" / "boston-2014.csv.gz"
QUEST: Final = "boston-2014"
STEPS: Final = ("5k", "10k", "20k", "half", "25k", "30k", "35k", "40k")
MATS: Final = (*STEPS, "official")
STEP_XP, FINISH_XP, FINISH_TOKENS, BADGE = 10, 1000, 26, "finisher-2014"
DIVISIONS: Final = ("runners", "runners-men", "runners-women", "wheelchairs", "wheelchairs-men", "wheelchairs-women")
START: Final = datetime(2014, 4, 21, 14, tzinfo=UTC)
HOUR_BEFORE: Final = START - timedelta(hours=1)
MS_PER_HUNDREDTH_MINUTE: Final = 600

UNANSWERED_MAX: Final = 10_000
RESEND_AFTER_S: Final = 5.0
RESEND_AFTER_MAX_S: Final = 40.0
SILENCE_MAX_S: Final = 60.0
CONNECT_WITHIN_S: Final = 5.0
PROGRESS_EVERY_S: Final = 0.25
YIELD_EVERY: Final = 64

Row = Mapping[str, str]


class Command(NamedTuple):
    """One command, ready to be published; `owner` is the aggregate whose commands must stay in order."""

    id: str
    owner: str
    subject: str
    body: bytes


class Waiting:
    """A command that was sent and has no outcome yet."""

    __slots__ = ("command", "resend_after_s", "sent_at")

    def __init__(self, command: Command, sent_at: float) -> None:
        self.command = command
        self.sent_at = sent_at
        self.resend_after_s = RESEND_AFTER_S


# -- what is sent -----------------------------------------------------------------------------------------------------


def read_rows(players: int | None) -> Sequence[Row]:
    """The first rows of the results; all of them when no number is given."""
    with gzip.open(DATA, "rt", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows if players is None else rows[:players]


def elapsed_ms(minutes: str) -> int:
    """Decimal minutes as milliseconds, exactly: `128.62` is 128 minutes and 62 hundredths."""
    whole, _, hundredths = minutes.partition(".")
    return (int(whole) * 100 + int(hundredths.ljust(2, "0"))) * MS_PER_HUNDREDTH_MINUTE


def start_number_order(bib: str) -> tuple[str, int]:
    """Start-numbers in their natural order: 7 before 19, F1 after all plain ones, then W2."""
    letters = bib.rstrip("0123456789")
    return letters, int(bib[len(letters) :])


def divisions_of(row: Row) -> list[str]:
    """The two divisions in which a finisher is ranked."""
    group = "wheelchairs" if row["bib"].startswith("W") else "runners"
    return [group, f"{group}-{'women' if row['gender'] == 'F' else 'men'}"]


def to_time(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


class Composer:
    """Writes commands as CloudEvents 1.0 for one tenant."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant
        self._encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

    def command(self, name: str, kind: str, subject: str, *, command_id: str, at: datetime, data: Any) -> Command:
        """One command about `subject` (`player/b19`); `name` stands in the NATS subject, `kind` in the body."""
        body = {
            "specversion": "1.0",
            "id": command_id,
            "source": "//timing.example/boston-2014",
            "type": kind,
            "subject": subject,
            "time": to_time(at),
            "tenantid": self._tenant,
            "datacontenttype": "application/json",
            "data": data,
        }
        address = f"tally.cmd.{self._tenant}.{subject.replace('/', '.')}.{name}"
        return Command(command_id, subject, address, self._encode(body).encode())

    def quest(self) -> Command:
        """The race itself."""
        data = {
            "title": "Boston Marathon 2014",
            "steps": [{"id": step, "xp": STEP_XP, "geofence": None} for step in STEPS],
            "rewards": {"xp": FINISH_XP, "tokens": FINISH_TOKENS, "badge": BADGE},
            "opens_at": None,
            "closes_at": None,
            "divisions": list(DIVISIONS),
            "supply": None,
        }
        subject = f"quest/{QUEST}"
        return self.command(
            "PublishQuest", "publish-quest/1", subject, command_id="m14-quest", at=HOUR_BEFORE, data=data
        )

    def registrations(self, rows: Iterable[Row]) -> Iterator[Command]:
        """Every finisher becomes a player."""
        for row in rows:
            data = {"region": row["country"] or None, "cohort": None}
            yield self._of_player("RegisterPlayer", "register-player/1", row["bib"], "register", HOUR_BEFORE, data)

    def acceptances(self, rows: Iterable[Row]) -> Iterator[Command]:
        """Every player takes the quest at the start of the race."""
        for row in rows:
            data = {"quest": QUEST, "divisions": divisions_of(row)}
            yield self._of_player("AcceptQuest", "accept-quest/1", row["bib"], "accept", START, data)

    def crossings(self, rows: Iterable[Row]) -> Iterator[Command]:
        """Every recorded crossing of a mat and of the finish line, in order of time, ties by start-number."""
        recorded = [
            (elapsed_ms(row[mat]), start_number_order(row["bib"]), index, row["bib"])
            for row in rows
            for index, mat in enumerate(MATS)
            if row[mat]
        ]
        recorded.sort()
        for elapsed, _, index, bib in recorded:
            at = START + timedelta(milliseconds=elapsed)
            data: dict[str, Any] = {"quest": QUEST, "elapsed_ms": elapsed}
            if index < len(STEPS):
                data["step"] = STEPS[index]
                yield self._of_player("ReachStep", "reach-step/1", bib, f"reach-{STEPS[index]}", at, data)
            else:
                yield self._of_player("CompleteQuest", "complete-quest/1", bib, "finish", at, data)

    def _of_player(self, name: str, kind: str, bib: str, what: str, at: datetime, data: Any) -> Command:
        return self.command(name, kind, f"player/b{bib}", command_id=f"m14-b{bib}-{what}", at=at, data=data)


# -- how it is sent ---------------------------------------------------------------------------------------------------


class Silence(Exception):
    """No outcome came for too long."""


class Sender:
    """Publishes commands, keeps a bounded number of them unanswered, and sends again what gets no outcome."""

    def __init__(self, connection: Any, report: Callable[[Sender], None]) -> None:
        self._connection = connection
        self._report = report
        self._waiting: dict[str, Waiting] = {}
        self._busy: set[str] = set()
        self._answered = asyncio.Event()
        self._headers = {"Tally-Reply-To": connection.new_inbox()}
        self.stage, self.total = "connecting", 0
        self.sent = self.accepted = self.resent = 0
        self.refused: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.heard_at = time.monotonic()

    async def open(self) -> None:
        """Listen for outcomes."""
        inbox = self._headers["Tally-Reply-To"]
        await self._connection.subscribe(inbox, cb=self._on_outcome, pending_msgs_limit=-1, pending_bytes_limit=-1)

    async def send(self, stage: str, commands: Iterable[Command]) -> None:
        """Publish in this order, as fast as outcomes allow."""
        self.stage = stage
        waiting, busy = self._waiting, self._busy
        for command in commands:
            while len(waiting) >= UNANSWERED_MAX or command.owner in busy:
                await self._hear()
            waiting[command.id] = Waiting(command, time.monotonic())
            busy.add(command.owner)
            await self._publish(command)
            self.sent += 1
            if self.sent % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    async def settle(self) -> None:
        """Wait until every command has its outcome."""
        while self._waiting:
            await self._hear()

    async def _hear(self) -> None:
        self._answered.clear()
        await self._answered.wait()

    async def _on_outcome(self, message: Msg) -> None:
        outcome = json.loads(message.data)
        waiting = self._waiting.pop(outcome.get("causationid"), None)
        self.heard_at = time.monotonic()
        if waiting is None:
            return  # an outcome that came twice, because the command was sent twice
        self._busy.discard(waiting.command.owner)
        if outcome["type"] == "command-accepted/1":
            self.accepted += 1
        else:
            refusal = outcome["data"]
            self.refused[refusal["code"]] += 1
            self.examples.setdefault(refusal["code"], f"{waiting.command.id}: {refusal['message']}")
        self._answered.set()

    async def watch(self) -> None:
        """Report progress and send again what waits too long; ends only by `Silence`."""
        while True:
            await asyncio.sleep(PROGRESS_EVERY_S)
            self._report(self)
            now = time.monotonic()
            if not self._waiting:
                self.heard_at = now
            if now - self.heard_at > SILENCE_MAX_S:
                raise Silence
            for late in [one for one in self._waiting.values() if now - one.sent_at > one.resend_after_s]:
                late.sent_at = now
                late.resend_after_s = min(2 * late.resend_after_s, RESEND_AFTER_MAX_S)
                self.resent += 1
                await self._publish(late.command)

    async def _publish(self, command: Command) -> None:
        # While the server is away the client library buffers a little and then refuses: what is lost is sent again.
        with suppress(nats.errors.OutboundBufferLimitError):
            await self._connection.publish(command.subject, command.body, headers=self._headers)

    def state(self) -> dict[str, Any]:
        """Where the work stands."""
        return {
            "stage": self.stage,
            "total": self.total,
            "sent": self.sent,
            "accepted": self.accepted,
            "refused": dict(self.refused),
            "examples": self.examples,
            "resent": self.resent,
        }


async def replay(sender: Sender, tenant: str, rows: Sequence[Row]) -> None:
    """The whole race; the quest is waited for, because players in other partitions depend on it."""
    composer = Composer(tenant)
    sender.total = 1 + 2 * len(rows) + sum(1 for row in rows for mat in MATS if row[mat])
    await sender.open()
    await sender.send("quest", [composer.quest()])
    await sender.settle()
    await sender.send("registrations", composer.registrations(rows))
    await sender.send("acceptances", composer.acceptances(rows))
    await sender.send("crossings", composer.crossings(rows))
    await sender.settle()


# -- the program ------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """The program was asked to stop."""


async def interruption() -> None:
    """Wait for Ctrl-C or a request to end; raises `Interrupted`."""
    asked = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, asked.set)
    await asked.wait()
    raise Interrupted


async def work(arguments: argparse.Namespace) -> int:
    """Connect, replay, say how it went; the exit code."""
    began = time.monotonic()

    def report(sender: Sender, **more: Any) -> None:
        line = {**sender.state(), "seconds": round(time.monotonic() - began, 3), **more}
        print(json.dumps(line), flush=True)

    connection = await connect(arguments.nats)
    sender = Sender(connection, report)
    watching = [asyncio.create_task(sender.watch()), asyncio.create_task(interruption())]
    replaying = asyncio.create_task(replay(sender, arguments.tenant, read_rows(arguments.players)))
    try:
        done, _ = await asyncio.wait((*watching, replaying), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except Interrupted:
        report(sender, done=False)
        return 130
    except Silence:
        print(f"marathon: no outcome for {SILENCE_MAX_S:.0f} s; is a worker running? (tally status)", file=sys.stderr)
        return 1
    finally:
        for task in (*watching, replaying):
            task.cancel()
        with suppress(Exception):
            await connection.close()
    report(sender, done=True)
    return 1 if sender.refused else 0


async def connect(url: str) -> Any:
    """A connection that survives a restart of the server and complains about nothing meanwhile."""

    async def ignore(_: Exception) -> None:
        """Every loss shows as a missing outcome, which is sent again."""

    connecting = nats.connect(
        url,
        name="marathon timing",
        connect_timeout=2,
        max_reconnect_attempts=240,
        reconnect_time_wait=0.5,
        error_cb=ignore,
    )
    return await asyncio.wait_for(connecting, CONNECT_WITHIN_S)


def main() -> int:
    """Parse the arguments and run; 0 when every command was accepted, 1 when one was refused or unanswered."""
    parser = argparse.ArgumentParser(prog="marathon", description="Replay the 2014 Boston Marathon onto NATS.")
    parser.add_argument("--nats", required=True, metavar="URL", help="the NATS server, e.g. nats://127.0.0.1:4222")
    parser.add_argument("--tenant", default="boston", help="the tenant that it happens in (default: boston)")
    parser.add_argument("--players", type=int, metavar="N", help="only the first N finishers")
    arguments = parser.parse_args()
    try:
        return asyncio.run(work(arguments))
    except BrokenPipeError:
        return 1  # whoever watched the progress is gone
    except (OSError, nats.errors.Error) as err:
        reason = str(err) or type(err).__name__
        print(f"marathon: no NATS server at {arguments.nats} ({reason}); start one with: tally up", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
