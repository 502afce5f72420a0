"""One page for people about a closed month: what its certificate says, how to check it, where to sign; one A4.

The page follows from the certificate and the time stamps, byte for byte, so that an export's page can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from html import escape
from typing import Final

from ledger.months import MonthStatement, month_bounds
from ledger.timestamps import TimeStamp

VERSION: Final = "tallyroot attestation v1"
TYPES_SHOWN_MAX: Final = 16
STAMPS_SHOWN_MAX: Final = 4
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_STATEMENT: Final = (
    "Whoever runs this log states that the events which it recorded in this month are fixed by the number below. "
    "Nobody can change, remove or add one afterwards without changing this number."
)
_STYLE: Final = """
@page { size: A4; margin: 14mm 16mm; }
* { box-sizing: border-box; }
body { font: 9.5pt/1.4 Georgia, "Liberation Serif", serif; color: #111; background: #fff; max-width: 178mm;
  margin: 0 auto; padding: 6mm 0; }
@media print { body { padding: 0; } }
h1 { font-size: 19pt; font-weight: normal; margin: 0; }
h2 { font-size: 8.5pt; font-weight: bold; letter-spacing: .06em; text-transform: uppercase; margin: 4mm 0 1mm;
  border-bottom: .3mm solid #111; }
p { margin: 0 0 1.5mm; }
.origin { color: #555; margin: 0 0 3mm; overflow-wrap: anywhere; }
.root { font: 12pt/1.5 "Liberation Mono", monospace; border: .4mm solid #111; padding: 2mm 3mm; margin: 1.5mm 0;
  display: grid; grid-template-columns: repeat(4, auto); justify-content: start; column-gap: 2ch; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3mm 3mm .3mm 0; font-weight: normal;
  overflow-wrap: anywhere; }
th { width: 36mm; color: #555; }
.types { columns: 2; column-gap: 8mm; }
.types div { display: flex; justify-content: space-between; border-bottom: .1mm dotted #999; break-inside: avoid; }
code { font: 8pt/1.35 "Liberation Mono", monospace; overflow-wrap: anywhere; }
.sign { display: flex; gap: 8mm; margin-top: 11mm; }
.sign div { flex: 1; border-top: .2mm solid #111; padding-top: 1mm; color: #555; font-size: 8pt; }
"""


def render_attestation(statement: MonthStatement, stamps: Mapping[str, tuple[bytes, TimeStamp]]) -> bytes:
    """A self-contained HTML page; `stamps` by authority: the response, and what it states."""
    first, end = statement.opening.tree_size, statement.closing.tree_size
    begin, until = month_bounds(statement.month)
    name = f"{_MONTHS[int(statement.month[5:]) - 1]} {statement.month[:4]}"
    leaves = f"entries {first} to {end - 1}" if first < end else "no entry"
    root = statement.closing_root.hex()
    groups = [f"<span>{root[at : at + 8]}</span>" for at in range(0, len(root), 8)]
    rows = [
        ("Period", f"{begin} up to, not including, {until}, by the clock of the signer"),
        ("Events", f"{end - first:,} ({leaves} of the log)"),
        ("Size of the log", f"{first:,} at the beginning, {end:,} at the end"),
        ("Chain head", statement.closing.link.hex()),
        ("Certificate", f"SHA-256 of its statement {statement.digest}"),
        ("Certificate before", statement.previous_digest or "none: this is the first month of the log"),
        ("Subjects", f"{statement.index.subjects:,}" if statement.index is not None else "not counted"),
        ("Policy of the signer", f"SHA-256 {statement.policy_digest}"),
    ]
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="{VERSION}">',
        f"<title>Monthly root of {escape(name)}, {escape(statement.origin)}</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>Monthly root, {escape(name)}</h1>",
        f'<p class="origin">Log {escape(statement.origin)}</p>',
        f"<p>{_STATEMENT}</p>",
        f'<div class="root">{"".join(groups)}</div>',
        f"<h2>What was certified</h2>{_table(rows)}",
        f"<h2>Events by type</h2>{_types(statement.counts)}",
        f"<h2>Time stamps of the closing checkpoint</h2>{_stamps(stamps)}",
        f"<h2>How to check it</h2>{_checks(statement, stamps)}",
        '<div class="sign"><div>Name and office</div><div>Place and date</div><div>Signature</div></div>',
        "</body></html>",
    ]
    return "\n".join(parts).encode() + b"\n"


def _table(rows: list[tuple[str, str]]) -> str:
    lines = [f"<tr><th>{escape(name)}</th><td>{_value(value)}</td></tr>" for name, value in rows]
    return f"<table>{''.join(lines)}</table>"


def _value(text: str) -> str:
    return f"<code>{escape(text)}</code>" if len(text.rpartition(" ")[2]) == 2 * sha256().digest_size else escape(text)


def _types(counts: Mapping[str, int]) -> str:
    if not counts:
        return "<p>None: the month is empty.</p>"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown, rest = ordered[:TYPES_SHOWN_MAX], ordered[TYPES_SHOWN_MAX:]
    if rest:
        shown.append((f"{len(rest)} more types", sum(count for _, count in rest)))
    lines = [f"<div><span>{escape(_short(name))}</span><span>{count:,}</span></div>" for name, count in shown]
    return f'<div class="types">{"".join(lines)}</div>'


def _stamps(stamps: Mapping[str, tuple[bytes, TimeStamp]]) -> str:
    if not stamps:
        return "<p>None when this page was written.</p>"
    ordered = sorted(stamps.items())
    rows = [
        (name, f"states {stamp.at:%Y-%m-%d %H:%M:%S} UTC; response with SHA-256 {sha256(response).hexdigest()}")
        for name, (response, stamp) in ordered[:STAMPS_SHOWN_MAX]
    ]
    if len(ordered) > STAMPS_SHOWN_MAX:
        rows.append(("and more", f"{len(ordered) - STAMPS_SHOWN_MAX}"))
    return _table(rows)


def _checks(statement: MonthStatement, stamps: Mapping[str, tuple[bytes, TimeStamp]]) -> str:
    month = statement.month
    stamped = next(iter(sorted(stamps)), "AUTHORITY")
    return (
        "<p>This page proves nothing by itself: the files beside it do. Take the policy, which names the keys whose "
        "signatures count, from somebody whom you trust, never from whoever gave you the files.</p>"
        "<p><code>tally verify EXPORT --policy POLICY</code> checks signatures, consistency, counts, time stamps and "
        "this page; "
        f"<code>openssl ts -verify -data {month}.checkpoint -in {month}.{escape(stamped)}.tsr -CAfile CA.pem</code> "
        "a time stamp. Any tool for DSSE, RFC 3161 or C2SP checkpoints reads them too.</p>"
    )


def _short(text: str) -> str:
    return text if len(text) <= 48 else f"{text[:47]}…"
