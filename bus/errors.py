"""Failures of the bus.

BusError
  Malformed           a command that cannot be read; `code` as in a refusal
  WireError           a stored body that is not what it must be
  AppendRefused       the event store took nothing of a batch
    Conflict          somebody else wrote first: re-read and decide again
  OutcomeUnknown      no answer came: re-read before anything is reported
  StoreUnavailable    the event store does not answer
  WrongStream         a stream is missing or not configured as it must be
    StreamReplaced    a stream was deleted and made again while it was read
"""

from __future__ import annotations


class BusError(Exception):
    """Base of everything that the bus raises."""


class Malformed(BusError):
    """A command that cannot be read; answered as a refusal with this code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class WireError(BusError):
    """A stored body does not have the form that it must have."""


class AppendRefused(BusError):
    """The event store refused a batch as a whole; nothing of it is stored."""


class Conflict(AppendRefused):
    """An expected version was not met: another writer was first."""


class OutcomeUnknown(BusError):
    """The acknowledgement of a batch did not come: it is stored as a whole or not at all."""


class StoreUnavailable(BusError):
    """The event store does not answer in time."""


class WrongStream(BusError):
    """A stream is missing, or its configuration is not the one that this version needs."""


class StreamReplaced(WrongStream):
    """Another stream stands under the name of the one that was read."""
