"""JSON Schemas of every command, event and outcome, made from the types that read and write them.

`data` of a type stand under its stored name (`dataschema` urn:tallyroot:schema:xp-awarded:1 is `xp-awarded.1.json`);
the three envelopes around them stand apart. What msgspec cannot say of an envelope, because it is checked by hand or
never varies, is said in the tables below.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from bus import outcomes, subjects
from bus.envelope import COMMANDS_DECIDED, JSON, CommandEnvelope, CommandsDecided, EventEnvelope, schema_of
from bus.errors import BusError
from bus.upcasting import split_name
from domain import logkeys, player, quest, token
from domain.catalogue import COMMANDS, EVENTS

Kind = Literal["command", "event", "outcome"]
Schema = dict[str, Any]
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_ID: Final = "[A-Za-z0-9_-]{1,64}"
_TIME: Final = {"format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
_SUBJECT: Final = {"pattern": f"^[a-z]+/{_ID}$"}
_LINE: Final = {"minLength": 1, "maxLength": 200}
_STORED_NAME: Final = {"pattern": "^[a-z][a-z0-9-]*/[1-9][0-9]*$"}
#: Envelope -> attribute -> what holds besides its type.
_RULES: Final[dict[Kind, dict[str, Schema]]] = {
    "command": {
        "specversion": {"const": "1.0"},
        "id": {"pattern": f"^{_ID}$"},
        "type": _STORED_NAME,
        "subject": _SUBJECT,
        "time": {"format": "date-time"},
        "tenantid": {"pattern": f"^{_ID}$"},
        "datacontenttype": {"const": JSON},
    },
    "event": {
        "specversion": {"const": "1.0"},
        "id": {"pattern": rf"^[a-z]+\.{_ID}\.[1-9][0-9]*$"},
        "source": {"pattern": f"^//tallyroot/{_ID}$"},
        "type": _STORED_NAME,
        "subject": _SUBJECT,
        "time": _TIME,
        "recordedtime": _TIME,
        "datacontenttype": {"const": JSON},
        "dataschema": {"pattern": "^urn:tallyroot:schema:[a-z][a-z0-9-]*:[1-9][0-9]*$"},
        "tenantid": {"pattern": f"^{_ID}$"},
        "aggregateversion": {"minimum": 1},
        "causationid": {"pattern": f"^{_ID}$"},
        "correlationid": _LINE,
        "actor": _LINE,
        "traceparent": {"pattern": "^[0-9a-f-]{55}$"},
    },
    "outcome": {
        "specversion": {"const": "1.0"},
        "id": {"pattern": r"^outcome\."},
        "source": {"pattern": f"^//tallyroot/{_ID}$"},
        "type": _STORED_NAME,
        "time": _TIME,
        "tenantid": {"pattern": f"^{_ID}$"},
    },
}
_ENVELOPES: Final[dict[Kind, type]] = {
    "command": CommandEnvelope,
    "event": EventEnvelope,
    "outcome": outcomes.Outcome,
}
_OUTCOMES: Final[dict[str, type]] = {
    outcomes.ACCEPTED: outcomes.AcceptedData,
    outcomes.REFUSED: outcomes.RefusedData,
    outcomes.PARKED: outcomes.RefusedData,
}
_AGGREGATES: Final[dict[type, str]] = {
    kind: aggregate
    for aggregate, union in (
        ("quest", quest.QuestEvent),
        ("player", player.PlayerEvent),
        ("token", token.TokenEvent),
        ("ledger", logkeys.KeyEvent),
    )
    for kind in get_args(union)
}


class Described(NamedTuple):
    """A type on the wire: its stored name, its name in code, the aggregate it belongs to ("" for outcomes)."""

    kind: Kind
    name: str
    word: str
    aggregate: str
    data: type


def described() -> Iterator[Described]:
    """Every type on the wire: commands, events, outcomes."""
    for word, (name, aggregate, data) in COMMANDS.items():
        yield Described("command", name, word, aggregate, data)
    for name, data in EVENTS.items():
        yield Described("event", name, data.__name__, _AGGREGATES[data], data)
    yield Described("event", COMMANDS_DECIDED, CommandsDecided.__name__, subjects.INBOX, CommandsDecided)
    for name, data in _OUTCOMES.items():
        yield Described("outcome", name, _word(name), "", data)


def data_schema(described: Described) -> Schema:
    """The schema of a type's `data`; the order of the properties is the order of the bytes."""
    body, definitions = schema_of_type(described.data)
    head = {"$schema": DIALECT, "$id": schema_of(described.name), **body, "title": described.name}
    return head | ({"$defs": definitions} if definitions else {})


