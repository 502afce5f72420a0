"""The queries' part of the AsyncAPI document: a channel, an operation and its messages for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bus import queries, subjects
from bus.errors import BusError
from bus.outcomes import Outcome
from bus.queries import Query
from bus.schemas import Schema, schema_of_type

REFUSAL: Final = "QueryRefusal"
_CODES: Final = {
    queries.BAD_REQUEST: "not a query as it must be",
    queries.NOT_FOUND: "what it names is not there",
    queries.BUSY: "too many wait, ask again in a moment",
    queries.FAILED: "our own code failed",
    queries.UNAVAILABLE: "a server behind it does not answer, or is not as it must be",
    queries.TOO_LATE: "the deadline passed",
}

_CODE: Final = {"type": "string", "pattern": f"^({'|'.join(_CODES)})$"}


def parts(asked: Sequence[Query], outcome_words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Channels, operations, messages and schemas; raises `BusError` when two types have one name."""
    found: dict[str, dict[str, Any]] = {"channels": {}, "operations": {}, "messages": {}, "schemas": {}}
    if not asked:
        return found
    found["messages"][REFUSAL] = _refusal()
    for one in asked:
        request = f"{one.word}Query"
        answers = list(outcome_words) if one.answer is Outcome else [f"{one.word}Answer"]
        found["messages"][request] = _message(one.request, one.summary, one.example[0])
        if one.answer is not Outcome:
            found["messages"][answers[0]] = _message(one.answer, f"the answer to {one.name}", one.example[1])
        found["channels"][request] = {
            "address": subjects.query("{tenant}", one.path),
            "title": one.summary,
            "messages": _messages([request]),
            "parameters": {name: {"description": f"{name}: a token"} for name in ("tenant", *one.parameters)},
        }
        found["channels"][f"{one.word}Replies"] = {
            "address": None,
            "title": f"answers to {one.name}",
            "messages": _messages([*answers, REFUSAL]),
        }
        found["operations"][f"receive{request}"] = _operation(one, request, [*answers, REFUSAL])
        for kind in (one.request, one.answer):
            if kind is not Outcome:
                _add(found["schemas"], kind)
    return found


def query_schema(one: Query) -> Schema:
    """What a query asks and what it answers, in one JSON object."""
    found: dict[str, Any] = {"title": one.name, "description": one.summary, "subject": one.subject("{tenant}")}
    for part, kind in (("request", one.request), ("answer", one.answer)):
        if kind is Outcome:
            found[part] = "an outcome: see tally schema envelope-outcome"
        else:
            body, definitions = schema_of_type(kind)
            found[part] = body | ({"$defs": definitions} if definitions else {})
    return found


def _operation(one: Query, request: str, answers: list[str]) -> dict[str, Any]:
    replies = f"{one.word}Replies"
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{request}"},
        "summary": one.summary,
        "messages": [{"$ref": f"#/channels/{request}/messages/{request}"}],
        "reply": {
            "channel": {"$ref": f"#/channels/{replies}"},
            "messages": [{"$ref": f"#/channels/{replies}/messages/{name}"} for name in answers],
        },
    }


def _message(kind: type, summary: str, example: Any) -> dict[str, Any]:
    return {
        "name": kind.__name__,
        "summary": summary,
        "contentType": "application/json",
        "payload": {"allOf": [{"$ref": f"#/components/schemas/{kind.__name__}"}]},
        "examples": [{"name": "example", "payload": msgspec.json.decode(msgspec.json.encode(example))}],
    }


def _refusal() -> dict[str, Any]:
    body = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {"code": _CODE, "message": {"type": "string"}},
    }
    return {
        "name": REFUSAL,
        "summary": "a query that gets no answer: " + "; ".join(f"{code} {words}" for code, words in _CODES.items()),
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "required": ["Nats-Service-Error-Code", "Nats-Service-Error"],
            "properties": {
                "Nats-Service-Error-Code": _CODE,
                "Nats-Service-Error": {"type": "string", "description": "one line for people"},
            },
        },
        "payload": {"allOf": [body]},
        "examples": [{"name": "example", "payload": {"code": queries.NOT_FOUND, "message": "player x is not ranked"}}],
    }


def _add(schemas: dict[str, Schema], kind: type) -> None:
    body, definitions = schema_of_type(kind)
    whole = body | ({"$defs": definitions} if definitions else {})
    if schemas.setdefault(kind.__name__, whole) != whole:
        raise BusError(f"two types of queries are called {kind.__name__}: give one of them another name")


def _messages(names: Sequence[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}
