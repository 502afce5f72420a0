"""CloudEvents 1.0 bodies as bytes: commands in, events and outcomes out. Signed bytes are built here and only here.

An event's keys stand in the order of `EventEnvelope`, without spaces, UTF-8 unescaped, optional keys left out when
unset (docs/formats.md). `msgspec` writes the fields of a struct in their order, which makes the bytes canonical.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec

from bus.errors import Malformed, WireError
from bus.subjects import is_token
from bus.upcasting import UPCASTERS, Chain
from domain.catalogue import COMMANDS, EVENTS, STORED_NAMES, Command, Key
from domain.values import Line, to_ms, to_time

BODY_BYTES_MAX: Final = 65_535
JSON: Final = "application/json"
TIME_MS_MIN: Final = -2_208_988_800_000
TIME_MS_MAX: Final = 253_370_764_800_000
_CANONICAL_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
SCHEMA_PREFIX: Final = "urn:tallyroot:schema:"

_encoder: Final = msgspec.json.Encoder()


class EventEnvelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An event as it is stored and signed; the order of the fields is the order of the bytes."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    recordedtime: str
    datacontenttype: str
    dataschema: str
    tenantid: str
    aggregateversion: int
    causationid: str
    correlationid: str | None = None
    actor: str | None = None
    traceparent: str | None = None
    data: msgspec.Raw


class CommandEnvelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A command as it arrives; attributes that CloudEvents allows and we do not use are passed over."""

    specversion: str
    id: str
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    type: str
    subject: str
    time: str
    data: msgspec.Raw
    tenantid: str | None = None
    datacontenttype: str = JSON
    correlationid: Annotated[Line, msgspec.Meta(min_length=1)] | None = None
    actor: Annotated[Line, msgspec.Meta(min_length=1)] | None = None
    traceparent: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f-]{55}\Z")] | None = None


class CommandsDecided(msgspec.Struct, frozen=True, kw_only=True):
    """Data of an inbox event: which commands of the partition a batch decided, and what it refused.

    `refused` lists [command sequence, command id, code, message], `parked` [command sequence, command id, reason];
    `batch` is the id under which it was published. `refused_subjects` says to which aggregate each refused command was
    addressed, `?` to none that can be; batches of before did not tell. `last_received_ns` says when the command stream
    took the last of the commands, in nanoseconds since 1970 by its server's clock (a 64-bit number); 0 when not told.
    """

    partition: int
    first_seq: int
    last_seq: int
    accepted: int
    batch: str
    refused: tuple[tuple[int, str, str, str], ...] = ()
    parked: tuple[tuple[int, str, str], ...] = ()
    refused_subjects: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    last_received_ns: int = 0

    def refusals(self) -> Iterator[tuple[str, str, str, str]]:
        """(addressed aggregate, command id, code, message) of each refusal; the aggregate is "" when it is not told."""
        addressed = self.refused_subjects or ("",) * len(self.refused)
        for subject, (_, command_id, code, message) in zip(addressed, self.refused, strict=True):
            yield subject, command_id, code, message


COMMANDS_DECIDED: Final = "commands-decided/1"

_event_decoder: Final = msgspec.json.Decoder(EventEnvelope)
_command_decoder: Final = msgspec.json.Decoder(CommandEnvelope)
_inbox_decoder: Final = msgspec.json.Decoder(CommandsDecided)
_data_decoders: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    name: msgspec.json.Decoder(kind) for name, kind in EVENTS.items()
}
_command_decoders: Final[dict[str, tuple[str, str, msgspec.json.Decoder[Any]]]] = {
    name: (stored, aggregate, msgspec.json.Decoder(kind)) for name, (stored, aggregate, kind) in COMMANDS.items()
}
#: From every stored name that is no longer current to the one that is; a fault in it stops the start.
CHAIN: Final = Chain(UPCASTERS, {*EVENTS, COMMANDS_DECIDED, *(stored for stored, _, _ in COMMANDS.values())})


class Recorded(msgspec.Struct, eq=False, gc=False):
    """One event of the stream: its sequence, its bytes, and what they say once somebody asks."""

    stream_seq: int
    body: bytes
    gist: Any = None  # kept here by `bus.gist`
    _event: EventEnvelope | None = None
    _data: Any = None

    @property
    def event(self) -> EventEnvelope:
        """The envelope, an old version brought to the current one; raises `WireError` when the body is none."""
        if self._event is None:
            event = self._decoded()
            self._event = _upcast_event(event) if event.type in CHAIN.sources else event
        return self._event

    @property
    def stored(self) -> EventEnvelope:
        """The envelope as it was stored and signed, whatever its version."""
        return self._decoded() if CHAIN.sources else self.event

    def _decoded(self) -> EventEnvelope:
        try:
            return _event_decoder.decode(self.body)
        except msgspec.MsgspecError as err:
            message = f"event {self.stream_seq} of the stream is no event: {err}"
            raise WireError(message) from err

    @property
    def data(self) -> Any:
        """The domain event, or `CommandsDecided`; raises `WireError` for an unknown type."""
        if self._data is None:
            self._data = decode_data(self.event)
        return self._data


