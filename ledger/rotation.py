"""Rotation by the signer: an approved key event takes effect before the first checkpoint that covers it is signed.

Order: tiles durable -> last checkpoint of a retired key kept -> policy with the new ranges -> signature. A crash in
between finds the policy ahead of the log; the same entries come again and say the same, or nothing is signed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ledger.checkpoint import parse_checkpoint
from ledger.errors import HistoryForked, LedgerError, WrongUse
from ledger.events import type_of
from ledger.files import Folder
from ledger.keyevents import KEY_ADDED, KEY_EVENTS, KeyChange, KeyHistory, policy_keys
from ledger.keyfolder import LOG, POLICY, key_names, name_of
from ledger.keyring import Keyring, open_key
from ledger.keys import read_public
from ledger.policy import OpenedCheckpoint, Policy, parse_policy


def turns_within(policy: Policy, start: int, end: int) -> bool:
    """Whether a range of the policy begins or ends at an entry in `[start, end)`."""
    ranges = (*policy.logs, *policy.certificates)
    return any(start < ranged.first_size <= end or start <= ranged.last_size < end for ranged in ranges)


def turn_keys(keyring: Keyring, entries: Iterable[tuple[int, bytes]], signed: OpenedCheckpoint) -> Keyring:
    """The keyring after these entries, its policy durable; entries without approval are passed over.

    Raises `WrongUse` when the private half of an added key is missing, and `HistoryForked` when the policy was turned
    by events that are not there.
    """
    history = KeyHistory(keyring.origin, policy_keys(keyring.policy, keyring.origin))
    changes: dict[int, KeyChange] = {}
    last = start = signed.checkpoint.tree_size
    for leaf_index, entry in entries:
        last = leaf_index + 1
        if type_of(entry) not in KEY_EVENTS:
            continue
        try:
            changes[leaf_index] = history.take(leaf_index, entry)
        except WrongUse:  # this build of `cryptography` cannot tell whether it is approved
            raise
        except LedgerError:
            continue
    _require_told(keyring.policy, changes, start, last)
    for change in changes.values():
        keyring = _turned(keyring, change, signed)
    return keyring


def _require_told(policy: Policy, changes: dict[int, KeyChange], start: int, end: int) -> None:
    """Every turn of the policy among the entries `[start, end)` is told by the entry where it happens."""
    for ranged in (*policy.logs, *policy.certificates):
        for leaf_index in (ranged.first_size - 1, ranged.last_size):
            told = changes.get(leaf_index)
            if start <= leaf_index < end and (told is None or told.ranged.key != ranged.key):
                raise HistoryForked(
                    f"entry {leaf_index}: nothing was signed",
                    expected=f"the event that added or retired {ranged.key.label}, as the policy was turned by it",
                    found="another entry: the event stream lost or changed events",
                )


def _turned(keyring: Keyring, change: KeyChange, signed: OpenedCheckpoint) -> Keyring:
    ranged, folder = change.ranged, keyring.folder
    files = Folder(folder)
    name = name_of(folder, ranged.key)
    if change.kind == KEY_ADDED and name is None:
        raise WrongUse(
            f"{folder}: the log adds the key {ranged.key.label} from size {ranged.first_size} on, and it is not here: "
            "put its .vkey, and its .key or .ref, there"
        )
    if change.kind != KEY_ADDED and name is not None and files.read(f"{name}.last-checkpoint") is None:
        files.replace(f"{name}.last-checkpoint", signed.note)
    text = (folder / POLICY).read_bytes().decode()
    turned = policy_with(text, change)
    policy = parse_policy(str(folder / POLICY), turned.encode())
    signers = keyring.log_keys if change.role == LOG else keyring.certificate_keys
    if change.kind == KEY_ADDED and name is not None and ranged.key not in {key.key for key in signers}:
        signers = (*signers, open_key(folder, name, keyring.opener))
    if turned != text:
        files.replace(POLICY, turned.encode())
    if change.role == LOG:
        return replace(keyring, log_keys=signers, policy=policy)
    return replace(keyring, certificate_keys=signers, policy=policy)


def policy_with(text: str, change: KeyChange) -> str:
    """The text of a policy after a key was added or retired; what others wrote into it stays. Idempotent."""
    ranged, lines = change.ranged, text.split("\n")
    words = [line.split() for line in lines]
    begins = ["log"] if change.role == LOG else ["#", "tally-certificate"]
    places = [number for number, found in enumerate(words) if found[: len(begins)] == begins]
    at = next((number for number in places if words[number][len(begins)] == str(ranged.key)), None)
    last = "-" if ranged.last_size_or_none is None else ranged.last_size
    range_line = f"# tally-range {ranged.key.key_id.hex()} {ranged.first_size} {last}"
    if at is None:
        place = places[-1] + 1
        lines[place:place] = [range_line, " ".join([*begins, str(ranged.key)])]
        return "\n".join(lines)
    marked = ["#", "tally-range", ranged.key.key_id.hex()]
    before = next((number for number, found in enumerate(words) if found[:3] == marked), None)
    if before is None:
        lines.insert(at, range_line)
    else:
        lines[before] = range_line
    return "\n".join(lines)


def require_current_policy(keyring: Keyring, signed: OpenedCheckpoint) -> None:
    """That no key signed which the policy does not know: such a policy is older than the log. Raises `WrongUse`."""
    _, note = parse_checkpoint("checkpoint", signed.note)
    known = {log.key for log in keyring.policy.logs}
    for name in key_names(keyring.folder):
        key = read_public(keyring.folder / f"{name}.vkey")
        if key not in known and note.by(key):
            raise WrongUse(
                f"{keyring.folder / POLICY}: restore the newer one",
                expected=f"a log line for {key.label}, which signed {signed.checkpoint}",
                found="none",
            )
