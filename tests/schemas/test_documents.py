"""The checked-in documents are those of the code, and say what the code does."""

import json
import re

import msgspec
import pytest

from adapters import cli
from adapters.queries.catalogue import queries
from bus import examples, subjects
from bus.asyncapi import document
from bus.envelope import decode_command
from bus.errors import Malformed
from bus.schemas import all_schemas, data_schema, described, envelope_schema, file_name, written
from domain.catalogue import COMMANDS, EVENTS
from tests.platform.source_tree import ROOT
from tests.schemas.freeze import OLD_FILES, frozen_schemas
from tests.schemas.validator import faults, is_valid

DOCS = ROOT / "docs"
STORY = examples.story()
TYPES = {one.name: one for one in described()}


@pytest.mark.parametrize("file", sorted(all_schemas()))
def test_a_schema_is_checked_in_as_the_code_makes_it(file):
    text = (DOCS / "schemas" / file).read_text(encoding="utf-8")

    assert text == written(all_schemas()[file]), "run: tally schema --write docs"


def test_no_other_schema_is_checked_in():
    found = {path.name for path in (DOCS / "schemas").iterdir()}

    assert found == all_schemas().keys() | OLD_FILES
    for file in OLD_FILES:
        assert json.loads((DOCS / "schemas" / file).read_bytes()) == frozen_schemas()[file]


def test_the_asyncapi_document_is_checked_in_as_the_code_makes_it():
    text = (DOCS / "asyncapi.json").read_text(encoding="utf-8")

    assert text == written(document(queries())), "run: tally schema --write docs"


def test_every_type_on_the_wire_has_its_schema():
    names = {one.name for one in described()}

    assert {*EVENTS, *(stored for stored, _, _ in COMMANDS.values())} < names
    assert {"commands-decided/1", "command-accepted/1", "command-refused/1", "command-parked/1"} < names


@pytest.mark.parametrize("kind", ["command", "event", "outcome"])
def test_what_the_code_writes_and_takes_fits_the_schemas(kind):
    told = {"command": STORY.commands, "event": STORY.events, "outcome": STORY.outcomes}[kind]

    for example in told:
        body = msgspec.json.decode(example.body)
        assert list(faults(body, envelope_schema(kind))) == []
        assert list(faults(body["data"], data_schema(TYPES[body["type"]]))) == []
    assert {msgspec.json.decode(one.body)["type"] for one in told} == {
        one.name for one in TYPES.values() if one.kind == kind
    }


VALUES = [
    None,
    True,
    "",
    "x",
    "a b",
    "x" * 64,
    "x" * 65,
    "x" * 201,
    "a\n",
    "2026-01-01T00:00:00.000Z",
    "\x7f",
    -1,
    0,
    1,
]
VALUES += [10**9, 10**9 + 1, 315_576_000_000, 10**12, [], {}, ["x"], ["x", 1], [{}], [{"id": "x"}], {"name": {}}]
VALUES += [{"xp": 1}, {"xp": -1}, {"xp": 1, "more": 1}, ["x"] * 9, ["x"] * 65, [{"id": "x", "geofence": {}}]]
MISSING = object()


def code_of(address, body):
    try:
        decode_command(examples.TENANT, 1, address, body)
    except Malformed as refused:
        return refused.code
    return None


@pytest.mark.parametrize("word", COMMANDS)
def test_the_schema_of_a_command_takes_exactly_what_the_code_takes(word):
    stored, aggregate, _ = COMMANDS[word]
    good = next(one for one in map(json.loads, (e.body for e in STORY.commands)) if one["type"] == stored)
    schema = data_schema(TYPES[stored])
    tried = 0
    for field in [*schema["properties"], "extra"]:
        for value in [MISSING, *VALUES]:
            data = {**good["data"], field: value}
            if value is MISSING:
                del data[field]
            body = msgspec.json.encode({**good, "data": data})
            tried += 1

            is_taken = code_of((aggregate, good["subject"].split("/")[1], word), body) is None

            assert is_valid(data, schema) == is_taken, (field, value)
    assert tried > len(VALUES)


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "0.3"},
        {"id": "a b"},
        {"id": "x" * 65},
        {"source": ""},
        {"source": "x" * 513},
        {"type": "xp"},
        {"subject": "player/a b"},
        {"time": "yesterday"},
        {"time": "2014-04-21T16:08:37"},
        {"tenantid": "a.b"},
        {"datacontenttype": "text/plain"},
        {"actor": ""},
        {"actor": "x\n"},
        {"correlationid": "x" * 201},
        {"traceparent": "00"},
    ],
)
def test_an_envelope_that_the_schema_refuses_is_refused(change):
    body = {**json.loads(STORY.commands[6].body), **change}

    assert not is_valid(body, envelope_schema("command"))
    with pytest.raises(Malformed):
        decode_command(examples.TENANT, 1, ("player", "b19", "CompleteQuest"), json.dumps(body).encode())


