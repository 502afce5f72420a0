"""Everything that the ledger says no with. Each message names the object, what was expected and what was found.

LedgerError                exit 1   base of the package
+-- Malformed              exit 1   bytes that do not have the form which a specification gives them
|   +-- KeyRefused         exit 1   a key that is weak, mislabelled or listed twice
|   +-- EmptyRootWrong     exit 1   a tree of size 0 whose root is not that of nothing
+-- ProofFailed            exit 1   a proof that does not lead to the root
+-- SignatureFailed        exit 1   a signature that is wrong, missing or by a key outside its range
+-- LogDamaged             exit 1   a stored object that is not what its checkpoint promises
|   +-- ObjectMissing      exit 1   ... that is not there
+-- EventRefused           exit 1   a logged event that breaks the rules of events
+-- MonthFailed            exit 1   a monthly certificate that does not fit its neighbours or its log
+-- TimestampFailed        exit 1   a time stamp that does not prove what it is for
+-- HistoryForked          exit 1   two histories, or a signer asked to sign a second one
+-- CopyDiffers            exit 1   a copy of the entries elsewhere that is not what the log holds
+-- NotYetSigned           exit 1   an entry that no checkpoint covers so far
+-- NotWitnessed           exit 1   a checkpoint that waits for the cosignatures of its quorum
+-- WrongUse               exit 2   arguments, paths, settings
    +-- SignerLocked       exit 2   another signer is active
    +-- Unsupported        exit 2   this build of `cryptography` lacks an algorithm
"""

from __future__ import annotations


class LedgerError(Exception):
    """`what` is the object; `expected` and `found` are added where both are known."""

    exit_code = 1

    def __init__(self, what: str, *, expected: object = None, found: object = None) -> None:
        parts = []
        if expected is not None:
            parts.append(f"expected {expected}")
        if found is not None:
            parts.append(f"found {found}")
        super().__init__(f"{what}: {', '.join(parts)}" if parts else what)


class Malformed(LedgerError):
    pass


class KeyRefused(Malformed):
    pass


class EmptyRootWrong(Malformed):
    pass


class ProofFailed(LedgerError):
    pass


class SignatureFailed(LedgerError):
    pass


class LogDamaged(LedgerError):
    pass


class ObjectMissing(LogDamaged):
    pass


class EventRefused(LedgerError):
    pass


class MonthFailed(LedgerError):
    pass


class TimestampFailed(LedgerError):
    pass


class HistoryForked(LedgerError):
    pass


class CopyDiffers(LedgerError):
    pass


class NotYetSigned(LedgerError):
    pass


class NotWitnessed(LedgerError):
    pass


class WrongUse(LedgerError):
    exit_code = 2


class SignerLocked(WrongUse):
    pass


class Unsupported(WrongUse):
    pass


def excerpt(text: object, limit: int = 80) -> str:
    """A piece of untrusted text that can stand in a message: one line, printable, short."""
    shown = text if isinstance(text, str) else repr(text)
    return repr(shown if len(shown) <= limit else shown[:limit] + "…")
