"""A witness's folder: its keys, the logs that it trusts, its state; and a look at those logs when it starts.

witness-ed25519              cosigns, type 0x04                       (keys as those of a log's signer: keys)
witness-mldsa44              cosigns, type 0x06, where the build of `cryptography` has ML-DSA-44
logs/*                       policies (C2SP tlog-policy): of each, the log lines with their ranges count
state/                       what was cosigned (witness_state)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from ledger.checkpoint import parse_checkpoint
from ledger.errors import HistoryForked, KeyRefused, LedgerError, WrongUse
from ledger.files import Folder, Source, require
from ledger.history import keep_evidence, prove_extension
from ledger.keyfolder import is_kept
from ledger.keys import KeyOpener, Passphrase, SigningKey, new_key, write_key
from ledger.note import COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44, VerifierKey, require_distinct
from ledger.policy import Policy, parse_policy
from ledger.primitives import has_ml_dsa_44
from ledger.reader import LogReader
from ledger.tiles import CHECKPOINT
from ledger.witness import checkpoint_path
from ledger.witness_state import STATE, Witness

WITNESS_KEY: Final = "witness-ed25519"
WITNESS_PQ_KEY: Final = "witness-mldsa44"
LOGS: Final = "logs"
_LOOK_AT_ONCE: Final = 16


def init_witness(base: Path, name: str, passphrase: Passphrase | None = None) -> list[VerifierKey]:
    """Make a witness's folder and keys; raises `WrongUse` when there is one: its keys are never replaced."""
    if Folder(base).names(""):
        raise WrongUse(f"{base}", expected="an empty folder, or none", found="files in it")
    base.mkdir(parents=True, exist_ok=True)
    base.chmod(0o700)
    (base / LOGS).mkdir()
    files = Folder(base)
    roles = [(WITNESS_KEY, COSIGNATURE_ED25519)]
    if has_ml_dsa_44():
        roles.append((WITNESS_PQ_KEY, COSIGNATURE_ML_DSA_44))
    keys = []
    for role, algorithm in roles:
        key, seed = new_key(name, algorithm)
        write_key(files, role, key, seed, passphrase)
        keys.append(key)
    return keys


def open_witness(base: Path, passphrase: Passphrase | None = None) -> Witness:
    """Read a witness's folder; raises `WrongUse`, `KeyRefused`, `Malformed` or `LogDamaged`."""
    policies = list(_policies(base))
    keys = list(_keys(base, KeyOpener(passphrase)))
    logs = [log.key for policy in policies for log in policy.logs]
    require_distinct([*logs, *(key.key for key in keys)])
    origins = [origin for policy in policies for origin in {log.key.name for log in policy.logs}]
    twice = sorted({origin for origin in origins if origins.count(origin) > 1})
    if twice:
        raise WrongUse(f"{base / LOGS}", expected="each log in one file", found=f"{twice[0]} in two")
    return Witness(base, keys, policies)


def _policies(base: Path) -> Iterator[Policy]:
    files = Folder(base / LOGS)
    names = [name for name in files.names("") if not name.startswith(".")]
    if not names:
        raise WrongUse(f"{base / LOGS} is empty: put the policy of each log there that this witness watches")
    for name in names:
        yield parse_policy(f"policy {base / LOGS / name}", require(files, name))


def _keys(base: Path, opener: KeyOpener) -> Iterator[SigningKey]:
    if not is_kept(base, WITNESS_KEY):
        raise WrongUse(f"{base} has no {WITNESS_KEY}.key: restore it, or make a new witness (tally witness init)")
    for role, algorithm in ((WITNESS_KEY, COSIGNATURE_ED25519), (WITNESS_PQ_KEY, COSIGNATURE_ML_DSA_44)):
        if is_kept(base, role):
            key = opener.open(base, role)
            if key.key.algorithm != algorithm:
                raise KeyRefused(f"{base / role}.key", expected=f"type 0x{algorithm:02x}", found=key.key.label)
            yield key


def look_at_logs(base: Path, witness: Witness, open_source: Callable[[str], Source]) -> list[str]:
    """Compare the state with what the logs publish: a line for each log that was found to be ahead, or not to answer.

    A published checkpoint that bears this witness's cosignature and is larger than the recorded one says that the
    state was lost or restored from an old copy: it is proved to extend what is recorded, and recorded. Raises
    `HistoryForked` when it does not extend it; the evidence is kept.
    """
    with ThreadPoolExecutor(_LOOK_AT_ONCE) as pool:
        looks = [
            pool.submit(_look, base, witness, origin, url, open_source)
            for origin, (policy, _) in witness.logs.items()
            for url in sorted({log.url for log in policy.logs if log.url})
        ]
        return [line for look in looks for line in look.result()]


def _look(base: Path, witness: Witness, origin: str, url: str, open_source: Callable[[str], Source]) -> list[str]:
    source = open_source(url)
    try:
        return _compare(base, witness, origin, source)
    except HistoryForked:
        raise
    except LedgerError as err:
        return [f"{origin}: its published checkpoint could not be compared with the state: {err}"]
    finally:
        source.close()


def _compare(base: Path, witness: Witness, origin: str, source: Source) -> list[str]:
    policy, known = witness.logs[origin]
    found = policy.open(CHECKPOINT, require(source, CHECKPOINT), origin=origin)
    head = found.checkpoint
    if not witness.has_cosigned(parse_checkpoint(CHECKPOINT, found.note)[1], head):
        return []
    recorded = witness.checkpoint_at(checkpoint_path(origin))
    if known is not None and recorded is not None:
        if head.tree_size < known.tree_size or (head.tree_size, head.root) == (known.tree_size, known.root):
            return []
        try:
            then = policy.open(f"recorded checkpoint of {origin}", recorded, origin=origin)
            prove_extension(then, found, LogReader(source, head.tree_size))
        except HistoryForked as err:
            kept = keep_evidence(base / STATE / checkpoint_path(origin), err, recorded, found.note)
            raise HistoryForked(f"{origin}: {err}; both notes are kept in {kept}, nothing is cosigned") from err
    witness.adopt(origin, found.note)
    then_size = 0 if known is None else known.tree_size
    return [f"{origin}: the state was old (size {then_size}); own cosignature over {head} found, and recorded"]
