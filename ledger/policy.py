"""The auditors' trust root (C2SP tlog-policy): log keys, witnesses and the quorum that a checkpoint needs.

    log <vkey> [url]
    witness <name> <vkey> [url]
    group <name> all|any|<k> <member> ...
    quorum <name>|none

What the format lacks stands in comment lines, which other tools skip:

    # tally-range <key ID> <first size> <last size>|-    sizes that this key signs; within them a log key must
    # tally-certificate <vkey>                           key of the monthly certificates
    # tally-quorum <first size>                          smaller checkpoints were signed before there were witnesses
    # tally-timestamp <authority> <base64>               root certificate (DER) of a time stamp authority
    # tally-stamps <authority> <first month> <last month>|-   the months that it stamps; without this line all

A log key without a range is an alternative: one good signature by any of them suffices. A certificate needs one
signature, by a certificate key whose range has the month's closing size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, Self

from ledger.checkpoint import Checkpoint, parse_checkpoint, verify_signature
from ledger.cms import load_certificate
from ledger.encoding import SIZE_MAX, decode_base64, is_month, parse_decimal
from ledger.errors import KeyRefused, Malformed, SignatureFailed, excerpt
from ledger.note import COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44, ED25519, Note, VerifierKey, require_distinct
from ledger.timestamps import require_authority_name

NONE: Final = "none"
FUTURE_SECONDS_MAX: Final = 300  # clocks differ


@dataclass(frozen=True, slots=True)
class LogKey:
    key: VerifierKey
    first_size: int = 0
    last_size: int = SIZE_MAX
    is_required: bool = False
    url: str = ""

    @property
    def last_size_or_none(self) -> int | None:
        return None if self.last_size == SIZE_MAX else self.last_size

    def covers(self, tree_size: int) -> bool:
        return self.first_size <= tree_size <= self.last_size


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """A checkpoint whose signatures satisfy the policy.

    `at_seconds` is the earliest time that a signature carries, `log_at_seconds` that of the log's own; a cosignature
    may be made long after the log signed, by another clock. None when no such signature carries a time.
    """

    checkpoint: Checkpoint
    note: bytes
    signed_by: tuple[str, ...]
    witnessed_by: tuple[str, ...]
    at_seconds: int | None
    log_at_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    needed: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    logs: tuple[LogKey, ...]
    witnesses: dict[str, VerifierKey]
    groups: dict[str, Group]
    quorum: str
    certificates: tuple[LogKey, ...] = ()
    witness_urls: dict[str, str] = field(default_factory=dict)
    quorum_from: int = 0
    authorities: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    stamped: dict[str, tuple[str, str]] = field(default_factory=dict)
    digest: str = field(default="", compare=False)
    now_seconds: int | None = field(default=None, compare=False)

    def as_of(self, now_seconds: int) -> Self:
        """The same policy, which refuses cosignatures that were made later than now."""
        return replace(self, now_seconds=now_seconds)

    def without_quorum(self) -> Self:
        """The same policy for checkpoints that no witness has seen yet."""
        return replace(self, quorum=NONE)

    def of_log(self, origin: str) -> Self:
        """What this policy says of one log, without witnesses."""
        logs = tuple(log for log in self.logs if log.key.name == origin)
        return replace(self, logs=logs, witnesses={}, witness_urls={}, groups={}, quorum=NONE, certificates=())

    def needs_witnesses(self, tree_size: int) -> bool:
        return self.quorum != NONE and tree_size >= self.quorum_from

    @property
    def certificate_keys(self) -> tuple[VerifierKey, ...]:
        return tuple(ranged.key for ranged in self.certificates)

    def stamping(self, month: str) -> list[str]:
        """The authorities that stamp a month (YYYY-MM)."""
        ranges = {name: self.stamped.get(name, (month, month)) for name in self.authorities}
        return [name for name, (first, last) in ranges.items() if first <= month <= last]

    def require_certificate_key(self, what: str, label: str, closing_size: int) -> None:
        """That a certificate key may sign for a month that closes at this size; raises `SignatureFailed`."""
        for ranged in self.certificates:
            if ranged.key.label == label and not ranged.covers(closing_size):
                raise SignatureFailed(
                    f"{what}, key {label}",
                    expected=f"a closing size from {ranged.first_size} to {ranged.last_size}",
                    found=closing_size,
                )

    def keys_at(self, tree_size: int) -> tuple[LogKey, ...]:
        """The log keys as they stood when the log had this size: later ends were not known."""
        return tuple(
            log if log.last_size < tree_size else replace(log, last_size=SIZE_MAX)
            for log in self.logs
            if log.first_size <= tree_size
        )

    def open(self, what: str, data: bytes, *, origin: str | None = None) -> OpenedCheckpoint:
        """Read a checkpoint and check signatures, key ranges and quorum; raises `Malformed` or `SignatureFailed`.

        Without `origin` the checkpoint must be of a log that the policy names.
        """
        checkpoint, note = parse_checkpoint(what, data)
        wanted = {origin} if origin is not None else {log.key.name for log in self.logs}
        if checkpoint.origin not in wanted:
            raise SignatureFailed(
                f"{what}, origin", expected=" or ".join(sorted(wanted)), found=excerpt(checkpoint.origin)
            )
        signed, log_times = self._log_signatures(what, checkpoint, note)
        witnessed, witness_times = self._witness_signatures(what, checkpoint, note)
        if self.needs_witnesses(checkpoint.tree_size) and not self.is_quorate(witnessed):
            raise SignatureFailed(
                f"{what} of size {checkpoint.tree_size}, witnesses",
                expected=f"the quorum {self.quorum}, from size {self.quorum_from} on",
                found=", ".join(sorted(witnessed)) or "no cosignature by a known witness",
            )
        times = log_times + witness_times
        return OpenedCheckpoint(
            checkpoint,
            data,
            tuple(signed),
            tuple(witnessed),
            min(times, default=None),
            min(log_times, default=None),
        )

    def _log_signatures(self, what: str, checkpoint: Checkpoint, note: Note) -> tuple[list[str], list[int]]:
        signed, times = [], []
        is_text_signed = False
        size = checkpoint.tree_size
        for log in self.logs:
            lines = note.by(log.key)
            if lines and not log.covers(size):
                raise SignatureFailed(
                    f"{what}, key {log.key.label}",
                    expected=f"sizes from {log.first_size} to {log.last_size}",
                    found=size,
                )
            if not lines and log.is_required and log.covers(size):
                raise SignatureFailed(what, expected=f"a signature by {log.key.label}", found="none")
            for line in lines:
                at_seconds = verify_signature(what, checkpoint, log.key, line)
                times += [] if at_seconds is None else [at_seconds]
            signed += [log.key.label] if lines else []
            is_text_signed |= bool(lines) and log.key.algorithm == ED25519
        if not signed:
            labels = " or ".join(log.key.label for log in self.logs)
            raise SignatureFailed(what, expected=f"a signature by {labels}", found="none of a known key")
        if checkpoint.extensions and not is_text_signed:
            raise SignatureFailed(
                f"{what}, extension lines", expected="a log signature of type 0x01 over them", found="0x06 alone"
            )
        return signed, times

    def _witness_signatures(self, what: str, checkpoint: Checkpoint, note: Note) -> tuple[list[str], list[int]]:
        witnessed, times = [], []
        for name, key in self.witnesses.items():
            for line in note.by(key):
                at_seconds = verify_signature(what, checkpoint, key, line) or 0
                if self.now_seconds is not None and at_seconds > self.now_seconds + FUTURE_SECONDS_MAX:
                    raise SignatureFailed(
                        f"{what}, cosignature by {key.label} from the future",
                        expected=f"at most {self.now_seconds}",
                        found=at_seconds,
                    )
                times.append(at_seconds)
                if name not in witnessed:
                    witnessed.append(name)
        return witnessed, times

    def is_quorate(self, witnessed: Collection[str]) -> bool:
        """Whether these witnesses, by their names in the policy, are enough."""
        return self.quorum == NONE or self._is_satisfied(self.quorum, witnessed)

    def _is_satisfied(self, name: str, witnessed: Collection[str]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return name in witnessed
        return sum(self._is_satisfied(member, witnessed) for member in group.members) >= group.needed


def parse_policy(what: str, data: bytes) -> Policy:
    """Read a policy file; raises `Malformed` or `KeyRefused`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise Malformed(what, expected="UTF-8", found=f"byte 0x{data[err.start]:02x} at {err.start}") from err
    reading = _Reading(what)
    for number, line in enumerate(text.split("\n"), 1):
        reading.take(f"{what}, line {number}", line.split())
    return reading.finish(sha256(data).hexdigest())


