"""The AsyncAPI 3.0 document: what may be sent to Tallyroot, what it says, where, with an example of each.

Its point of view is ours, as AsyncAPI wants it: `receive` is a command that a service sends to us.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bus import asyncapi_queries, examples, subjects
from bus.envelope import schema_of
from bus.errors import BusError
from bus.queries import Query
from bus.schemas import Described, Schema, data_schema, described, envelope_schema, file_name
from domain.catalogue import AGGREGATES

#: Goes up when a channel, an envelope or a type is added (second number) or changed incompatibly (first).
CONTRACT_VERSION: Final = "1.1.0"
REPLY_TO_HEADER: Final = "Tally-Reply-To"

_ABOUT: Final = """\
Commands in, events and outcomes out, over NATS with JetStream. A service publishes a command and hears its outcome on \
the subject that it names in the header Tally-Reply-To (an inbox of its own, or one below tally.out.<tenant>), else on \
tally.out.<tenant>.<command id>. The same command sent again with the same id is executed once and answered again. \
Queries are answered by NATS micro services: an answer, or the headers Nats-Service-Error-Code and Nats-Service-Error. \
Bodies are CloudEvents 1.0 in JSON, structured mode, at most 65,535 bytes; docs/formats.md has the bytes. Readers \
pass over fields that they do not know."""
_KINDS: Final = {"command": "Command", "event": "Event", "outcome": "Outcome"}
_THINGS: Final = {
    "token": "player's token account",
    "ledger": "log's keys, whose id is `keys`",
    subjects.INBOX: "partition of the commands",
}
_ID: Final = "letters, digits, '-' and '_', 1 to 64 of them"


def document(queries: Sequence[Query]) -> dict[str, Any]:
    """The whole document, ready to be written as JSON; `queries` are those that are served."""
    types = list(described())
    shown = _examples()
    channels, operations = _channels(types), {}
    for one in types:
        if one.kind == "command":
            operations[f"receive{one.word}"] = _receive(one, types)
    for name in channels:
        if name.endswith("Events"):
            operations[f"send{name[0].upper()}{name[1:]}"] = {"action": "send", "channel": _ref("channels", name)}
    operations["sendOutcomes"] = {"action": "send", "channel": _ref("channels", "outcomes")}
    asked = asyncapi_queries.parts(queries, [one.word for one in types if one.kind == "outcome"])
    return {
        "asyncapi": "3.0.0",
        "id": "urn:tallyroot:ledger",
        "info": {"title": "Tallyroot", "version": CONTRACT_VERSION, "description": _ABOUT},
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "{address}",
                "protocol": "nats",
                "description": "the address stands in endpoints.json of an installation, under `nats`",
                "variables": {"address": {"default": "127.0.0.1:4222", "description": "host and port"}},
            }
        },
        "channels": channels | asked["channels"],
        "operations": operations | asked["operations"],
        "components": {
            "messages": {one.word: _message(one, shown) for one in types} | asked["messages"],
            "schemas": _schemas(types, asked["schemas"]),
        },
    }


def _channels(types: list[Described]) -> dict[str, Any]:
    channels: dict[str, Any] = {}
    for one in types:
        if one.kind == "command":
            channels[one.word] = {
                "address": subjects.command("{tenant}", one.aggregate, "{id}", one.word),
                "title": f"{one.word} for one {_thing(one.aggregate)}",
                "messages": _messages([one]),
                "parameters": _parameters("tenant", "id"),
            }
    for aggregate in (*AGGREGATES, subjects.INBOX):
        told = [one for one in types if one.kind == "event" and one.aggregate == aggregate]
        channels[f"{aggregate}Events"] = {
            "address": subjects.event("{tenant}", aggregate, "{id}"),
            "title": f"what happened to one {_thing(aggregate)}; kept for ever in the stream EVENTS_<tenant>",
            "messages": _messages(told),
            "parameters": _parameters("tenant", "id"),
        }
    answers = _messages([one for one in types if one.kind == "outcome"])
    channels["outcomes"] = {
        "address": subjects.outcome("{tenant}", "{command}"),
        "title": "outcomes of commands whose senders named no other subject; not kept",
        "messages": answers,
        "parameters": _parameters("tenant", "command"),
    }
    channels["replies"] = {
        "address": None,
        "title": f"outcomes of commands whose senders named a subject in {REPLY_TO_HEADER}; not kept",
        "messages": answers,
    }
    return channels


def _receive(one: Described, types: list[Described]) -> dict[str, Any]:
    answers = [_ref("channels", "replies", "messages", other.word) for other in types if other.kind == "outcome"]
    return {
        "action": "receive",
        "channel": _ref("channels", one.word),
        "summary": inspect.cleandoc(one.data.__doc__ or "").partition("\n")[0],
        "messages": [_ref("channels", one.word, "messages", one.word)],
        "reply": {
            "address": {
                "location": f"$message.header#/{REPLY_TO_HEADER}",
                "description": "an _INBOX. subject or one below tally.out.<tenant>; anything else is refused",
            },
            "channel": _ref("channels", "replies"),
            "messages": answers,
        },
    }


def _message(one: Described, shown: dict[str, dict[str, Any]]) -> dict[str, Any]:
    is_command = one.kind == "command"
    fixed: Schema = {"type": {"const": one.name}, "data": _ref("components", "schemas", _key(one))}
    if one.kind == "event":
        fixed["dataschema"] = {"const": schema_of(one.name)}
    if one.aggregate:
        fixed["subject"] = {"pattern": f"^{one.aggregate}/"}
    payload = {"allOf": [_ref("components", "schemas", _KINDS[one.kind]), {"type": "object", "properties": fixed}]}
    message: dict[str, Any] = {
        "name": one.name,
        "title": f"{one.word} ({one.kind})",
        "summary": inspect.cleandoc(one.data.__doc__ or "").partition("\n")[0],
        "contentType": "application/json",
        "correlationId": {"location": f"$message.payload#/{'id' if is_command else 'causationid'}"},
        "payload": payload,
    }
    example: dict[str, Any] = {"name": "example", "payload": shown[one.name]}
    if is_command:
        message["headers"] = {
            "type": "object",
            "properties": {REPLY_TO_HEADER: {"type": "string", "pattern": r"^(_INBOX|tally\.out)\.", "maxLength": 256}},
        }
        example = {"name": "example", "headers": {REPLY_TO_HEADER: "_INBOX.kqGzXr1vP9a"}, "payload": shown[one.name]}
    return message | {"examples": [example]}


def _schemas(types: list[Described], asked: dict[str, Schema]) -> dict[str, Schema]:
    """Everything that is referred to, in the dialect that AsyncAPI's own schemas have (draft 7)."""
    found: dict[str, Schema] = {}
    wholes = [(_key(one), data_schema(one)) for one in types]
    wholes += [(_KINDS[kind], envelope_schema(kind)) for kind in ("command", "event", "outcome")]
    wholes += list(asked.items())
    for key, schema in wholes:
        parts = {key: {name: value for name, value in schema.items() if name not in {"$schema", "$id", "$defs"}}}
        for name, part in (parts | schema.get("$defs", {})).items():
            converted = _draft_7(part)
            if found.setdefault(name, converted) != converted:
                raise BusError(f"two schemas are called {name}: give one of the types another name")
    return found