def references(node):
    if isinstance(node, dict):
        yield from ([node["$ref"]] if "$ref" in node else [])
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def test_every_reference_leads_somewhere():
    whole = document(queries())
    found = set(references(whole))

    for reference in found:
        node = whole
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
        assert node
    assert len(found) > 60


def test_every_example_fits_the_payload_that_it_shows():
    whole = document(queries())

    for word, message in whole["components"]["messages"].items():
        for example in message["examples"]:
            payload = {"components": whole["components"], **message["payload"]}
            payload = _with_2020_places(payload)
            assert list(faults(example["payload"], {"allOf": payload["allOf"]}, payload)) == [], word


def _with_2020_places(node):
    """AsyncAPI's schemas write places of a list as draft 7 does; the validator knows the newer words."""
    if isinstance(node, list):
        return [_with_2020_places(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _with_2020_places(value) for key, value in node.items()}
    if isinstance(node.get("items"), list):
        node["prefixItems"], node["items"] = node["items"], node.pop("additionalItems")
    return node


def test_messages_go_where_the_document_says():
    whole = document(queries())
    by_message = {}
    for channel in whole["channels"].values():
        for word in channel["messages"]:
            if channel["address"] is not None:
                by_message[word] = re.sub(r"\\{\w+\\}", "[A-Za-z0-9_-]+", re.escape(channel["address"]))

    for example in (*STORY.commands, *STORY.events, *STORY.outcomes):
        word = TYPES[json.loads(example.body)["type"]].word
        assert re.fullmatch(by_message[word], example.subject), (word, example.subject)
    assert by_message["XpAwarded"].startswith(re.escape(subjects.event("", "", "")[:10]))


def test_every_command_has_an_operation_whose_reply_goes_to_the_header():
    operations = document(queries())["operations"]

    for word in COMMANDS:
        operation = operations[f"receive{word}"]
        assert operation["action"] == "receive"
        assert operation["reply"]["address"]["location"] == "$message.header#/Tally-Reply-To"
        assert len(operation["reply"]["messages"]) == 3


def test_every_query_has_an_operation_that_names_its_answers_and_the_refusal():
    whole = document(queries())

    for one in queries():
        operation = whole["operations"][f"receive{one.word}Query"]
        assert whole["channels"][f"{one.word}Query"]["address"] == f"tally.q.{{tenant}}.{one.path}"
        assert [m["$ref"].rpartition("/")[2] for m in operation["reply"]["messages"]][-1] == "QueryRefusal"
    assert len(queries()) > 2


@pytest.mark.parametrize("name", ["xp-awarded/1", "xp-awarded", "XpAwarded", "xp-awarded.1"])
def test_a_schema_is_printed_by_any_of_its_names(name, capsys):
    assert cli.main(["schema", name]) == 0
    assert json.loads(capsys.readouterr().out) == data_schema(TYPES["xp-awarded/1"])


def test_the_list_names_every_type_for_people_and_for_programs(capsys):
    assert cli.main(["schema"]) == 0
    text = capsys.readouterr().out
    assert cli.main(["schema", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)

    names = [*TYPES, *(one.name for one in queries())]
    assert [row["name"] for row in rows] == names
    assert all(f" {name} " in text for name in names)


def test_an_unknown_name_is_one_line_with_what_may_be_meant(capsys):
    assert cli.main(["schema", "xp-awarded/2"]) == 2
    assert re.fullmatch(r"tally: schema is 'xp-awarded/2', .*did you mean xp-awarded/1.*\n", capsys.readouterr().err)


def test_writing_twice_changes_nothing_the_second_time(tmp_path, capsys):
    cli.main(["schema", "--write", str(tmp_path / "new")])
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    capsys.readouterr()

    assert cli.main(["schema", "--write", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out == f"{len(first)} of {len(first)} unchanged\n"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == first


def test_a_service_can_check_a_version_against_what_it_was_built_on(tmp_path, capsys):
    cli.main(["schema", "--write", str(tmp_path)])
    assert cli.main(["schema", "--check", str(tmp_path)]) == 0
    path = tmp_path / "schemas" / file_name("xp-awarded/1")
    earlier = json.loads(path.read_bytes())
    earlier["properties"]["season"] = {"type": "string"}
    path.write_text(json.dumps(earlier))
    capsys.readouterr()

    assert cli.main(["schema", "--check", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert told.out == "xp-awarded.1.json: data.season was removed\n"
    assert f"1 changes break 1 of {len(all_schemas())} schemas" in told.err


@pytest.mark.parametrize("content", ["", "[]", "{", '{"properties":1}', '{"$ref":"#/x"}', '{"type":[]}'])
def test_a_file_that_is_no_schema_of_ours_is_never_a_traceback(tmp_path, capsys, content):
    (tmp_path / "xp-awarded.1.json").write_text(content)

    assert cli.main(["schema", "--check", str(tmp_path)]) in {1, 2}
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_without_schemas_is_one_line(tmp_path, capsys):
    assert cli.main(["schema", "--check", str(tmp_path)]) == 2
    assert "holds no schemas" in capsys.readouterr().err
