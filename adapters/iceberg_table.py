"""The `events` table of a tenant: catalog, schema, partitions, and the position that its snapshots carry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import unquote

import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.transforms import HourTransform, IdentityTransform
from pyiceberg.types import FixedType, IcebergType, LongType, NestedField, StringType, TimestamptzType

from bus.follower import Position
from projections import analytics
from projections.errors import Inconsistent, ProjectionError, SinkUnavailable

#: The way out when rows are gone, and when a table cannot be mended.
WRITE_AGAIN: Final = (
    "write its table again (tally rebuild analytics --accept; one that is derived: tally lake maintain --anew)"
)
BEGIN_ANEW: Final = (
    "take the table out of the catalog and let the analytics fill a new one (docs/analytics.md, When something is "
    "missing)"
)
CATALOG: Final = "tallyroot"
EVENTS: Final = "events"
LEAF_BYTES: Final = 32

# Keys of a snapshot's summary.
CREATED: Final = "tallyroot.stream-created"
SEQ: Final = "tallyroot.stream-seq"
LEAF: Final = "tallyroot.leaf-hash"
PROJECTION_VERSION: Final = "tallyroot.projection-version"
GENERATION: Final = "tallyroot.generation"
PARKED: Final = "tallyroot.parked"
PARKED_FIRST: Final = "tallyroot.parked-first"

_PROPERTIES: Final = {
    "format-version": "2",
    "commit.retry.num-retries": "0",
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    "write.parquet.compression-codec": "zstd",
    "write.parquet.compression-level": "1",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}

COLUMNS: Final[tuple[tuple[str, IcebergType, bool], ...]] = (
    ("tenant", StringType(), True),
    ("event_type", StringType(), True),
    ("time", TimestamptzType(), True),
    ("recorded_time", TimestamptzType(), True),
    ("stream_seq", LongType(), True),
    ("event_id", StringType(), True),
    ("aggregate", StringType(), True),
    ("aggregate_id", StringType(), True),
    ("version", LongType(), True),
    ("causation_id", StringType(), True),
    ("correlation_id", StringType(), False),
    ("actor", StringType(), False),
    ("traceparent", StringType(), False),
    ("data", StringType(), True),
    ("leaf_hash", FixedType(LEAF_BYTES), True),
)
SCHEMA: Final = Schema(
    *(NestedField(number, name, kind, required=needed) for number, (name, kind, needed) in enumerate(COLUMNS, 1))
)
PARTITIONS: Final = PartitionSpec(
    PartitionField(source_id=1, field_id=1000, transform=IdentityTransform(), name="tenant"),
    PartitionField(source_id=2, field_id=1001, transform=IdentityTransform(), name="event_type"),
    PartitionField(source_id=3, field_id=1002, transform=HourTransform(), name="time_hour"),
)

TIME: Final = pa.timestamp("us", tz="UTC")
_ARROW_TYPES: Final[dict[IcebergType, Any]] = {
    StringType(): pa.string(),
    LongType(): pa.int64(),
    TimestamptzType(): TIME,
}
ARROW: Final = pa.schema(
    [
        pa.field(name, _ARROW_TYPES.get(kind) or pa.binary(LEAF_BYTES), nullable=not needed)
        for name, kind, needed in COLUMNS
    ]
)


class Made(NamedTuple):
    """What a snapshot says of its making: the position, the version of the projector, the id of the generation.

    `parked` is the file with the events that wait (adapters/iceberg_parking.py), `parked_first` the first of them.
    """

    position: Position
    version: int
    generation: str
    parked: str = ""
    parked_first: int = 0

    def at(self, position: Position) -> Made:
        """The same generation, further on."""
        return self._replace(position=position)


class IcebergSettings(Protocol):
    """What the analytics need to know of an installation."""

    @property
    def iceberg_catalog_uri(self) -> str: ...
    @property
    def iceberg_warehouse(self) -> str: ...


def unavailable(err: Exception) -> ProjectionError:
    """A failure of catalog or warehouse as one line."""
    said = " ".join(str(err).split())[:200]
    if isinstance(err, FileNotFoundError):
        path = _path_in(err)
        return Inconsistent(
            f"Iceberg needs a file that is not there ({path}): see that the warehouse can be reached "
            f"(TALLY_ICEBERG_WAREHOUSE) and restore the file, or "
            f"{WRITE_AGAIN if path.endswith('.parquet') else BEGIN_ANEW}"
        )
    return SinkUnavailable(
        f"Iceberg refuses: {type(err).__name__}: {said}; see that catalog and warehouse can be reached and written "
        "(TALLY_ICEBERG_CATALOG_URI, TALLY_ICEBERG_WAREHOUSE)"
    )


def _path_in(err: FileNotFoundError) -> str:
    """What is missing: Arrow says it in words."""
    quoted = re.search(r"'(.+)'(?:\.|$)", str(err))
    return str(err.filename or (quoted.group(1) if quoted else " ".join(str(err).split())))


def require_ours(table: Table, tenant: str, made: Made | None) -> None:
    """Raise `Inconsistent` when a column is not as it must be, `ProjectionError` for a newer version's table."""
    if made is not None and made.version > analytics.VERSION:
        raise ProjectionError(
            f"{analytics.NAME} of {tenant} were made by version {made.version} of the projector, this program knows "
            f"{analytics.VERSION}; upgrade tallyroot, nothing was changed"
        )
    there = {field.name: field for field in table.schema().fields}
    for wanted in SCHEMA.fields:
        found = there.get(wanted.name)
        if found is None or (found.field_id, found.field_type) != (wanted.field_id, wanted.field_type):
            got = "is not there" if found is None else f"is {found.field_type} (field {found.field_id})"
            raise Inconsistent(
                f"table {'.'.join(table.name())}: column {wanted.name} {got}, wanted {wanted.field_type} (field "
                f"{wanted.field_id}): somebody changed it; {BEGIN_ANEW}"
            )


