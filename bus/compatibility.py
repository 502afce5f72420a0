"""Whether a changed schema breaks what was built on an earlier one: stored bodies, senders, readers.

Compared is the structure, as far as our schemas go; what cannot be judged (another pattern) counts as a break. A form
that breaks the earlier one is a new version with an upcaster (bus/upcasting.py), never an edit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from bus.schemas import Kind

Schema = dict[str, Any]
_LOWER_BOUNDS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_FIXED: Final = ("pattern", "format", "const", "enum", "default")
_DESCENDED: Final = frozenset({"type", "properties", "required", "additionalProperties", "propertyNames", "items"})
_PASSED_OVER: Final = frozenset({"$schema", "$id", "$defs", "title", "description"})
_KNOWN: Final = _PASSED_OVER | _DESCENDED | {"prefixItems", "anyOf", *_LOWER_BOUNDS, *_UPPER_BOUNDS, *_FIXED}


def breaks(kind: Kind, earlier: Schema, later: Schema) -> list[str]:
    """One line for each way in which `later` breaks what fits `earlier`; both are whole documents.

    Commands are read by us: they may only become more lenient. Outcomes and events are read by others too: what was
    always there must stay, and nothing may become null.
    """
    return list(_Comparison(earlier, later, is_written=kind != "command").schemas("data", earlier, later))


class _Comparison:
    def __init__(self, earlier: Schema, later: Schema, *, is_written: bool) -> None:
        self._earlier, self._later, self._is_written = earlier, later, is_written

    def schemas(self, path: str, earlier: Any, later: Any) -> Iterator[str]:
        """Compare two schemas; either may be `True` (anything) or `False` (nothing)."""
        if isinstance(earlier, bool) or isinstance(later, bool):
            if earlier != later and later is not True:
                yield f"{path} does not take any more what it took"
            return
        earlier, was_null = _without_null(_resolved(earlier, self._earlier))
        later, is_null = _without_null(_resolved(later, self._later))
        earlier, later = _resolved(earlier, self._earlier), _resolved(later, self._later)
        if unknown := sorted((earlier.keys() | later.keys()) - _KNOWN):
            yield f"{path} uses {', '.join(unknown)}, which cannot be compared"
        if was_null and not is_null:
            yield f"{path} may not be null any more"
        if is_null and not was_null and self._is_written:
            yield f"{path} may now be null"
        if earlier.get("type") != later.get("type"):
            yield f"{path} was {earlier.get('type', 'anything')} and is {later.get('type', 'anything')}"
            return
        yield from _bounds(path, earlier, later)
        yield from self._members(path, earlier, later)
        yield from self._items(path, earlier, later)

    def _members(self, path: str, earlier: Schema, later: Schema) -> Iterator[str]:
        before, after = earlier.get("properties", {}), later.get("properties", {})
        needed, now_needed = set(earlier.get("required", ())), set(later.get("required", ()))
        for name, schema in before.items():
            if name in after:
                yield from self.schemas(f"{path}.{name}", schema, after[name])
            else:
                yield f"{path}.{name} was removed"
        yield from (f"{path}.{name} became required" for name in sorted(now_needed - needed))
        if self._is_written:
            yield from (f"{path}.{name} is not always there any more" for name in sorted(needed - now_needed))
        for what, word in ((f"{path}.*", "additionalProperties"), (f"names in {path}", "propertyNames")):
            yield from self.schemas(what, earlier.get(word, True), later.get(word, True))

    def _items(self, path: str, earlier: Schema, later: Schema) -> Iterator[str]:
        before, after = earlier.get("prefixItems", []), later.get("prefixItems", [])
        if len(before) != len(after):
            yield f"{path} had {len(before)} places and has {len(after)}"
        for place, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from self.schemas(f"{path}[{place}]", one, other)
        yield from self.schemas(f"{path}[]", earlier.get("items", True), later.get("items", True))


def _bounds(path: str, earlier: Schema, later: Schema) -> Iterator[str]:
    for word in _FIXED:
        if earlier.get(word) != later.get(word):
            yield f"{path} had {word} {earlier.get(word)!r} and has {later.get(word)!r}"
    for words, sign in ((_LOWER_BOUNDS, 1), (_UPPER_BOUNDS, -1)):
        for word in words:
            before, after = earlier.get(word), later.get(word)
            if after is not None and (before is None or sign * after > sign * before):
                yield f"{path} had {word} {before} and has {after}: narrower"


def _resolved(schema: Schema, document: Schema) -> Schema:
    """What a reference leads to, with what stands beside it."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found = document["$defs"][reference.removeprefix("#/$defs/")]
    return found | {key: value for key, value in schema.items() if key != "$ref"}


def _without_null(schema: Schema) -> tuple[Schema, bool]:
    """The schema of what is not null, and whether null is taken too."""
    branches = schema.get("anyOf")
    if branches is None:
        return schema, False
    others = [branch for branch in branches if branch != {"type": "null"}]
    if len(others) != 1:
        return schema, False
    return others[0] | {key: value for key, value in schema.items() if key != "anyOf"}, len(others) < len(branches)
