"""A snapshot of another shape is passed over, so a change of any state must change the name of the format."""

from hashlib import sha256

import msgspec

from bus import snapshots

#: Format -> what the shape of a snapshot was under it. A new shape gets a new format; nothing here is edited.
SHAPES = {
    "owner-snapshot/1": "22581967010407642a320eba49eb622e91713e580bf514a2e0ada59a4031cc2f",
    "owner-snapshot/2": "6dace28df19d5415b3847d3e50e4929ed371d0f44a3a5c1fba45b9c3fa65bb68",
}

OF_NO_ACCOUNT = {"title", "description", "$defs", "properties"}


def shape():
    """A digest of all that snapshots may hold; words for people and the names of our classes are left out."""
    schema = msgspec.json.schema(snapshots.OwnerSnapshot)
    return sha256(msgspec.json.encode(_bare(schema, schema["$defs"]), order="sorted")).hexdigest()


def _bare(node, defs):
    if isinstance(node, list | tuple):
        return [_bare(item, defs) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _bare(defs[node["$ref"].rpartition("/")[2]], defs)
    fields = {name: _bare(value, defs) for name, value in node.get("properties", {}).items()}
    rest = {key: _bare(value, defs) for key, value in node.items() if key not in OF_NO_ACCOUNT}
    return {**rest, "properties": fields}


def test_the_format_names_the_shape_that_it_has():
    assert SHAPES.get(snapshots.FORMAT) == shape(), (
        "a state changed its shape: raise bus.snapshots.FORMAT, note it here"
    )
