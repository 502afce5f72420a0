"""Failures of the projections; every message is one line that says what was got, what was wanted and what to do.

ProjectionError
  OutOfOrder        a batch does not follow the position: something was skipped or sent twice
  Fenced            another copy of the projector moved the position in the meantime
  Switched          another generation went live: open again and go on with that one
  RebuildRefused    a rebuild cannot begin, or its result is not what it must be
  ForeignPosition   the position belongs to another stream
  Inconsistent      the sink does not hold what its position says that it holds
  NewerSchema       the tables were made by a newer version of the program
  SinkUnavailable   the sink's server does not answer, or refuses
  Unprojectable     an event that the projector fails on, where it cannot be parked
  UnknownEvent      an event of a type that this version does not know
  WrongBoard        a definition of boards, or a query for one, that cannot be
  AsOfRefused       a query names no day and no moment
  NotFound          a query names what is not there
"""

from __future__ import annotations


class ProjectionError(Exception):
    """Base of everything that the projections raise."""


class OutOfOrder(ProjectionError):
    """A batch does not start where the last one ended."""

    def __init__(self, projection: str, expected: int, got: int) -> None:
        super().__init__(
            f"{projection}: got event {got}, wanted event {expected}; nothing was applied, read again from the position"
        )


class Fenced(ProjectionError):
    """Somebody else applied events to the same sink since this copy last looked."""

    def __init__(self, projection: str, expected: int, found: int) -> None:
        super().__init__(
            f"{projection}: position is {found}, wanted {expected}: another copy is running; "
            "nothing was applied, stop one of the two (or the sink was restored: it goes on from there)"
        )


class Switched(ProjectionError):
    """The generation that was followed is no longer the live one."""

    def __init__(self, projection: str) -> None:
        super().__init__(f"{projection}: another generation is live now; open again, it goes on from there")


class RebuildRefused(ProjectionError):
    """A rebuild, a rollback or a past state that cannot be."""


class ForeignPosition(ProjectionError):
    """The sink was filled from another stream than the one that is there now."""

    def __init__(self, projection: str, stream: str, found: str, wanted: str) -> None:
        super().__init__(
            f"{projection}: filled from a stream created {found}, but {stream} was created {wanted}; "
            f"it belongs to another stream: restore that stream, or replace it (tally rebuild {projection} --accept)"
        )


class Inconsistent(ProjectionError):
    """The sink lacks, or has in excess, what events before the position must have left there."""


class NewerSchema(ProjectionError):
    """The tables were brought forward by a newer version of the program."""

    def __init__(self, projection: str, tenant: str, found: int, known: int) -> None:
        super().__init__(
            f"{projection} of {tenant} have schema version {found}, this program knows {known}; upgrade tallyroot (or "
            "restore a backup from before), nothing was changed"
        )


class SinkUnavailable(ProjectionError):
    """The server behind a sink does not answer or refuses the work."""


class Unprojectable(ProjectionError):
    """The projector fails on an event, and the projection may not go on without it."""

    def __init__(self, projection: str, stream_seq: int, subject: str, reason: str) -> None:
        super().__init__(
            f"{projection}: event {stream_seq} ({subject}) cannot be projected: {reason}; correct the projector, then "
            "try again (the live one goes on without that aggregate)"
        )


class UnknownEvent(ProjectionError):
    """An event type that this version cannot project."""

    def __init__(self, projection: str, stream_seq: int, kind: str) -> None:
        super().__init__(
            f"{projection}: event {stream_seq} has type {kind!r}, which this version does not know; upgrade tallyroot"
        )


class WrongBoard(ProjectionError):
    """Boards that cannot be defined so, or asked for so."""


class NotFound(ProjectionError):
    """A query asked for something that no event told of."""


class AsOfRefused(ProjectionError):
    """As of when cannot be read."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"as of {text[:40]!r} ({reason}): wanted 2014-04-21, or 2014-04-21T14:00:00Z")