def _draft_7(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_draft_7(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {key: _draft_7(value) for key, value in schema.items()}
    if isinstance(reference := converted.get("$ref"), str):
        converted["$ref"] = reference.replace("#/$defs/", "#/components/schemas/")
    if "prefixItems" in converted:
        converted["additionalItems"] = converted.pop("items", True)
        converted["items"] = converted.pop("prefixItems")
    return converted


def _examples() -> dict[str, dict[str, Any]]:
    """One body for each type: the first that the story tells."""
    story = examples.story()
    shown: dict[str, dict[str, Any]] = {}
    for example in (*story.commands, *story.events, *story.outcomes):
        body = msgspec.json.decode(example.body)
        shown.setdefault(body["type"], body)
    return shown


def _messages(types: list[Described]) -> dict[str, Any]:
    return {one.word: _ref("components", "messages", one.word) for one in types}


def _parameters(*names: str) -> dict[str, Any]:
    about = {
        "tenant": f"the franchise: {_ID}",
        "id": f"of the quest or player (whose account has the same id), or a partition's number: {_ID}",
        "command": "the id of the command, seq-<its stream sequence> when it has no usable one",
    }
    return {name: {"description": about[name]} for name in names}


def _thing(aggregate: str) -> str:
    return _THINGS.get(aggregate, aggregate)


def _key(one: Described) -> str:
    return file_name(one.name).removesuffix(".json")


def _ref(*path: str) -> dict[str, str]:
    return {"$ref": "#/" + "/".join(path)}
