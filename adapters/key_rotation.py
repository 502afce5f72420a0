"""Rotation as an operator does it: a new key beside the old one, told to the log; later the old one retired.

Every step can be repeated: a staged key is used again, a command that was sent is answered again, what the signer has
done already is only looked at. The signer turns by itself when it meets the event; nothing is restarted.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adapters.errors import TallyError
from adapters.sending import send_command
from adapters.settings import Settings
from domain.logkeys import ID
from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.encoding import encode_base64
from ledger.files import Folder, require
from ledger.keyevents import KEY_ADDED, KEY_RETIRED, KeyChange, approval_message, key_name
from ledger.keyfolder import (
    LOG,
    LOG_PQ_KEY,
    POLICY,
    ROLES,
    KeyStanding,
    key_names,
    list_keys,
    next_name,
    role_of,
)
from ledger.keyring import Keyring, load_keyring, open_key
from ledger.keys import KeyOpener, SigningKey, new_key, one_line, write_key
from ledger.months import ROOTS
from ledger.note import COSIGNATURE_ML_DSA_44, ED25519, VerifierKey
from ledger.policy import LogKey, parse_policy
from ledger.rotation import policy_with
from ledger.tiles import CHECKPOINT

LOOK_EVERY_S: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Turned:
    """What a rotation came to: the entry that tells it, and the first checkpoint beyond."""

    name: str
    key: VerifierKey
    leaf_index: int
    checkpoint: Checkpoint


@dataclass(frozen=True, kw_only=True)
class Place:
    """Whose keys: the tenant with its folder of keys and its published log."""

    settings: Settings
    tenant: str
    folder: Path
    log_dir: Path
    wait_s: float


def rotate(place: Place, role: str, opener: KeyOpener, reference: str | None = None) -> Turned:
    """Add the next key of a role; both sign from its entry on. Raises `TallyError` or a `LedgerError`."""
    keyring = load_keyring(place.folder, opener)
    name = _stage(place.folder, role, keyring, opener, reference)
    new = open_key(place.folder, name, opener)
    _require_fits(place.folder, ROLES[role], new.key)
    approvers = [*_current(keyring), new]
    leaf_index = _tell(place, "AddKey", KEY_ADDED, ROLES[role], new.key, approvers)
    return Turned(name=name, key=new.key, leaf_index=leaf_index, checkpoint=_wait(place, new.key, leaf_index))


def retire(place: Place, name: str, opener: KeyOpener) -> Turned:
    """Let a key end; it signs nothing beyond the entry that says so. Raises `TallyError` or a `LedgerError`."""
    standing = _standing(place.folder, name)
    if standing.first_size is None:
        raise TallyError(f"{name} is not in the policy: it signs nothing, and nothing is to be retired")
    keyring = load_keyring(place.folder, opener)
    approvers = [key for key in _current(keyring) if key.key != standing.key]
    rivals = [
        key
        for key in (approvers if standing.role == LOG else keyring.certificate_keys)
        if key.key.algorithm == ED25519 and key.key != standing.key
    ]
    if not rivals:
        raise TallyError(f"{name} is the last Ed25519 {standing.role} key: tally keys rotate {role_of(name)} first")
    leaf_index = standing.last_size
    if leaf_index is None:
        leaf_index = _tell(place, "RetireKey", KEY_RETIRED, standing.role, standing.key, approvers)
    return Turned(name=name, key=standing.key, leaf_index=leaf_index, checkpoint=_wait(place, standing.key, leaf_index))


def destroy(place: Place, name: str) -> bool:
    """Remove the private half of a retired key; False for one that is elsewhere. The public half stays for ever."""
    standing = _standing(place.folder, name)
    last, size = standing.last_size, _published(place).tree_size
    if last is None or size <= last:
        raise TallyError(f"{name} is not retired under a checkpoint: tally keys retire {name} first")
    names = Folder(place.log_dir).names(ROOTS)
    ended = [each.removesuffix(".checkpoint") for each in names if each.endswith(".checkpoint")]
    waiting = [month for month in ended if f"{month}.dsse.json" not in names]
    if standing.role != LOG and waiting:
        raise TallyError(f"{waiting[0]} waits for its certificate, which {name} may have to sign: try again later")
    files = Folder(place.folder)
    is_here = files.read(f"{name}.key") is not None
    for kind in ("key", "ref"):
        files.remove(f"{name}.{kind}")
    return is_here


def _standing(folder: Path, name: str) -> KeyStanding:
    found = {standing.name: standing for standing in list_keys(folder)}
    if name not in found:
        raise TallyError(f"{name!r} is no key of {folder}, wanted one of {', '.join(found)}")
    return found[name]


def _stage(folder: Path, role: str, keyring: Keyring, opener: KeyOpener, reference: str | None) -> str:
    """The name of a key that the policy does not know: one that an earlier try left, else a new one."""
    unknown = {one.name for one in list_keys(folder) if one.first_size is None}
    left = [name for name in key_names(folder, role) if name in unknown]
    if left:
        kept = next(one.kept for one in list_keys(folder) if one.name == left[-1])
        if reference not in {None, kept}:
            raise TallyError(f"{left[-1]} of an earlier try waits ({kept}): remove its files, or leave --at out")
        return left[-1]
    name, owner = next_name(folder, role), key_name(keyring.origin, ROLES[role])
    algorithm = COSIGNATURE_ML_DSA_44 if role == LOG_PQ_KEY else ED25519
    files = Folder(folder)
    if reference is None:
        key, seed = new_key(owner, algorithm)
        write_key(files, name, key, seed, opener.passphrase if opener.encrypts else None)
        return name
    line = one_line(folder / f"{name}.ref", f"{reference}\n".encode())
    key = VerifierKey.parse(opener.open_service(line, owner, algorithm).vkey)
    files.replace(f"{name}.ref", f"{line}\n".encode(), mode=0o600)
    files.replace(f"{name}.vkey", f"{key}\n".encode())
    return name


def _require_fits(folder: Path, role: str, key: VerifierKey) -> None:
    """That the policy can take the key, before the log is told: a told key must be obeyed."""
    change = KeyChange(KEY_ADDED, role, LogKey(key, 1, is_required=True))
    text = policy_with((folder / POLICY).read_text("utf-8"), change)
    parse_policy(f"{folder / POLICY} with {key.label}", text.encode())


def _current(keyring: Keyring) -> list[SigningKey]:
    """The log keys that have no end."""
    endless = {log.key for log in keyring.policy.logs if log.last_size_or_none is None}
    return [key for key in keyring.log_keys if key.key in endless]


def _tell(place: Place, command: str, kind: str, role: str, key: VerifierKey, approvers: list[SigningKey]) -> int:
    """Send the change with its approvals; returns the leaf index of its event."""
    message = approval_message(kind, key.name.removesuffix("/certificates"), role, key)
    approvals = [{"key": one.key.label, "signature": encode_base64(one.secret.sign(message))} for one in approvers]
    data = {"role": role, "vkey": str(key), "approvals": approvals}
    command_id = f"{kind.partition('/')[0]}-{key.key_id.hex()}"
    sending = send_command(
        place.settings, place.tenant, command, ID, data, command_id=command_id, timeout_s=place.wait_s
    )
    outcome: dict[str, Any] = asyncio.run(sending)["data"]
    if "events" not in outcome:
        raise TallyError(f"{command} of {key.label} was refused: {outcome['code']}: {outcome['message']}")
    return int(outcome["events"][0]["stream_seq"]) - 1


def _published(place: Place) -> Checkpoint:
    return parse_checkpoint(CHECKPOINT, require(Folder(place.log_dir), CHECKPOINT))[0]


def _wait(place: Place, key: VerifierKey, leaf_index: int) -> Checkpoint:
    """The first checkpoint seen that covers an entry, and with it the policy that the signer has turned."""
    deadline = time.monotonic() + place.wait_s
    while (checkpoint := _published(place)).tree_size <= leaf_index:
        if time.monotonic() > deadline:
            raise TallyError(
                f"entry {leaf_index} tells of {key.label}, and no checkpoint covers it after {place.wait_s:g} s: does "
                "the signer run, and has it this folder of keys? tally keys list shows when it has turned"
            )
        time.sleep(LOOK_EVERY_S)
    turned = next((one for one in list_keys(place.folder) if one.key == key), None)
    if turned is None or leaf_index not in {(turned.first_size or 0) - 1, turned.last_size}:
        raise TallyError(
            f"the signer has signed beyond entry {leaf_index} and has not turned {key.label}: its approvals are not "
            "good (tally audit says why), or it uses another folder of keys"
        )
    return checkpoint