def open_catalog(settings: IcebergSettings) -> Catalog:
    """The catalog: of a file or database (sqlite:, postgresql:) or a REST service (http:), as its address says."""
    where = {"uri": settings.iceberg_catalog_uri, "warehouse": _warehouse(settings.iceberg_warehouse)}
    try:
        return load_catalog(CATALOG, **where)
    except Exception:  # noqa: BLE001 - two that start at once may both try to make a SQL catalog's own tables
        return load_catalog(CATALOG, **where)


def _warehouse(address: str) -> str:
    """The address as pyiceberg takes it: for a folder it does not resolve the %20 of a URI, and would make `%20`."""
    if not address.startswith("file://") or Path(address.removeprefix("file://")).exists():
        return address
    return unquote(address)


def table_name(tenant: str, generation: str = "") -> tuple[str, str]:
    """Namespace and table; a generation in the making has a table beside the live one."""
    return tenant, EVENTS if not generation else f"{EVENTS}@{generation}"


@contextmanager
def events_table(settings: IcebergSettings, tenant: str, generation: str = "") -> Iterator[Table | None]:
    """The events table of a tenant as it is now, None before the first start; raises `SinkUnavailable`."""
    try:
        with open_catalog(settings) as catalog:
            try:
                table = catalog.load_table(table_name(tenant, generation))
            except NoSuchTableError:
                table = None
            yield table
    except ProjectionError:
        raise
    except Exception as err:
        raise unavailable(err) from err


def ensure_table(settings: IcebergSettings, tenant: str, generation: str = "") -> Table:
    """The events table of a tenant, made when it is not there; raises `SinkUnavailable`."""
    name = table_name(tenant, generation)
    try:
        with ExitStack() as unless_it_succeeds:
            catalog = unless_it_succeeds.enter_context(open_catalog(settings))
            if not catalog.table_exists(name):
                _make_table(catalog, tenant, name)
            table = catalog.load_table(name)
            unless_it_succeeds.pop_all()
            return table
    except Exception as err:
        raise unavailable(err) from err


def _make_table(catalog: Catalog, tenant: str, name: tuple[str, str]) -> None:
    """Another copy may be a moment faster, which catalogs say in many ways: what counts is what is there then."""
    try:
        catalog.create_namespace(tenant)
    except Exception:
        if not catalog.namespace_exists(tenant):
            raise
    try:
        catalog.create_table(name, schema=SCHEMA, partition_spec=PARTITIONS, properties=_PROPERTIES)
    except Exception:
        if not catalog.table_exists(name):
            raise


def position_of(table: Table) -> Position | None:
    """The position in the newest snapshot that has one: maintenance may add snapshots without, events may not."""
    made = made_of(table)
    return None if made is None else made.position


def made_of(table: Table) -> Made | None:
    """What the newest snapshot with a position says, None before the first commit."""
    snapshot: Snapshot | None = table.current_snapshot()
    while snapshot is not None:
        found = snapshot.summary
        if found is not None and found[SEQ] is not None:
            position = Position(str(found[CREATED]), int(str(found[SEQ])), str(found[LEAF]))
            return Made(
                position=position,
                version=int(str(found[PROJECTION_VERSION] or 1)),
                generation=str(found[GENERATION] or ""),
                parked=str(found[PARKED] or ""),
                parked_first=int(str(found[PARKED_FIRST] or 0)),
            )
        parent = snapshot.parent_snapshot_id
        snapshot = table.snapshot_by_id(parent) if parent is not None else None
    return None


def summary_of(made: Made) -> dict[str, str]:
    """The same for a new snapshot."""
    at = made.position
    summary = {CREATED: at.stream_created, SEQ: str(at.stream_seq), LEAF: at.leaf_hash}
    summary |= {PROJECTION_VERSION: str(made.version), GENERATION: made.generation}
    return summary | ({PARKED: made.parked, PARKED_FIRST: str(made.parked_first)} if made.parked else {})
