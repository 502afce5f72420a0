"""`tally replay`: aggregates as they were at any past sequence or moment, folded from their events."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from adapters.errors import TallyError
from adapters.jetstream.connection import connect
from adapters.jetstream.past import History, View
from adapters.settings import Settings
from adapters.which_tenant import which_tenant
from bus.envelope import Recorded
from bus.timetravel import Moment, Past, parse_at, parse_keys
from domain.catalogue import Key
from domain.values import to_time

HELP = "any player, quest or account as it was at a past sequence or moment"
SHOWN_DEFAULT: Final = 20
SHOWN_MAX: Final = 1_000_000
_CIPHERTEXT: Final = "ciphertext"


def configure(parser: argparse.ArgumentParser) -> None:
    """`AGGREGATE/ID [more...] --at SEQ|RFC3339`."""
    parser.epilog = (
        "examples:\n"
        "  tally replay player/b19                                   as it is now\n"
        "  tally replay player/b19 token/b19 --at 40213              both after event 40213 of the stream\n"
        "  tally replay quest/boston-2014 --at 2026-11-21T10:00:00Z  after the last event recorded by then\n\n"
        "A moment is compared with recordedtime, which is signed with each event; the sequence is found by halving.\n"
        "Several aggregates are shown at one sequence: together they are a state that the ledger really had."
    )
    parser.add_argument(
        "aggregates", metavar="AGGREGATE/ID", nargs="+", help="player/ID, token/ID, quest/ID or inbox/PARTITION"
    )
    parser.add_argument("--at", metavar="SEQ|TIME", help="stream sequence, or RFC 3339 time (default: the latest)")
    parser.add_argument(
        "-n", type=int, default=SHOWN_DEFAULT, metavar="EVENTS", help=f"show the newest so many ({SHOWN_DEFAULT})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the state of each aggregate and the events that led to it."""
    keys = parse_keys(args.aggregates)
    at = None if args.at is None else parse_at(args.at)
    if not 0 <= args.n <= SHOWN_MAX:
        raise TallyError(f"-n is {args.n}, wanted 0 to {SHOWN_MAX}")
    settings = Settings.load(args.data, need=("nats_url",))
    tenant = which_tenant(settings, args.tenant)
    view, pasts = asyncio.run(_read(settings.nats_url, tenant, keys, at, args.n))
    print(msgspec.json.encode(as_data(view, pasts)).decode() if args.json else "\n".join(as_text(view, pasts, at)))
    return 0


async def _read(
    url: str, tenant: str, keys: Sequence[Key], at: int | Moment | None, shown_max: int
) -> tuple[View, list[Past]]:
    client = await connect(url, "tally-replay")
    try:
        history = History(client, tenant)
        view = await history.view(at, time.time_ns() // 1_000_000)
        return view, await history.pasts(keys, view, shown_max)
    finally:
        await client.close()


def as_data(view: View, pasts: Sequence[Past]) -> dict[str, Any]:
    """What `--json` prints; `events` are the stored bodies."""
    return {
        "tenant": view.tenant,
        "stream_seq": view.stream_seq,
        "stream_last_seq": view.stream_last_seq,
        "recordedtime": view.last.event.recordedtime,
        "is_cut": view.is_cut,
        "aggregates": [
            {
                "aggregate": f"{past.key.aggregate}/{past.key.id}",
                "version": past.version,
                "stream_seq": past.stream_seq,
                "state": _plain(past.state),
                "events": [{"stream_seq": one.stream_seq, "event": msgspec.Raw(one.body)} for one in past.shown],
            }
            for past in pasts
        ],
    }


def as_text(view: View, pasts: Sequence[Past], at: int | Moment | None) -> Iterator[str]:
    """The lines for people."""
    recorded = view.last.event.recordedtime
    yield f"{view.tenant} at #{view.stream_seq:,} of {view.stream_last_seq:,}, recorded {recorded}"
    if isinstance(at, Moment):
        later = "no later event" if view.following is None else f"the next one {view.following.event.recordedtime}"
        yield f"the last event recorded by {at.text}; {later}"
    if view.is_cut:
        command = view.last.event.causationid
        yield f"note: command {command} has more events behind #{view.stream_seq:,}: its transaction is cut here"
    for past in pasts:
        yield ""
        yield from _past(past)


def _past(past: Past) -> Iterator[str]:
    name = f"{past.key.aggregate}/{past.key.id}"
    if past.version == 0:
        yield f"{name}: did not exist yet" + (f", its first event is #{past.first_seq:,}" if past.first_seq else "")
        return
    yield f"{name}: version {past.version}, last event #{past.stream_seq:,}"
    hidden = past.version - len(past.shown)
    if hidden:
        yield f"  ({hidden:,} earlier events; -n shows more)"
    yield from (_event(record) for record in past.shown)
    yield "  state"
    yield from _lines(_plain(past.state), "    ")


def _event(record: Recorded) -> str:
    event = record.event
    data = " ".join(_flat(msgspec.json.decode(event.data)))
    return f"  #{record.stream_seq:<8,} v{event.aggregateversion:<4} {event.time}  {event.type:<20} {data}".rstrip()


def _flat(value: Any, name: str = "") -> Iterator[str]:
    """`name=value` for each leaf; ciphertext only by its length, text without what a terminal would obey."""
    match value:
        case {"ciphertext": str(hidden)}:
            yield f"{name}=({_CIPHERTEXT}, {len(hidden)} characters)"
        case dict():
            for key, inner in value.items():
                yield from _flat(inner, f"{name}.{key}" if name else key)
        case [dict(), *_] | [list(), *_]:
            for at, inner in enumerate(value):
                yield from _flat(inner, f"{name}[{at}]")
        case str() if " " in value or '"' in value:
            yield f"{name}={json.dumps(_shown(value), ensure_ascii=False)}"
        case _:
            yield f"{name}={_shown(value)}"


def _lines(state: dict[str, Any], indent: str) -> Iterator[str]:
    for name, value in state.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        elif name.endswith("_at_ms") and name.removesuffix("_ms") in state:
            continue  # the same moment stands there as it was written
        elif name.endswith("_at_ms") and isinstance(value, int):
            yield f"{indent}{name.removesuffix('_ms')}: {to_time(value)}"
        else:
            yield f"{indent}{name}: {_shown(value)}"


def _shown(value: Any) -> str:
    match value:
        case None | [] | {}:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(_shown(item) for item in value)
        case _:
            return "".join(c if c.isprintable() else "?" for c in str(value))


def _plain(state: Any) -> dict[str, Any]:
    """A state as plain values, sets in their order."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(state, order="deterministic"))
    return plain
