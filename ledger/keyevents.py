r"""The log tells of its own keys: `key-added/1` and `key-retired/1` on the subject `ledger/keys`.

The entry at leaf index i adds a key: it signs every tree size from i + 1 on. The entry at leaf index i retires one: i
is the last size that it signs. Either counts only when it is approved: signed by a log key that is valid at size i and
is not the key in question, and `key-added/1` by the new key too. An entry without approval counts for nothing.

Approvals are bare signatures (Ed25519 or ML-DSA-44) over

    tallyroot.example/<key-added or key-retired>/v1\n
    <origin>\n
    <log or certificate>\n
    <vkey>\n

which is neither a checkpoint (its second line is no size), nor a DSSE envelope, nor a cosignature.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from ledger.encoding import SIZE_MAX, decode_base64, decode_json
from ledger.errors import EventRefused, LedgerError, WrongUse, excerpt
from ledger.events import subject_of
from ledger.keyfolder import CERTIFICATE, LOG
from ledger.note import COSIGNATURE_ML_DSA_44, ED25519, VerifierKey
from ledger.policy import LogKey, Policy
from ledger.primitives import is_ed25519_signature, is_ml_dsa_44_signature

KEY_ADDED: Final = "key-added/1"
KEY_RETIRED: Final = "key-retired/1"
KEY_EVENTS: Final = (KEY_ADDED, KEY_RETIRED)
KEYS_SUBJECT: Final = "ledger/keys"
_ALGORITHMS: Final = {LOG: (ED25519, COSIGNATURE_ML_DSA_44), CERTIFICATE: (ED25519,)}


def key_name(origin: str, role: str) -> str:
    """The name of every key of a role, for ever: the origin, and one below it for certificates."""
    return origin if role == LOG else f"{origin}/certificates"


def approval_message(kind: str, origin: str, role: str, key: VerifierKey) -> bytes:
    """What is signed to approve that a key is added or retired."""
    return f"tallyroot.example/{kind.partition('/')[0]}/v1\n{origin}\n{role}\n{key}\n".encode()


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """An entry that adds or retires a key; `approvals` are labels of keys with their signatures."""

    what: str
    kind: str
    role: str
    key: VerifierKey
    approvals: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class KeyChange:
    """An approved event: the key with the sizes that it signs from now on."""

    kind: str
    role: str
    ranged: LogKey


def parse_key_event(leaf_index: int, entry: bytes, origin: str) -> KeyEvent:
    """Read an entry of one of the two types; raises `EventRefused`, `KeyRefused` or `Malformed`."""
    event = decode_json(f"entry {leaf_index}", entry)
    kind, data = event["type"], event["data"]
    what = f"entry {leaf_index}, {kind}"
    if subject_of(entry) != KEYS_SUBJECT:
        raise EventRefused(f"{what}, subject", expected=KEYS_SUBJECT, found=excerpt(subject_of(entry)))
    try:
        role, vkey, approvals = data["role"], data["vkey"], data["approvals"]
        signatures = tuple((str(one["key"]), decode_base64(what, one["signature"])) for one in approvals)
    except (KeyError, TypeError) as err:
        raise EventRefused(what, expected="role, vkey and approvals", found=f"{type(err).__name__}: {err}") from err
    key = VerifierKey.parse(_text(what, vkey))
    if role not in _ALGORITHMS or key.algorithm not in _ALGORITHMS[role] or key.name != key_name(origin, role):
        raise EventRefused(
            f"{what} of {key.label}",
            expected=f"a log key named {origin} or an Ed25519 certificate key named {key_name(origin, CERTIFICATE)}",
            found=f"role {excerpt(role)}, type 0x{key.algorithm:02x}",
        )
    return KeyEvent(what, kind, role, key, signatures)


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise EventRefused(what, expected="a vkey as text", found=type(value).__name__)
    return value


class KeyHistory:
    """The keys of a log as its entries tell of them, one after another."""

    def __init__(self, origin: str, keys: Iterable[tuple[str, LogKey]]) -> None:
        """Begin with keys that are known already: role and range of each."""
        self._origin = origin
        self._standing = {ranged.key.label: (role, ranged) for role, ranged in keys}

    def ranged(self, key: VerifierKey) -> LogKey | None:
        """How a key stands, None when it was never added."""
        found = self._standing.get(key.label)
        return found[1] if found else None

    def take(self, leaf_index: int, entry: bytes) -> KeyChange:
        """What an entry changes; raises a `LedgerError` that says why it counts for nothing."""
        event = parse_key_event(leaf_index, entry, self._origin)
        approved_by = self._approvers(leaf_index, event)
        others = [label for label in approved_by if label != event.key.label]
        if event.kind == KEY_ADDED and event.key.label not in approved_by:
            raise _unapproved(event, f"a signature by {event.key.label} itself", approved_by)
        if not others:
            raise _unapproved(event, f"a signature by another log key that is valid at size {leaf_index}", approved_by)
        ranged = self._added(leaf_index, event) if event.kind == KEY_ADDED else self._retired(leaf_index, event)
        self._standing[event.key.label] = (event.role, ranged)
        return KeyChange(event.kind, event.role, ranged)

    def _approvers(self, leaf_index: int, event: KeyEvent) -> list[str]:
        message = approval_message(event.kind, self._origin, event.role, event.key)
        found = []
        for label, signature in event.approvals:
            role, ranged = self._standing.get(label, ("", None))
            if label == event.key.label:
                key = event.key
            elif role == LOG and ranged is not None and ranged.covers(leaf_index):
                key = ranged.key
            else:
                continue
            is_good = is_ml_dsa_44_signature if key.algorithm == COSIGNATURE_ML_DSA_44 else is_ed25519_signature
            if not is_good(key.public, signature, message):
                raise EventRefused(
                    f"{event.what} of {event.key.label}", expected=f"a good signature by {label}", found="a bad one"
                )
            found.append(label)
        return found

    def _added(self, leaf_index: int, event: KeyEvent) -> LogKey:
        known = self.ranged(event.key)
        if known is not None and known.first_size != leaf_index + 1:
            raise EventRefused(
                f"{event.what} of {event.key.label}", expected="a key that was not there before", found=_sizes(known)
            )
        if any(ranged.key.public == event.key.public and ranged.key != event.key for ranged in self._all()):
            raise EventRefused(f"{event.what} of {event.key.label}", expected="a key of its own", found="another's")
        return known or LogKey(event.key, leaf_index + 1, is_required=True)

    def _retired(self, leaf_index: int, event: KeyEvent) -> LogKey:
        known = self.ranged(event.key)
        if known is None or not known.covers(leaf_index):
            raise EventRefused(
                f"{event.what} of {event.key.label}",
                expected=f"a key that is valid at size {leaf_index}",
                found="none" if known is None else _sizes(known),
            )
        remaining = [
            ranged
            for role, ranged in self._standing.values()
            if role == event.role and ranged.key != event.key and ranged.key.algorithm == ED25519
            if ranged.covers(leaf_index + 1)
        ]
        if not remaining:
            raise EventRefused(
                f"{event.what} of {event.key.label}", expected=f"another Ed25519 {event.role} key", found="none"
            )
        return replace(known, last_size=leaf_index, is_required=True)

    def _all(self) -> list[LogKey]:
        return [ranged for _, ranged in self._standing.values()]


def _unapproved(event: KeyEvent, expected: str, approved_by: list[str]) -> EventRefused:
    found = ", ".join(approved_by) or "none by a known key"
    return EventRefused(f"{event.what} of {event.key.label}", expected=expected, found=found)


def _sizes(ranged: LogKey) -> str:
    return f"sizes {ranged.first_size} to {ranged.last_size_or_none or 'now'}"


def policy_keys(policy: Policy, origin: str) -> list[tuple[str, LogKey]]:
    """Role and range of every key that a policy names for a log."""
    found = [(LOG, ranged) for ranged in policy.logs] + [(CERTIFICATE, ranged) for ranged in policy.certificates]
    return [(role, ranged) for role, ranged in found if ranged.key.name == key_name(origin, role)]


def check_key_events(
    policy: Policy, origin: str, tree_size: int, entries: Iterable[tuple[int, bytes]]
) -> tuple[str, ...]:
    """Compare a policy's ranges with all key events of a log, in order; returns what an auditor should know.

    Keys from size 0 on are the policy's own word. Every other beginning and every end before `tree_size` must be that
    of an approved event, and every approved end must be in the policy. Raises `EventRefused` naming what differs.
    """
    listed = policy_keys(policy, origin)
    roots = [(role, replace(ranged, last_size=SIZE_MAX)) for role, ranged in listed if not ranged.first_size]
    history = KeyHistory(origin, roots)
    nothing: dict[int, LedgerError] = {}
    added: list[LogKey] = []
    for leaf_index, entry in entries:
        try:
            change = history.take(leaf_index, entry)
        except WrongUse:  # this build of `cryptography` cannot tell
            raise
        except LedgerError as err:
            nothing[leaf_index] = err
        else:
            added += [change.ranged] if change.kind == KEY_ADDED else []
    for _, ranged in listed:
        _compare(ranged, history.ranged(ranged.key), tree_size, nothing)
    known = {ranged.key for _, ranged in listed}
    newer = [one for one in added if one.key not in known]
    older = (f"{one.key.label} signs from size {one.first_size} on: this policy is older" for one in newer)
    return (*older, *(f"an entry that counts for nothing: {err}" for err in nothing.values()))


def _compare(listed: LogKey, told: LogKey | None, tree_size: int, nothing: dict[int, LedgerError]) -> None:
    what, first, last = f"policy, key {listed.key.label}", listed.first_size, listed.last_size
    if 0 < first <= tree_size and (told is None or told.first_size != first):
        found = f"one from size {told.first_size} on" if told else str(nothing.get(first - 1, "none"))
        expected = f"an approved {KEY_ADDED} in entry {first - 1}, as it signs from size {first} on"
        raise EventRefused(what, expected=expected, found=found)
    told_last = SIZE_MAX if told is None else told.last_size
    if last < tree_size and told_last != last:
        found = "none" if told_last == SIZE_MAX else f"one in entry {told_last}"
        reason = nothing.get(last, found)
        raise EventRefused(what, expected=f"an approved {KEY_RETIRED} in entry {last}, its last size", found=reason)
    if told_last < tree_size and last != told_last:
        raise EventRefused(
            f"{what}: the policy is older than the log: ask for the new one",
            expected=f"the last size {told_last}, as entry {told_last} retires it",
            found="no end" if last == SIZE_MAX else last,
        )
