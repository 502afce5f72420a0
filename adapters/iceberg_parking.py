"""Parked events of the analytics: one immutable file with all of them, named by the snapshot that carries the position.

The file is written before the commit that names it; every later snapshot names it too, until other events are parked.
Whoever reads the position reads with it what waits, and a commit that fails leaves a file that nobody names.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from pyiceberg.table import Table

from adapters.iceberg_table import Made
from projections.errors import Inconsistent
from projections.parking import Parked

FOLDER: Final = "parked"
_decoder: Final = msgspec.json.Decoder(list[Parked])


def keep(table: Table, made: Made, parked: Sequence[Parked]) -> Made:
    """Write what waits; returns what the next snapshot has to say of it."""
    if not parked:
        return made._replace(parked="", parked_first=0)
    path = f"{table.location()}/{FOLDER}/{uuid.uuid4().hex}.json"
    with table.io.new_output(path).create() as file:
        file.write(msgspec.json.encode(parked))
    return made._replace(parked=path, parked_first=min(one.stream_seq for one in parked))


def stored(table: Table, made: Made | None) -> list[Parked]:
    """What waits, in the order of the stream; raises `Inconsistent` when its file is gone."""
    if made is None or not made.parked:
        return []
    try:
        with table.io.new_input(made.parked).open() as file:
            content: Any = file.read()
    except FileNotFoundError as err:
        raise Inconsistent(
            f"analytics: the events parked from {made.parked_first:,} on lie in {made.parked}, and the warehouse does "
            "not have it: restore it, or write the table again (tally rebuild analytics --accept)"
        ) from err
    return sorted(_decoder.decode(content), key=lambda one: one.stream_seq)
