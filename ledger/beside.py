"""What stands beside a month's certificate: its closing checkpoint as a file, and time stamps of it.

roots/<YYYY-MM>.checkpoint            the closing checkpoint, byte for byte as in the certificate
roots/<YYYY-MM>.<authority>.tsr       response of a time stamp authority for that file
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from ledger.encoding import is_month
from ledger.errors import LogDamaged, MonthFailed, ObjectMissing, excerpt
from ledger.files import Folder, Source, read_all
from ledger.months import ROOTS, MonthStatement, month_bounds, time_text
from ledger.policy import Policy
from ledger.reader import LogReader
from ledger.timestamps import AUTHORITY_NAME, TimeStamp, verify_timestamps

STAMP_WITHIN_S: Final = 3 * 86_400  # an authority may be away for a while


def checkpoint_path(month: str) -> str:
    return f"{ROOTS}/{month}.checkpoint"


def stamp_path(month: str, authority: str) -> str:
    return f"{ROOTS}/{month}.{authority}.tsr"


def is_beside(name: str) -> bool:
    """Whether a file under `roots/` is a closing checkpoint or a time stamp."""
    month, _, rest = name.partition(".")
    return is_month(month) and (rest == "checkpoint" or _authority_of(rest) is not None)


def _authority_of(rest: str) -> str | None:
    name, dot, kind = rest.partition(".")
    return name if dot and kind == "tsr" and AUTHORITY_NAME.fullmatch(name) else None


def read_stamps(source: Source, month: str, policy: Policy) -> dict[str, bytes]:
    """The time stamps of a month by authority: those that the policy names, and all that a folder has."""
    # A web server lists nothing: there the names of the policy are all that can be asked for.
    listed = source.names(ROOTS) if isinstance(source, Folder) else []
    names = stamping(month, policy, listed)
    found = zip(names, read_all(source, [stamp_path(month, name) for name in names]), strict=True)
    return {name: data for name, data in found if data is not None}


def stamping(month: str, policy: Policy, listed: Iterable[str]) -> list[str]:
    """The authorities that may have stamped a month: those of the policy, those of the names listed under `roots/`."""
    own = [name.removeprefix(f"{month}.") for name in listed if name.startswith(f"{month}.")]
    return sorted({*policy.authorities, *(name for rest in own if (name := _authority_of(rest)) is not None)})


def verify_stamps(
    what: str, statement: MonthStatement, stamps: Mapping[str, bytes], policy: Policy
) -> dict[str, TimeStamp | None]:
    """Check the stamps of a month's closing checkpoint; None for an authority that the policy does not name."""
    if not stamps:
        return {}
    checkpoint = statement.closing.checkpoint
    signed_at = policy.open(f"{what}, closing checkpoint", checkpoint, origin=statement.origin).at_seconds
    return verify_timestamps(what, stamps, checkpoint, signed_at, policy.authorities)


def missing_stamps(month: MonthStatement, names: Collection[str], policy: Policy) -> list[str]:
    """The authorities that stamp a month by the policy, and whose stamps are not among these."""
    return [name for name in policy.stamping(month.month) if name not in names]


def require_stamps(
    month: MonthStatement,
    names: Collection[str],
    policy: Policy,
    now_seconds: int | None,
    *,
    within: str = f"{ROOTS}/",
) -> None:
    """That every authority that stamps the month by the policy has done so, once it had the time to.

    Raises `ObjectMissing` for a stamp that was removed, or never made; `within` stands before its name.
    """
    end = month_bounds(month.month)[1]
    if now_seconds is not None and time_text(now_seconds - STAMP_WITHIN_S) < end:
        return
    for name in missing_stamps(month, names, policy):
        raise ObjectMissing(
            f"{within}{month.month}.{name}.tsr",
            expected=f"the time stamp of a month that ended at {end}, which {name} stamps by the policy",
            found="none",
        )


def require_closing(path: str, data: bytes, statement: MonthStatement) -> None:
    """Raises `MonthFailed` unless a closing checkpoint's file is what the certificate says."""
    if data != statement.closing.checkpoint:
        raise MonthFailed(
            path, expected=f"the closing checkpoint of the {statement.name}", found=excerpt(str(data[:40]))
        )


def require_frozen(month: MonthStatement, reader: LogReader, policy: Policy) -> None:
    """A month that has ended and has no certificate yet: its closing checkpoint is one of this log."""
    path = checkpoint_path(month.month)
    data = reader.source.read(path)
    if data is None:
        return
    found = policy.open(path, data, origin=month.origin).checkpoint
    root = reader.root(found.tree_size) if found.tree_size <= reader.tree_size else None
    if found.root != root:
        expected = f"a checkpoint of this log, up to size {reader.tree_size}"
        raise MonthFailed(path, expected=expected, found=f"size {found.tree_size} with root {found.root.hex()}")


def require_no_strangers(names: Iterable[str], months: Sequence[MonthStatement]) -> None:
    """Time stamps are of certified months; closing checkpoints of these, of the one after them, or of later ones."""
    certified = {month.month for month in months if not month.is_provisional}
    for name in names:
        month, _, rest = name.partition(".")
        if month not in certified and (rest != "checkpoint" or month < months[-1].month):
            raise LogDamaged(f"{ROOTS}/{name}", expected="a file of a month that the log has", found="another month")
