"""No change of the code breaks a stored version; a change that would is found."""

import copy
import json

import pytest

from bus.compatibility import breaks
from bus.schemas import all_schemas
from tests.schemas.freeze import OLD_FILES, frozen_schemas, kinds, paths

FROZEN = frozen_schemas()


def test_every_version_is_frozen():
    assert FROZEN.keys() == all_schemas().keys() | OLD_FILES


@pytest.mark.parametrize("file", sorted(FROZEN.keys() - OLD_FILES))
def test_the_code_keeps_what_is_frozen(file):
    assert breaks(kinds()[file], FROZEN[file], all_schemas()[file]) == []


@pytest.mark.parametrize("file", sorted(FROZEN.keys() - OLD_FILES))
def test_whatever_was_added_is_frozen_too(file):
    current = all_schemas()[file]

    assert paths(current, current) <= paths(FROZEN[file], FROZEN[file])


def changed(file, change):
    document = copy.deepcopy(FROZEN[file])
    change(document, document["properties"])
    return document


BREAKING = [
    ("xp-awarded.1.json", lambda d, p: p.pop("level"), "data.level was removed"),
    ("xp-awarded.1.json", lambda d, p: p["level"].update(type="string"), "data.level was integer and is string"),
    ("xp-awarded.1.json", lambda d, p: p.update(level={"anyOf": [p["level"], {"type": "null"}]}), "may now be null"),
    (
        "xp-awarded.1.json",
        lambda d, p: (p.update(season={"type": "string"}), d["required"].append("season")),
        "data.season became required",
    ),
    ("xp-awarded.1.json", lambda d, p: d["required"].remove("total"), "data.total is not always there any more"),
    ("xp-awarded.1.json", lambda d, p: d.update(additionalProperties=False), r"data\.\* does not take any more"),
    ("xp-awarded.1.json", lambda d, p: p["amount"].update(maximum=10), "maximum 1000000000 and has 10: narrower"),
    ("xp-awarded.1.json", lambda d, p: p["amount"].update(minimum=1), "minimum 0 and has 1: narrower"),
    ("xp-awarded.1.json", lambda d, p: p["total"].update(minimum=0), "minimum None and has 0: narrower"),
    ("xp-awarded.1.json", lambda d, p: p["quest"].update(pattern="^a$"), "data.quest had pattern"),
    ("xp-awarded.1.json", lambda d, p: p["level"].update(enum=[1]), "data.level had enum None"),
    ("xp-awarded.1.json", lambda d, p: p["level"].update(multipleOf=2), "uses multipleOf, which cannot be compared"),
    ("player-registered.1.json", lambda d, p: p.update(region=p["region"]["anyOf"][0]), "may not be null any more"),
    ("player-registered.1.json", lambda d, p: p["personal"].pop("propertyNames"), None),
    (
        "player-registered.1.json",
        lambda d, p: p["personal"]["propertyNames"].update(maxLength=5),
        "names in data.personal had maxLength 64 and has 5",
    ),
    (
        "player-registered.1.json",
        lambda d, p: d["$defs"]["EncryptedField"]["properties"].pop("nonce"),
        r"data\.personal\.\*\.nonce was removed",
    ),
    (
        "player-registered.1.json",
        lambda d, p: p["personal"].update(additionalProperties={"type": "string"}),
        r"data\.personal\.\* was object and is string",
    ),
    (
        "quest-published.1.json",
        lambda d, p: d["$defs"]["Step"]["properties"]["xp"].update(type="string"),
        r"data\.steps\[\]\.xp was integer",
    ),
    (
        "commands-decided.1.json",
        lambda d, p: p["refused"]["items"]["prefixItems"].pop(),
        r"data\.refused\[\] had 4 places and has 3",
    ),
    (
        "commands-decided.1.json",
        lambda d, p: p["refused"]["items"]["prefixItems"].__setitem__(0, {"type": "string"}),
        r"data\.refused\[\]\[0\] was integer and is string",
    ),
    ("commands-decided.1.json", lambda d, p: p["refused"].update(default=None), "data.refused had default"),
    ("command-refused.1.json", lambda d, p: p.pop("retry_after_ms"), "data.retry_after_ms was removed"),
    ("complete-quest.1.json", lambda d, p: p.pop("elapsed_ms"), "data.elapsed_ms was removed"),
    ("retire-quest.1.json", lambda d, p: d.update(required=["reason"]), "data.reason became required"),
    ("retire-quest.1.json", lambda d, p: p["reason"].update(default="none"), "data.reason had default ''"),
    ("envelope-command.json", lambda d, p: d["required"].append("actor"), "data.actor became required"),
    ("envelope-event.json", lambda d, p: p.pop("actor"), "data.actor was removed"),
    ("envelope-event.json", lambda d, p: p["specversion"].update(const="2.0"), "specversion had const '1.0'"),
]
HARMLESS = [
    ("xp-awarded.1.json", lambda d, p: p.update(season={"type": "string", "default": ""})),
    ("xp-awarded.1.json", lambda d, p: p["amount"].update(maximum=10**12)),
    ("xp-awarded.1.json", lambda d, p: p["amount"].pop("minimum")),
    ("xp-awarded.1.json", lambda d, p: d.update(description="other words", title="other")),
    ("complete-quest.1.json", lambda d, p: d["required"].remove("elapsed_ms")),
    ("complete-quest.1.json", lambda d, p: p.update(quest={"anyOf": [p["quest"], {"type": "null"}]})),
    ("complete-quest.1.json", lambda d, p: d.pop("additionalProperties")),
]


@pytest.mark.parametrize(("file", "change", "line"), BREAKING)
def test_a_change_that_breaks_is_found_and_named(file, change, line):
    found = breaks(kinds()[file], FROZEN[file], changed(file, change))

    if line is None:
        assert found == []
    else:
        assert len(found) == 1
        assert pytest.raises(AssertionError, match=line).matches(AssertionError(found[0])), found


@pytest.mark.parametrize(("file", "change"), HARMLESS)
def test_a_change_that_breaks_nothing_is_let_through(file, change):
    assert breaks(kinds()[file], FROZEN[file], changed(file, change)) == []


def test_each_field_of_each_schema_is_missed_when_it_goes():
    missed = []
    for file, schema in FROZEN.items():
        for name in schema["properties"]:
            without = changed(file, lambda d, p, name=name: p.pop(name))
            missed += [] if breaks(kinds().get(file, "event"), schema, without) else [f"{file} {name}"]

    assert len(FROZEN) >= 31
    assert missed == []


def test_frozen_files_are_written_as_the_documents_are():
    for name, schema in FROZEN.items():
        assert schema == json.loads(json.dumps(schema)), name
        assert schema["$id"].startswith("urn:tallyroot:"), name
