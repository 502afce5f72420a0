"""Zones: where a player was last reported, in a place that the programme names (a stand, a hall, a district).

Part of the player: every report is an event of the player, none depends on the one before.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from domain.errors import NotRegistered
from domain.values import Token

# -- names as stored --------------------------------------------------------------------------------------------------

ZONE_ENTERED = "zone-entered/1"
ZONE_LEFT = "zone-left/1"

ENTER_ZONE = "enter-zone/1"
LEAVE_ZONE = "leave-zone/1"

# -- events -----------------------------------------------------------------------------------------------------------


class ZoneEntered(msgspec.Struct, frozen=True, kw_only=True):
    """The player is in this zone, and in no other any more."""

    zone: Token


class ZoneLeft(msgspec.Struct, frozen=True, kw_only=True):
    """The player is in no zone."""


ZoneEvent = ZoneEntered | ZoneLeft

# -- commands ---------------------------------------------------------------------------------------------------------


class EnterZone(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Report that a player is in a zone."""

    zone: Token


class LeaveZone(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Report that a player has left and is in no zone."""


ZoneCommand = EnterZone | LeaveZone

# -- decide -----------------------------------------------------------------------------------------------------------


def decide(command: ZoneCommand, player: str, *, is_registered: bool) -> tuple[ZoneEvent, ...]:
    """What a report leads to; raises `NotRegistered`."""
    if not is_registered:
        raise NotRegistered(player)
    match command:
        case EnterZone():
            return (ZoneEntered(zone=command.zone),)
        case LeaveZone():
            return (ZoneLeft(),)
        case _:
            assert_never(command)