class _Reading:
    def __init__(self, what: str) -> None:
        self.what = what
        self.logs: list[VerifierKey] = []
        self.log_urls: list[str] = []
        self.ranges: dict[str, tuple[int, int]] = {}
        self.witnesses: dict[str, VerifierKey] = {}
        self.witness_urls: dict[str, str] = {}
        self.groups: dict[str, Group] = {}
        self.members: set[str] = set()
        self.certificate_keys: list[VerifierKey] = []
        self.authorities: dict[str, tuple[bytes, ...]] = {}
        self.stamped: dict[str, tuple[str, str]] = {}
        self.quorum: str | None = None
        self.quorum_from: int | None = None

    def take(self, what: str, words: list[str]) -> None:  # noqa: C901, PLR0912 (one case for each kind of line)
        match words:
            case []:
                return
            case ["#", "tally-range", key_id, first, last]:
                first_size = parse_decimal(what, first)
                last_size = SIZE_MAX if last == "-" else parse_decimal(what, last)
                if key_id in self.ranges or last_size < first_size:
                    raise Malformed(what, expected="one range for each key ID, first <= last", found=" ".join(words))
                self.ranges[key_id] = (first_size, last_size)
            case ["#", "tally-certificate", vkey]:
                self.certificate_keys.append(self._key(what, vkey, ED25519))
            case ["#", "tally-quorum", *sizes]:
                self._begin_quorum(what, sizes)
            case ["#", "tally-timestamp", name, root]:
                der = decode_base64(what, root)
                load_certificate(what, der)
                name = require_authority_name(name)
                self.authorities[name] = (*self.authorities.get(name, ()), der)
            case ["#", "tally-stamps", *words]:
                self._begin_stamps(what, words)
            case [comment, *_] if comment.startswith("#"):
                return
            case ["log", vkey, *url] if len(url) <= 1:
                self.logs.append(self._key(what, vkey, ED25519, COSIGNATURE_ML_DSA_44))
                self.log_urls += url or [""]
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self._define(what, name)
                self.witnesses[name] = self._key(what, vkey, COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44)
                self.witness_urls.update(zip([name], url, strict=False))
            case ["group", name, needed, *members] if members:
                self._group(what, name, needed, tuple(members))
            case ["quorum", name] if self.quorum is None:
                if name != NONE and name not in self.witnesses and name not in self.groups:
                    raise Malformed(what, expected="the name of a witness or group above", found=excerpt(name))
                self.quorum = name
            case _:
                raise Malformed(
                    what, expected="a log, witness, group or the one quorum line", found=excerpt(" ".join(words))
                )

    def _key(self, what: str, vkey: str, *algorithms: int) -> VerifierKey:
        key = VerifierKey.parse(vkey)
        if key.algorithm not in algorithms:
            kinds = " or ".join(f"0x{algorithm:02x}" for algorithm in algorithms)
            raise KeyRefused(f"{what}, key {key.label}", expected=f"type {kinds}", found=f"0x{key.algorithm:02x}")
        return key

    def _define(self, what: str, name: str) -> None:
        if name == NONE or name in self.witnesses or name in self.groups:
            raise Malformed(what, expected="a name that is not taken", found=excerpt(name))

    def _begin_quorum(self, what: str, sizes: list[str]) -> None:
        if self.quorum_from is not None or len(sizes) != 1:
            raise Malformed(what, expected="one tally-quorum line with one size", found=excerpt(" ".join(sizes)))
        self.quorum_from = parse_decimal(what, sizes[0])

    def _begin_stamps(self, what: str, words: list[str]) -> None:
        name, first, last = words if len(words) == 3 else ("", "", "")
        last = "9999-12" if last == "-" else last
        if (
            name not in self.authorities
            or name in self.stamped
            or not (is_month(first) and is_month(last) and first <= last)
        ):
            expected = "an authority that has its tally-timestamp above, first and last month or -, once"
            raise Malformed(what, expected=expected, found=excerpt(" ".join(words)))
        self.stamped[name] = first, last

    def _group(self, what: str, name: str, needed_text: str, members: tuple[str, ...]) -> None:
        self._define(what, name)
        for member in members:
            if member not in self.witnesses and member not in self.groups:
                raise Malformed(what, expected="members that are defined above", found=excerpt(member))
            if member in self.members:
                raise Malformed(what, expected="each name in one group at most, once", found=excerpt(member))
            self.members.add(member)
        word = {"all": len(members), "any": 1}
        needed = word[needed_text] if needed_text in word else parse_decimal(what, needed_text)
        if not 1 <= needed <= len(members):
            raise Malformed(what, expected=f"all, any or 1 to {len(members)}", found=needed_text)
        self.groups[name] = Group(needed, members)

    def finish(self, digest: str) -> Policy:
        if self.quorum is None:
            raise Malformed(self.what, expected="one quorum line", found="none")
        if not self.logs:
            raise Malformed(self.what, expected="at least one log line", found="none")
        require_distinct([*self.logs, *self.witnesses.values(), *self.certificate_keys])
        unknown = set(self.ranges) - {key.key_id.hex() for key in (*self.logs, *self.certificate_keys)}
        if unknown:
            expected = "ranges of keys that a log or certificate line names"
            raise Malformed(self.what, expected=expected, found=", ".join(unknown))
        return Policy(
            tuple(self._ranged(self.logs, self.log_urls)),
            self.witnesses,
            self.groups,
            self.quorum,
            tuple(self._ranged(self.certificate_keys, [""] * len(self.certificate_keys))),
            self.witness_urls,
            self.quorum_from or 0,
            self.authorities,
            self.stamped,
            digest,
        )

    def _ranged(self, keys: list[VerifierKey], urls: list[str]) -> Iterator[LogKey]:
        for key, url in zip(keys, urls, strict=True):
            known = self.ranges.get(key.key_id.hex())
            yield LogKey(key, *known, is_required=True, url=url) if known else LogKey(key, url=url)
