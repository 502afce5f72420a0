"""A snapshot of another shape is passed over, so a change of any state must change the name of the format."""

from hashlib import sha256

import msgspec

from bus import snapshots

#: Format -> what the shape of a snapshot was under it. A new shape gets a new format; nothing here is edited.
SHAPES = {
    "owner-snapshot/1": "11324feff352ebd503f51832f7dc87cb1aa1e0500bf9fad706297706eec9eb99",
    "owner-snapshot/2": "e2ef11bd214e75ff8241f2a8e4fe595c64d5dc3a59adb00ddb5076bad8a816d5",
}


def shape():
    """A digest of all that snapshots may hold, words for people left out."""
    return sha256(msgspec.json.encode(_bare(msgspec.json.schema(snapshots.OwnerSnapshot)), order="sorted")).hexdigest()


def _bare(node):
    if isinstance(node, list | tuple):
        return [_bare(item) for item in node]
    if isinstance(node, dict):
        return {key: _bare(value) for key, value in node.items() if key not in {"title", "description"}}
    return node


def test_the_format_names_the_shape_that_it_has():
    assert SHAPES.get(snapshots.FORMAT) == shape(), (
        "a state changed its shape: raise bus.snapshots.FORMAT, note it here"
    )
