"""Events, logs and oracles that the ledger's tests share."""

import json
from hashlib import sha256
from pathlib import Path

from ledger.audit import audit_log
from ledger.files import Folder
from ledger.keyring import Keyring, ensure_keys
from ledger.policy import parse_policy
from ledger.writer import LogWriter

VECTORS = Path(__file__).parent / "vectors"
NOV_21 = 1_795_255_200_000  # 2026-11-21T10:00:00Z
DEC_1 = 1_796_083_200_000
DAY_MS = 86_400_000
#: The sample events were all recorded at one time, whatever the signer's clock says (test_audit_events.py minds them).
ANY_TIME_S = 10 * 365 * 86_400


def vectors(name):
    return json.loads((VECTORS / f"{name}.json").read_text())


def event(number, *, subjects=7, **changes):
    """Event `number` of a made-up log in which players take turns; `changes` replace attributes."""
    version, player = divmod(number, subjects)
    attributes = {
        "specversion": "1.0",
        "id": f"player.b{player}.{changes.get('aggregateversion', version + 1)}",
        "source": "//tallyroot/boston",
        "type": "xp-awarded/1" if number % 3 else "quest-completed/1",
        "subject": f"player/b{player}",
        "time": "2014-04-21T16:08:37.200Z",
        "recordedtime": "2026-11-21T10:00:00.000Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:tallyroot:schema:xp-awarded:1",
        "tenantid": "boston",
        "aggregateversion": version + 1,
        "causationid": f"c{number}",
        "data": {"quest": "boston-2014", "note": "é ☃ \n", "amount": number},
    } | changes
    return json.dumps(attributes, ensure_ascii=False, separators=(",", ":")).encode()


def events(start, end):
    return [event(number) for number in range(start, end)]


class Installation:
    """A log directory with its keys, both below one folder."""

    def __init__(self, base):
        self.log_dir = base / "log"
        self.keyring: Keyring = ensure_keys(base / "keys", "boston")
        self.folder = Folder(self.log_dir)

    def open(self, now_ms=NOV_21, folder=None):
        return LogWriter.open(self.log_dir, self.keyring, now_ms, folder=folder)

    def publish(self, *sizes, now_ms=NOV_21):
        """Append up to each size in turn, signing after each."""
        writer = self.open(now_ms)
        for size in sizes:
            writer.append(events(writer.tree_size, size))
            writer.sign(now_ms)
        writer.close(now_ms)

    def policy(self):
        return parse_policy("policy", (self.keyring.folder / "policy").read_bytes())

    def audit(self, **options):
        return audit_log(self.folder, self.policy(), **({"clock_skew_s": ANY_TIME_S} | options))

    @property
    def policy_path(self):
        return self.keyring.folder / "policy"


class Recording(Folder):
    """Remembers which files were asked for, and how often somebody waited for some."""

    def __init__(self, root):
        super().__init__(root)
        self.paths = []
        self.turns = 0

    def read(self, path):
        self.paths.append(path)
        self.turns += 1
        return super().read(path)

    def read_all(self, paths):
        self.paths += paths
        self.turns += 1
        return super().read_all(paths)


# The slow, obvious reference: RFC 6962 2.1 read aloud.


def slow_root(entries):
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    k = slow_split(len(entries))
    return sha256(b"\x01" + slow_root(entries[:k]) + slow_root(entries[k:])).digest()


def slow_split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def slow_path(m, entries):
    n = len(entries)
    if n == 1:
        return []
    k = slow_split(n)
    if m < k:
        return [*slow_path(m, entries[:k]), slow_root(entries[k:])]
    return [*slow_path(m - k, entries[k:]), slow_root(entries[:k])]


def slow_consistency(m, entries, *, is_known=True):
    n = len(entries)
    if m == n:
        return [] if is_known else [slow_root(entries)]
    k = slow_split(n)
    if m <= k:
        return [*slow_consistency(m, entries[:k], is_known=is_known), slow_root(entries[k:])]
    return [*slow_consistency(m - k, entries[k:], is_known=False), slow_root(entries[:k])]


def slow_chain(entries):
    link = bytes(32)
    for entry in entries:
        link = sha256(b"\x02" + link + sha256(b"\x00" + entry).digest()).digest()
    return link


def memory_nodes(leaves):
    """A `ReadNodes` over leaf hashes in memory."""
    from ledger.hashing import perfect_root

    return lambda nodes: [perfect_root(leaves[n.number << n.level : (n.number + 1) << n.level]) for n in nodes]
