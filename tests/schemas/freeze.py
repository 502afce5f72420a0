"""Freezes what is not frozen yet: `python -m tests.schemas.freeze` (see README.md beside it)."""

import json
import sys
from functools import cache
from pathlib import Path

import msgspec

from bus.compatibility import breaks
from bus.envelope import CHAIN, Recorded
from bus.examples import records
from bus.schemas import all_schemas, data_schema, described, envelope_schema, file_name, written
from bus.timetravel import Past
from domain.catalogue import Key

HERE = Path(__file__).parent
FROZEN = HERE / "frozen"
CORPUS = HERE / "corpus"
ENDLESS = 2**62
#: Of versions that are upcast when they are read.
OLD_FILES = {file_name(name) for name in CHAIN.sources}


def frozen_schemas() -> dict[str, dict]:
    """File name -> schema as it was released."""
    return {path.name: json.loads(path.read_bytes()) for path in sorted(FROZEN.glob("*.json"))}


@cache
def kinds() -> dict[str, str]:
    """File name -> command, event or outcome, of every schema that the code of today makes."""
    by_name = {schema["title"]: file for file, schema in all_schemas().items()}
    found = {by_name[data_schema(one)["title"]]: one.kind for one in described()}
    return found | {by_name[envelope_schema(kind)["title"]]: kind for kind in ("command", "event", "outcome")}


def paths(schema: dict, document: dict, at: str = "data") -> set[str]:
    """Where values may stand in what a schema describes."""
    if "$ref" in schema:
        return paths(document["$defs"][schema["$ref"].removeprefix("#/$defs/")], document, at)
    found = {at}
    for name, inner in schema.get("properties", {}).items():
        found |= paths(inner, document, f"{at}.{name}")
    inner = [*schema.get("anyOf", []), *schema.get("prefixItems", [])]
    inner += [schema[word] for word in ("items", "additionalProperties") if isinstance(schema.get(word), dict)]
    for one in inner:
        found |= paths(one, document, at)
    return found


def generations() -> list[list[bytes]]:
    """The bodies of each generation, the oldest first."""
    files = sorted(CORPUS.glob("*.jsonl"), key=lambda path: int(path.stem))
    return [path.read_bytes().splitlines() for path in files]


def states(bodies: list[bytes]) -> dict[str, dict]:
    """What the aggregates of a generation come to, through the code of today."""
    pasts: dict[str, Past] = {}
    for seq, body in enumerate(bodies, 1):
        subject = json.loads(body)["subject"]
        past = pasts.setdefault(subject, Past(Key(*subject.split("/")), ENDLESS, 0))
        past.apply([Recorded(seq, body)])
    found = {subject: {"version": past.version, "state": past.state} for subject, past in sorted(pasts.items())}
    return json.loads(msgspec.json.encode(found, order="deterministic"))


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--anew"]):
        print("usage: python -m tests.schemas.freeze [--anew]", file=sys.stderr)
        return 2
    for path in (*FROZEN.glob("*.json"), *CORPUS.glob("*")) if arguments else ():
        path.unlink()
    FROZEN.mkdir(exist_ok=True)
    CORPUS.mkdir(exist_ok=True)
    frozen, kind_of = frozen_schemas(), kinds()
    for file, schema in all_schemas().items():
        earlier = frozen.get(file)
        if earlier is not None and (faults := breaks(kind_of[file], earlier, schema)):
            print(f"{file} breaks what is frozen: {'; '.join(faults)}: give it a new version", file=sys.stderr)
            return 1
        if earlier is None or paths(schema, schema) != paths(earlier, earlier):
            (FROZEN / file).write_text(written(schema), encoding="utf-8")
            print(f"froze {file}")
    told = [record.body for record in records()]
    if told not in generations():
        number = len(generations()) + 1
        (CORPUS / f"{number}.jsonl").write_bytes(b"".join(body + b"\n" for body in told))
        text = json.dumps(states(told), indent=1, ensure_ascii=False) + "\n"
        (CORPUS / f"{number}.states.json").write_text(text, encoding="utf-8")
        print(f"wrote generation {number}: {len(told)} events, {len(CHAIN.sources)} old versions are known")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