def decode_data(event: EventEnvelope) -> Any:
    """The value that an event's `data` holds."""
    try:
        if event.type == COMMANDS_DECIDED:
            return _inbox_decoder.decode(event.data)
        return _data_decoders[event.type].decode(event.data)
    except KeyError as err:
        message = f"event {event.id} has type {event.type!r}, which this version does not know; upgrade"
        raise WireError(message) from err
    except msgspec.MsgspecError as err:
        message = f"event {event.id} of type {event.type} has data that do not fit: {err}"
        raise WireError(message) from err


def _upcast_event(event: EventEnvelope) -> EventEnvelope:
    try:
        name, upcast = CHAIN.upcast(event.type, msgspec.json.decode(event.data))
        data = encode_data(upcast)
    except Exception as err:
        wanted = CHAIN.target(event.type)
        message = f"event {event.id} of type {event.type} cannot be upcast to {wanted}: {type(err).__name__}: {err}"
        raise WireError(message) from err
    return msgspec.structs.replace(event, type=name, dataschema=schema_of(name), data=data)


def _upcast_command(name: str, envelope: CommandEnvelope) -> CommandEnvelope:
    try:
        stored, upcast = CHAIN.upcast(envelope.type, msgspec.json.decode(envelope.data))
        data = encode_data(upcast)
    except Exception as err:
        code = "invalid-data"
        raise Malformed(code, f"data of {name} do not fit {envelope.type}: {type(err).__name__}") from err
    return msgspec.structs.replace(envelope, type=stored, data=data)


class CommandRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A readable command: who is addressed, what is asked, when it happened."""

    stream_seq: int
    id: str
    target: Key
    command: Any
    time: str
    at_ms: int
    correlationid: str | None
    actor: str | None
    traceparent: str | None


def command_id_of(body: bytes, stream_seq: int) -> str:
    """The id of a command that could not be read, as far as it can be told; else its stream sequence."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return f"seq-{stream_seq}"
    name = found.get("id") if isinstance(found, dict) else None
    return name if isinstance(name, str) and is_token(name) else f"seq-{stream_seq}"


