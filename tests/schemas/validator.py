"""A plain validator for the JSON Schemas that we make: every keyword that they use, and no other."""

import re
from datetime import date, datetime

TYPES = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
ABOUT = {"$schema", "$id", "$defs", "title", "description", "default"}


def is_valid(value, schema, document=None):
    return not list(faults(value, schema, document))


def faults(value, schema, document=None, at="$"):
    """One line for each rule that the value breaks; raises `KeyError` for a keyword that is not known here."""
    document = schema if document is None else document
    if isinstance(schema, bool):
        if not schema:
            yield f"{at}: nothing may stand here"
        return
    for word, rule in schema.items():
        if word not in ABOUT:
            yield from (f"{at}: {line}" for line in KEYWORDS[word](value, rule, schema, document))


def _ref(value, rule, schema, document):
    found = document
    for step in rule.removeprefix("#/").split("/"):
        found = found[step]
    yield from faults(value, found, document)


def _any_of(value, rule, schema, document):
    if not any(is_valid(value, branch, document) for branch in rule):
        yield f"{value!r} fits no branch"


def _all_of(value, rule, schema, document):
    for branch in rule:
        yield from faults(value, branch, document)


def _properties(value, rule, schema, document):
    if isinstance(value, dict):
        for name in rule.keys() & value.keys():
            yield from faults(value[name], rule[name], document, name)


def _additional(value, rule, schema, document):
    if isinstance(value, dict):
        for name in value.keys() - schema.get("properties", {}).keys():
            yield from faults(value[name], rule, document, name)


def _names(value, rule, schema, document):
    if isinstance(value, dict):
        for name in value:
            yield from faults(name, rule, document, f"name {name!r}")


def _items(value, rule, schema, document):
    if isinstance(value, list):
        for place, item in enumerate(value[len(schema.get("prefixItems", [])) :]):
            yield from faults(item, rule, document, f"[{place}]")


def _prefix_items(value, rule, schema, document):
    if isinstance(value, list):
        for place, (item, inner) in enumerate(zip(value, rule, strict=False)):
            yield from faults(item, inner, document, f"[{place}]")


def _format(value, rule, schema, document):
    assert rule in {"date", "date-time"}
    if isinstance(value, str):
        try:
            fits = bool(date.fromisoformat(value)) if rule == "date" else bool(datetime.fromisoformat(value).tzinfo)
        except ValueError:
            fits = False
        if not fits:
            yield f"{value!r} is no {rule} (a time has a zone)"


def _enum(value, rule, schema, document):
    if not any(type(one) is type(value) and one == value for one in rule):
        yield f"{value!r:.80} is none of {rule!r}"


def _simple(is_kept, kind=object):
    def check(value, rule, schema, document):
        if isinstance(value, kind) and not isinstance(value, bool) and not is_kept(value, rule):
            yield f"{value!r:.80} breaks {rule!r}"

    return check


KEYWORDS = {
    "$ref": _ref,
    "anyOf": _any_of,
    "allOf": _all_of,
    "properties": _properties,
    "additionalProperties": _additional,
    "propertyNames": _names,
    "items": _items,
    "prefixItems": _prefix_items,
    "format": _format,
    "type": lambda value, rule, schema, document: [] if TYPES[rule](value) else [f"{value!r:.80} is no {rule}"],
    "const": _simple(lambda value, rule: value == rule),
    "enum": _enum,
    "required": _simple(lambda value, rule: set(rule) <= value.keys(), dict),
    "maxProperties": _simple(lambda value, rule: len(value) <= rule, dict),
    "minProperties": _simple(lambda value, rule: len(value) >= rule, dict),
    "pattern": _simple(lambda value, rule: re.search(re.sub(r"\$$", r"\\Z", rule), value, re.ASCII), str),
    "minLength": _simple(lambda value, rule: len(value) >= rule, str),
    "maxLength": _simple(lambda value, rule: len(value) <= rule, str),
    "minItems": _simple(lambda value, rule: len(value) >= rule, list),
    "maxItems": _simple(lambda value, rule: len(value) <= rule, list),
    "minimum": _simple(lambda value, rule: value >= rule, int),
    "maximum": _simple(lambda value, rule: value <= rule, int),
}
