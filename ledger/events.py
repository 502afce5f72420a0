"""What the ledger reads of an entry: CloudEvents attributes, and the rules that every logged event keeps.

It knows no domain type (LEDGER.md 0.10).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.commands import run_record
from ledger.encoding import decode_json
from ledger.errors import EventRefused, Malformed, excerpt

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
UNTYPED: Final = "untyped"
REQUIRED: Final = (
    "specversion", "id", "source", "type", "subject", "time", "recordedtime", "datacontenttype", "dataschema",
    "tenantid", "aggregateversion", "causationid",
)  # fmt: skip
OPTIONAL: Final = ("correlationid", "actor", "traceparent")

# The beginning of an event in its canonical form, which is fast to read: plain ASCII, nothing escaped. Anything else is
# read as JSON.
_BEGINNING: Final = re.compile(
    rb'\{"specversion":"1\.0","id":"[ !#-\[\]-~]*+","source":"[ !#-\[\]-~]*+",'
    rb'"type":"([ !#-\[\]-~]*+)","subject":"([ !#-\[\]-~]*+)"'
)


def type_of(entry: bytes) -> str:
    """The CloudEvents type of an entry, `untyped` when it has none."""
    return _attribute(entry, 1, "type") or UNTYPED


def count_types(entries: Sequence[bytes]) -> Counter[str]:
    """How many entries there are of each type: `type_of` for many, on the signer's way of every event."""
    match = _BEGINNING.match
    found = Counter([beginning[1] if (beginning := match(entry)) else None for entry in entries])
    counts: Counter[str] = Counter()
    for name, count in found.items():
        if name is None:
            return Counter(map(type_of, entries))
        counts[name.decode() or UNTYPED] += count
    return counts


def subject_of(entry: bytes) -> str:
    """The CloudEvents subject of an entry, empty when it has none."""
    return _attribute(entry, 2, "subject")


def _attribute(entry: bytes, group: int, name: str) -> str:
    match = _BEGINNING.match(entry)
    if match is not None:
        return match[group].decode()
    found = _attributes(entry).get(name)
    return found if isinstance(found, str) else ""


def _attributes(entry: bytes) -> dict[str, Any]:
    try:
        event = decode_json("entry", entry)
    except Malformed:
        return {}
    return event if isinstance(event, dict) else {}


def tenant_of(entry: bytes) -> str:
    """The `tenantid` of an event, empty when it has none."""
    found = _attributes(entry).get("tenantid")
    return found if isinstance(found, str) else ""


def recorded_month(entry: bytes) -> str:
    """The month, YYYY-MM, in which an event says that it was recorded; empty, or other text, when it does not."""
    found = _attributes(entry).get("recordedtime")
    return found[:7] if isinstance(found, str) else ""


def command_of(entry: bytes) -> str:
    """The `causationid` of an event, empty when it has none."""
    found = _attributes(entry).get("causationid")
    return found if isinstance(found, str) else ""


def event_id(entry: bytes) -> str | None:
    """The `id` of an event, None when the entry is no event."""
    found = _attributes(entry).get("id")
    return found if isinstance(found, str) else None


def version_of(entry: bytes) -> int:
    """The `aggregateversion` of an event; raises `EventRefused` when there is none."""
    found = _attributes(entry).get("aggregateversion")
    if type(found) is not int:
        raise EventRefused("entry", expected="an aggregateversion", found=excerpt(str(found)))
    return found


def describe(entry: bytes) -> str:
    """Id, type and subject of an event, for people; `no event` for other bytes."""
    event = _attributes(entry)
    if not event:
        return "no event"
    parts = (str(event.get(key, "?")) for key in ("id", "type", "subject"))
    return " ".join(excerpt(part)[1:-1] for part in parts)


@dataclass(frozen=True, slots=True)
class Window:
    """Entries `[start, end)` that were recorded between two moments: the checkpoints before and after them.

    The moments are written as a `recordedtime` is, so that texts compare as times do.
    """

    start: int
    end: int
    earliest: str = ""
    latest: str = "~"


class EventRules:
    """Checks events that follow each other: canonical form, id, one tenant, versions without a gap, time of recording.

    What comes before the first of them is not known here: `first_versions` (leaf index and version of each subject's
    first event), `tenant`, and the runs of events of one command (`runs`, with the first and the last command) are for
    the caller to compare.
    """

    def __init__(self) -> None:
        self.first_versions: dict[str, tuple[int, int]] = {}
        self.last_versions: dict[str, int] = {}
        self.tenant: str | None = None
        self.runs = bytearray()
        self.first_command: str | None = None
        self.last_command: str | None = None

    def check(self, leaf_index: int, entry: bytes, window: Window) -> tuple[str, str]:
        """The event's type and the month in which it says it was recorded; raises `EventRefused` or `Malformed`."""
        what = f"entry {leaf_index}"
        event = decode_json(what, entry)
        if not isinstance(event, dict):
            raise EventRefused(what, expected="a JSON object", found=type(event).__name__)
        self._check_keys(what, event)
        subject, version, kind, tenant = event["subject"], event["aggregateversion"], event["type"], event["tenantid"]
        command = event["causationid"]
        if not all(isinstance(value, str) for value in (subject, kind, tenant, command)):
            raise EventRefused(what, expected="subject, type, tenantid and causationid as text")
        last = self.last_versions.get(subject)
        if last is not None or type(version) is not int:
            require_next_version(what, subject, version, last)
        if last is None:
            self.first_versions[subject] = (leaf_index, version)
        self.last_versions[subject] = version
        if self.tenant is None:
            self.tenant = tenant
        if tenant != self.tenant:
            raise EventRefused(f"{what}, tenantid", expected=self.tenant, found=excerpt(tenant))
        if command != self.last_command:
            self.runs += run_record(command, subject, leaf_index)
            self.first_command = self.first_command or command
            self.last_command = command
        aggregate, _, owner = subject.partition("/")
        if event["id"] != f"{aggregate}.{owner}.{version}":
            raise EventRefused(f"{what}, id", expected=f"{subject} {version} with dots", found=excerpt(event["id"]))
        return kind, _recorded(what, event["recordedtime"], window)[:7]

    @staticmethod
    def _check_keys(what: str, event: dict[str, Any]) -> None:
        wanted = [*REQUIRED, *(key for key in OPTIONAL if key in event), "data"]
        if list(event) != wanted:
            raise EventRefused(f"{what}, attributes", expected=" ".join(wanted), found=excerpt(" ".join(event), 400))


def require_next_version(what: str, subject: str, version: object, last: int | None) -> None:
    """That a version follows the last one (None: unknown); raises `EventRefused`."""
    if type(version) is int and last is not None and version == last + 1:
        return
    expected = "a number" if last is None else last + 1
    problem = ""
    if type(version) is int and last is not None:
        problem = ": an event is missing or out of order" if version > last else ": an event was repeated or reordered"
    raise EventRefused(
        f"{what}, aggregateversion of {excerpt(subject)}", expected=expected, found=excerpt(str(version)) + problem
    )


def _recorded(what: str, text: object, window: Window) -> str:
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        raise EventRefused(f"{what}, recordedtime", expected="like 2026-11-21T10:00:00.000Z", found=excerpt(text))
    if text < window.earliest:
        raise EventRefused(
            f"{what}, recordedtime: backdated",
            expected=f"{window.earliest} or later, as it came after a checkpoint of that time",
            found=text,
        )
    if text > window.latest:
        raise EventRefused(
            f"{what}, recordedtime: ahead of the clock",
            expected=f"{window.latest} or earlier, as a checkpoint of that time covers it",
            found=text,
        )
    return text
