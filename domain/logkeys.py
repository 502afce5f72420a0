"""Log keys: what the log tells of the keys that sign it. One aggregate for each tenant, with the one id `keys`.

Whether an approval is good is for those who read the log to check (ledger/keyevents.py): signatures are no rule of the
domain. Here is decided that each key comes once and goes once.
"""

from __future__ import annotations

from typing import Annotated, Literal, assert_never

import msgspec

from domain.errors import InvalidData, KeyExists, KeyIsRetired

# -- names as stored --------------------------------------------------------------------------------------------------

KEY_ADDED = "key-added/1"
KEY_RETIRED = "key-retired/1"

ADD_KEY = "add-key/1"
RETIRE_KEY = "retire-key/1"

#: The id of the aggregate; a tenant has one log.
ID = "keys"

# -- parts ------------------------------------------------------------------------------------------------------------

#: Name and key ID of a key, `log.example.org/boston+be9f554b`.
Label = Annotated[str, msgspec.Meta(pattern=r"^[^\s+]+\+[0-9a-f]{8}\Z", max_length=300)]
#: A public key as in a policy: its label, `+`, base64 of type and key.
VKey = Annotated[str, msgspec.Meta(pattern=r"^[^\s+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/]+={0,2}\Z", max_length=4096)]
Role = Literal["log", "certificate"]


class Approval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signature by a key of the log over the change (docs/formats.md)."""

    key: Label
    signature: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]+={0,2}\Z", max_length=4096)]


Approvals = Annotated[tuple[Approval, ...], msgspec.Meta(min_length=1, max_length=8)]

# -- events -----------------------------------------------------------------------------------------------------------


class KeyAdded(msgspec.Struct, frozen=True, kw_only=True):
    """The key signs every tree size beyond this entry, if the approvals are good."""

    role: Role
    vkey: VKey
    approvals: tuple[Approval, ...]


class KeyRetired(msgspec.Struct, frozen=True, kw_only=True):
    """The key signs nothing beyond this entry, if an approval is good."""

    role: Role
    vkey: VKey
    approvals: tuple[Approval, ...]


KeyEvent = KeyAdded | KeyRetired

# -- commands ---------------------------------------------------------------------------------------------------------


class AddKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bring a new key into the log, approved by itself and by a key that signs the log now."""

    role: Role
    vkey: VKey
    approvals: Approvals


class RetireKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let a key end, approved by another key that signs the log now."""

    role: Role
    vkey: VKey
    approvals: Approvals


KeyCommand = AddKey | RetireKey

# -- state ------------------------------------------------------------------------------------------------------------


class KeysState(msgspec.Struct, frozen=True, kw_only=True):
    """Labels of the keys that were added and retired; keys from the beginning of the log were never added."""

    added: frozenset[str] = frozenset()
    retired: frozenset[str] = frozenset()


INITIAL = KeysState()

# -- evolve -----------------------------------------------------------------------------------------------------------


def evolve(state: KeysState, event: KeyEvent) -> KeysState:
    """The state after the event."""
    match event:
        case KeyAdded():
            return msgspec.structs.replace(state, added=state.added | {label_of(event.vkey)})
        case KeyRetired():
            return msgspec.structs.replace(state, retired=state.retired | {label_of(event.vkey)})
        case _:
            assert_never(event)


# -- decide -----------------------------------------------------------------------------------------------------------


def decide(command: KeyCommand, state: KeysState, owner: str) -> tuple[KeyEvent, ...]:
    """What follows from the command; raises `Refused` when a rule says no."""
    if owner != ID:
        message = f"the keys of a log have the id {ID}, this names {owner}"
        raise InvalidData(message)
    label = label_of(command.vkey)
    if label in state.retired:
        raise KeyIsRetired(label)
    others = [approval.key for approval in command.approvals if approval.key != label]
    if not others:
        message = f"the change of {label} is approved by no other key; a key that signs the log now must approve it"
        raise InvalidData(message)
    match command:
        case AddKey():
            if label in state.added:
                raise KeyExists(label)
            if len(others) == len(command.approvals):
                message = f"the addition of {label} is not approved by that key itself: it shows who has it"
                raise InvalidData(message)
            return (KeyAdded(role=command.role, vkey=command.vkey, approvals=command.approvals),)
        case RetireKey():
            return (KeyRetired(role=command.role, vkey=command.vkey, approvals=command.approvals),)
        case _:
            assert_never(command)


def label_of(vkey: str) -> str:
    """Name and key ID of a public key."""
    name, key_id, _ = vkey.split("+", 2)
    return f"{name}+{key_id}"
