"""What the ledger reads of an entry: CloudEvents attributes, and the rules that every logged event keeps.

It knows no domain type (LEDGER.md 0.10).
"""

from __future__ import annotations

import re
from typing import Any, Final

from ledger.encoding import decode_json
from ledger.errors import EventRefused, Malformed, excerpt

UNTYPED: Final = "untyped"
REQUIRED: Final = (
    "specversion", "id", "source", "type", "subject", "time", "recordedtime", "datacontenttype", "dataschema",
    "tenantid", "aggregateversion", "causationid",
)  # fmt: skip
OPTIONAL: Final = ("correlationid", "actor", "traceparent")

# The beginning of an event in its canonical form; anything else is read as JSON.
_TYPE: Final = re.compile(rb'\{"specversion":"1\.0","id":"[^"\\]*","source":"[^"\\]*","type":"([^"\\]*)"')


def type_of(entry: bytes) -> str:
    """The CloudEvents type of an entry, `untyped` when it has none."""
    match = _TYPE.match(entry)
    if match is not None:
        try:
            return match[1].decode()
        except UnicodeDecodeError:
            return UNTYPED
    try:
        event = decode_json("entry", entry)
    except Malformed:
        return UNTYPED
    kind = event.get("type") if isinstance(event, dict) else None
    return kind if isinstance(kind, str) else UNTYPED


class EventRules:
    """Checks events in the order of the log: canonical form, one tenant, versions of each subject without a gap."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._tenant: str | None = None

    @property
    def subjects(self) -> int:
        return len(self._versions)

    def check(self, leaf_index: int, entry: bytes) -> str:
        """The event's type; raises `EventRefused` or `Malformed`."""
        what = f"entry {leaf_index}"
        event = decode_json(what, entry)
        if not isinstance(event, dict):
            raise EventRefused(what, expected="a JSON object", found=type(event).__name__)
        self._check_keys(what, event)
        subject, version, kind, tenant = event["subject"], event["aggregateversion"], event["type"], event["tenantid"]
        if not (isinstance(subject, str) and isinstance(kind, str) and isinstance(tenant, str)):
            raise EventRefused(what, expected="subject, type and tenantid as text")
        expected = self._versions.get(subject, 0) + 1
        if type(version) is not int or version != expected:
            raise EventRefused(
                f"{what}, aggregateversion of {excerpt(subject)}", expected=expected, found=excerpt(str(version))
            )
        self._versions[subject] = version
        if self._tenant is None:
            self._tenant = tenant
        if tenant != self._tenant:
            raise EventRefused(f"{what}, tenantid", expected=self._tenant, found=excerpt(tenant))
        return kind

    @staticmethod
    def _check_keys(what: str, event: dict[str, Any]) -> None:
        wanted = [*REQUIRED, *(key for key in OPTIONAL if key in event), "data"]
        if list(event) != wanted:
            raise EventRefused(f"{what}, attributes", expected=" ".join(wanted), found=excerpt(" ".join(event), 400))


def event_id(entry: bytes) -> str | None:
    """The `id` attribute of an entry, None when it is no event."""
    try:
        event = decode_json("entry", entry)
    except Malformed:
        return None
    found = event.get("id") if isinstance(event, dict) else None
    return found if isinstance(found, str) else None


def describe(entry: bytes) -> str:
    """Id, type and subject of an event, for people; `no event` for other bytes."""
    try:
        event = decode_json("entry", entry)
    except Malformed:
        return "no event"
    if not isinstance(event, dict):
        return "no event"
    parts = (str(event.get(key, "?")) for key in ("id", "type", "subject"))
    return " ".join(excerpt(part)[1:-1] for part in parts)