def envelope_schema(kind: Kind) -> Schema:
    """The schema of what stands around the data; `data` itself is any JSON here."""
    body, _ = schema_of_type(_with_any_data(_ENVELOPES[kind]))
    properties, rules = body["properties"], _RULES[kind]
    if unknown := rules.keys() - properties.keys():
        raise BusError(f"rules for {sorted(unknown)} of the {kind} envelope, which has only {list(properties)}")
    for attribute, schema in properties.items():
        properties[attribute] = _with_rules(schema, rules.get(attribute, {}), is_nullable=kind == "command")
    properties["data"] = {"description": "as the schema of `type` says"}
    return {"$schema": DIALECT, "$id": f"urn:tallyroot:envelope:{kind}", **body, "title": f"{kind} envelope"}


def all_schemas() -> dict[str, Schema]:
    """File name -> schema, of every type and envelope."""
    found = {file_name(one.name): data_schema(one) for one in described()}
    return found | {f"envelope-{kind}.json": envelope_schema(kind) for kind in get_args(Kind)}


def file_name(stored_name: str) -> str:
    """`xp-awarded/1` -> `xp-awarded.1.json`."""
    name, version = split_name(stored_name)
    return f"{name}.{version}.json"


def written(document: Mapping[str, Any]) -> str:
    """A document as it is checked in."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def schema_of_type(kind: type) -> tuple[Schema, dict[str, Schema]]:
    """The body of a type's schema, and the definitions that it refers to."""
    (root,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    if set(root) != {"$ref"}:
        raise BusError(f"{kind.__name__} gives the schema {root}, wanted one definition of a struct")
    definitions = {name: _cleaned(schema) for name, schema in definitions.items()}
    return definitions.pop(kind.__name__), definitions


def _with_any_data(envelope: type) -> type:
    """The same envelope around data of any type: msgspec describes no union of outcomes."""
    fields = msgspec.structs.fields(envelope)
    kinds = []
    for field in fields:
        kind = msgspec.Raw if field.name == "data" else field.type
        kinds.append((field.name, kind) if field.required else (field.name, kind, field.default))
    same = msgspec.defstruct(envelope.__name__, kinds, kw_only=True)
    same.__doc__ = envelope.__doc__
    return same


def _cleaned(schema: Any) -> Any:
    r"""With patterns as every language reads them (`\Z` is Python's) and descriptions without our indentation."""
    if isinstance(schema, list | tuple):
        return [_cleaned(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    cleaned = {key: _cleaned(value) for key, value in schema.items()}
    if isinstance(pattern := cleaned.get("pattern"), str):
        cleaned["pattern"] = pattern.replace(r"\Z", "$")
    if isinstance(description := cleaned.get("description"), str):
        cleaned["description"] = inspect.cleandoc(description)
    return cleaned


def _with_rules(schema: Schema, rules: Schema, *, is_nullable: bool) -> Schema:
    """An attribute's schema with its rules; what we write is left out when unset, never null."""
    branches = schema.get("anyOf")
    if branches is None:
        return schema | rules
    ruled = branches[0] | rules
    if not is_nullable:
        return ruled
    return {"anyOf": [ruled, *branches[1:]]} | {key: value for key, value in schema.items() if key != "anyOf"}


def _word(stored_name: str) -> str:
    return "".join(part.capitalize() for part in split_name(stored_name)[0].split("-"))