def decode_command(tenant: str, stream_seq: int, address: tuple[str, str, str], body: bytes) -> CommandRequest:
    """The command that a body asks for; `address` is aggregate, owner and command name of its subject.

    Raises `Malformed` with the code of the refusal.
    """
    aggregate, owner, name = address
    if len(body) > BODY_BYTES_MAX:
        code = "too-large"
        raise Malformed(code, f"the body has {len(body)} bytes, at most {BODY_BYTES_MAX} are taken")
    try:
        envelope = _command_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        code = "malformed"
        raise Malformed(code, f"not a CloudEvents 1.0 command in JSON: {one_line(err)}") from err
    known = _command_decoders.get(name)
    if known is None:
        code = "unknown-command"
        raise Malformed(code, f"command {one_line(name)!r} is not known; wanted one of {', '.join(COMMANDS)}")
    stored, addressed, decoder = known
    if not is_token(owner):
        code = "invalid-id"
        raise Malformed(code, f"the id {one_line(owner)!r} of the subject is not 1 to 64 of letters, digits, '-', '_'")
    if envelope.type in CHAIN.sources:
        envelope = _upcast_command(name, envelope)
    _require_consistent(tenant, envelope, stored, addressed, (aggregate, owner, name))
    try:
        at_ms = to_ms(envelope.time)
    except (ValueError, OverflowError):
        at_ms = TIME_MS_MAX
    if not TIME_MS_MIN <= at_ms < TIME_MS_MAX:
        _refuse("malformed", "time", envelope.time, "RFC 3339 with a zone, from 1900 to 9998")
    try:
        command: Command = decoder.decode(envelope.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        code = "invalid-data"
        raise Malformed(code, f"data of {name}: {one_line(err)}") from err
    return CommandRequest(
        stream_seq=stream_seq,
        id=envelope.id,
        target=Key(aggregate, owner),
        command=command,
        time=envelope.time if _CANONICAL_TIME.fullmatch(envelope.time) else to_time(at_ms),
        at_ms=at_ms,
        correlationid=envelope.correlationid,
        actor=envelope.actor,
        traceparent=envelope.traceparent,
    )


def _require_consistent(
    tenant: str, envelope: CommandEnvelope, stored: str, addressed: str, address: tuple[str, str, str]
) -> None:
    aggregate, owner, name = address
    if not is_token(envelope.id):
        _refuse("malformed", "id", envelope.id, "1 to 64 of letters, digits, '-', '_'")
    if envelope.specversion != "1.0":
        _refuse("malformed", "specversion", envelope.specversion, "1.0")
    if aggregate != addressed:
        _refuse("unknown-command", "the aggregate of the subject", aggregate, f"{addressed} for {name}")
    if envelope.type != stored:
        _refuse("unknown-command", "type", envelope.type, f"{stored} as the subject says {name}")
    if envelope.tenantid is not None and envelope.tenantid != tenant:
        _refuse("wrong-tenant", "tenantid", envelope.tenantid, tenant)
    if envelope.subject != f"{aggregate}/{owner}":
        _refuse("malformed", "subject", envelope.subject, f"{aggregate}/{owner}")
    if envelope.datacontenttype != JSON:
        _refuse("malformed", "datacontenttype", envelope.datacontenttype, JSON)


def _refuse(code: str, what: str, got: str, wanted: str) -> None:
    raise Malformed(code, f"{what} is {one_line(got)!r}, wanted {wanted}")


def one_line(what: object) -> str:
    """At most 120 printable characters of what somebody else wrote."""
    text = str(what)[:120]
    return "".join(c if c.isprintable() else "?" for c in text)


def encode_event(envelope: EventEnvelope) -> bytes:
    """The bytes that are stored, hashed and signed."""
    return _encoder.encode(envelope)


def encode_data(data: Any) -> msgspec.Raw:
    """An event's or a command's data as compact JSON."""
    return msgspec.Raw(_encoder.encode(data))


class EventWriter:
    """Writes the events of one batch: `encode_event` without a struct for each, on the path of every event.

    Everything but the optional attributes and the data is of our own making and needs no escaping: tokens, times,
    numbers. What depends on the type alone is put together once. A test holds that the bytes are those of
    `encode_event`.
    """

    def __init__(self, tenant: str, recorded_time: str) -> None:
        self._source = source_of(tenant)
        self._tenant = tenant
        self._recorded_time = recorded_time
        self._parts: dict[type, tuple[str, str, str]] = {}

    def body(
        self, event_id: str, subject: str, version: int, event: Any, time: str, causation_id: str, optional: str = ""
    ) -> tuple[str, bytes]:
        """Stored name and bytes of one event; `subject` is `<aggregate>/<id>`, `optional` of `optional_attributes`."""
        name, after_id, after_time = self._parts.get(type(event)) or self._parts_of(event)
        head = (
            f'{{"specversion":"1.0","id":"{event_id}{after_id}{subject}","time":"{time}{after_time}{version},'
            f'"causationid":"{causation_id}"{optional},"data":'
        )
        return name, b"".join((head.encode(), _encoder.encode(event), b"}"))

    def _parts_of(self, event: Any) -> tuple[str, str, str]:
        """The stored name, and what stands between id and subject, and between time and version."""
        name = stored_name(event)
        after_id = f'","source":"{self._source}","type":"{name}","subject":"'
        after_time = (
            f'","recordedtime":"{self._recorded_time}","datacontenttype":"application/json",'
            f'"dataschema":"{schema_of(name)}","tenantid":"{self._tenant}","aggregateversion":'
        )
        self._parts[type(event)] = name, after_id, after_time
        return name, after_id, after_time


def optional_attributes(correlation_id: str | None, actor: str | None, traceparent: str | None) -> str:
    """The attributes that a sender may set, as they stand between `causationid` and `data`."""
    if correlation_id is None and actor is None and traceparent is None:
        return ""
    named = (("correlationid", correlation_id), ("actor", actor), ("traceparent", traceparent))
    return "".join(f',"{name}":{_encoder.encode(value).decode()}' for name, value in named if value is not None)


@lru_cache(maxsize=256)
def schema_of(stored_name: str) -> str:
    """The `dataschema` of a stored name: `xp-awarded/1` -> `urn:tallyroot:schema:xp-awarded:1`."""
    return SCHEMA_PREFIX + stored_name.replace("/", ":")


def stored_name(event: object) -> str:
    """The name under which an event of the domain, or an inbox event, is stored."""
    return COMMANDS_DECIDED if isinstance(event, CommandsDecided) else STORED_NAMES[type(event)]


def source_of(tenant: str) -> str:
    """The CloudEvents source of everything that a tenant's ledger says."""
    return f"//tallyroot/{tenant}"
