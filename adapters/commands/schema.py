"""`tally schema`: the JSON Schemas and the AsyncAPI document of what goes over the wire, made from this version."""

from __future__ import annotations

import argparse
import difflib
import json
from pathlib import Path
from typing import Any, Final

import msgspec

from adapters.errors import CheckFailed, TallyError
from adapters.queries import catalogue
from bus import schemas
from bus.asyncapi import document
from bus.asyncapi_queries import query_schema
from bus.compatibility import breaks
from bus.envelope import CHAIN
from bus.schemas import Described, all_schemas, data_schema, described, file_name, written

HELP = "JSON Schemas of all commands, events, outcomes and queries, and the AsyncAPI document"
ASYNCAPI: Final = "asyncapi"


def configure(parser: argparse.ArgumentParser) -> None:
    """`[NAME]`, or one of `--write` and `--check`."""
    parser.epilog = (
        "examples:\n"
        "  tally schema                      what there is\n"
        "  tally schema xp-awarded/1         the schema of its data; CompleteQuest and complete-quest do as well\n"
        "  tally schema envelope-event       of what stands around the data\n"
        "  tally schema asyncapi > asyncapi.json\n"
        "  tally schema --check my/schemas   does this version break what was built on these files?\n"
        "  tally schema --write docs         bring docs/schemas and docs/asyncapi.json up to date"
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("name", metavar="NAME", nargs="?", help="a type, an envelope, or asyncapi")
    chosen.add_argument("--write", type=Path, metavar="DIR", help="write DIR/schemas/*.json and DIR/asyncapi.json")
    chosen.add_argument("--check", type=Path, metavar="DIR", help="compare with the schemas in DIR; exit 1 if broken")
    parser.add_argument("--json", action="store_true", help="print JSON (a schema always is)")


def run(args: argparse.Namespace) -> int:
    """0, or 1 when `--check` finds that something is broken."""
    if args.write is not None:
        return _write(args.write)
    if args.check is not None:
        return _check(args.check, is_json=args.json)
    print(_list(is_json=args.json) if args.name is None else written(_named(args.name)), end="")
    return 0


def _list(*, is_json: bool) -> str:
    types = list(described())
    asked = catalogue.queries()
    if is_json:
        rows = [{"kind": one.kind, "name": one.name, "word": one.word, "aggregate": one.aggregate} for one in types]
        rows += [{"kind": "query", "name": one.name, "word": one.word, "aggregate": ""} for one in asked]
        return json.dumps(rows) + "\n"
    lines = [f"{one.kind:<8} {one.name:<22} {one.word:<18} {one.aggregate}".rstrip() for one in types]
    lines += [f"{'query':<8} {one.name:<22} {one.summary}" for one in asked]
    return "\n".join([*lines, "tally schema NAME prints one; tally schema asyncapi the whole contract", ""])


def _named(name: str) -> dict[str, Any]:
    if name == ASYNCAPI:
        return document(catalogue.queries())
    wholes = {file.removesuffix(".json"): schema for file, schema in all_schemas().items()}
    for one in described():
        if name in {one.name, one.name.partition("/")[0], one.word}:
            return data_schema(one)
    if name in wholes:
        return wholes[name]
    asked = {one.name: one for one in catalogue.queries()}
    if name in asked:
        return query_schema(asked[name])
    known = [ASYNCAPI, *wholes, *asked, *(word for one in described() for word in (one.name, one.word))]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "tally schema lists what there is"
    raise TallyError(f"schema is {name[:60]!r}, which is not known: {hint}")


def _write(folder: Path) -> int:
    found = {folder / "schemas" / name: written(schema) for name, schema in all_schemas().items()}
    found[folder / "asyncapi.json"] = written(document(catalogue.queries()))
    (folder / "schemas").mkdir(parents=True, exist_ok=True)
    changed = [path for path, text in found.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(found[path], encoding="utf-8")
    print("\n".join([*(f"wrote {path}" for path in changed), f"{len(found) - len(changed)} of {len(found)} unchanged"]))
    return 0


def _check(folder: Path, *, is_json: bool) -> int:
    """Compare every schema file of a folder with the type of the same name."""
    folder = folder / "schemas" if (folder / "schemas").is_dir() else folder
    files = sorted(folder.glob("*.json"))
    if not files:
        raise TallyError(f"{folder} holds no schemas (*.json): name the folder that tally schema --write DIR made")
    by_file = {file_name(one.name): one for one in described()}
    faults: dict[str, list[str]] = {}
    for path in files:
        if found := _faults(path, by_file):
            faults[path.name] = found
    if is_json:
        print(json.dumps(faults))
    if faults:
        first = next(iter(faults))
        count = sum(len(found) for found in faults.values())
        if not is_json:
            print("\n".join(f"{name}: {fault}" for name, found in faults.items() for fault in found))
        raise CheckFailed(f"{count} changes break {len(faults)} of {len(files)} schemas, {first} first: see above")
    if not is_json:
        print(f"{len(files)} schemas: this version keeps every one of them")
    return 0


def _faults(path: Path, by_file: dict[str, Described]) -> list[str]:
    try:
        earlier = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise TallyError(f"{path} is no JSON Schema ({err}): write the folder anew with the version it is of") from err
    if path.name.startswith("envelope-"):
        kind = path.stem.removeprefix("envelope-")
        current = schemas.all_schemas().get(path.name)
        return ["is no envelope of this version"] if current is None else _compared(kind, earlier, current)
    if (one := by_file.get(path.name)) is not None:
        return _compared(one.kind, earlier, data_schema(one))
    name = path.stem.replace(".", "/")
    if name not in CHAIN.sources:
        return ["is not known to this version"]
    target = CHAIN.target(name)
    is_command = by_file[file_name(target)].kind == "command"
    return [] if is_command else [f"is not written any more: what is stored is read as {target}"]


def _compared(kind: Any, earlier: dict[str, Any], current: dict[str, Any]) -> list[str]:
    try:
        return breaks(kind, earlier, current)
    except (KeyError, TypeError, AttributeError) as err:
        return [f"is no schema that can be compared: {type(err).__name__} {err}"]
