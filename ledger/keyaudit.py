"""What an audit says about a log's keys: ranges, and what the certificates list, against the events of the log."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.checkpoint import Checkpoint
from ledger.errors import MonthFailed
from ledger.keyevents import check_key_events, policy_keys
from ledger.months import MonthStatement
from ledger.policy import Policy
from ledger.receipt import Claim


def keys_claim(policy: Policy, checkpoint: Checkpoint, entries: Iterable[tuple[int, bytes]]) -> Claim:
    """The claim that the policy's ranges are those that the log's key events tell; raises `EventRefused`."""
    notes = check_key_events(policy, checkpoint.origin, checkpoint.tree_size, entries)
    count = len(policy_keys(policy, checkpoint.origin))
    return Claim("keys", "; ".join([f"{count} keys with their ranges as the log's events tell them", *notes]))


def require_month_keys(policy: Policy, month: MonthStatement) -> None:
    """That a certificate lists each key as it stood when the month closed; raises `MonthFailed`.

    Keys that the policy does not know are passed over, as in signatures.
    """
    listed = {vkey: (first, last) for vkey, first, last in month.keys}
    for ranged in policy.keys_at(month.closing.tree_size):
        expected = (ranged.first_size, ranged.last_size_or_none)
        found = listed.get(str(ranged.key))
        if ranged.key.name == month.origin and found != expected:
            raise MonthFailed(
                f"{month.name}, keys, {ranged.key.label}",
                expected=f"sizes {expected[0]} to {_end(expected[1])} as in the policy",
                found="nothing" if found is None else f"{found[0]} to {_end(found[1])}",
            )


def _end(last: int | None) -> str:
    return "now" if last is None else str(last)
