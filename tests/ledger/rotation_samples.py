"""A log whose keys are rotated, as the tests of rotation share it."""

from itertools import count

from log_samples import DAY_MS, NOV_21, Installation, event

from domain.values import to_time
from ledger.encoding import encode_base64
from ledger.files import Folder
from ledger.keyevents import KEY_ADDED, KEY_RETIRED, approval_message
from ledger.keyfolder import LOG
from ledger.keyring import load_keyring
from ledger.keys import KeyOpener, new_key, write_key
from ledger.note import ED25519

ORIGIN = "tallyroot.example/ledger/boston"
DEC_21, JAN_21 = NOV_21 + 30 * DAY_MS, NOV_21 + 61 * DAY_MS


class Rotating(Installation):
    """An installation that writes key events among others; `key` finds a private key by its name in the folder."""

    def __init__(self, base):
        super().__init__(base)
        self.versions = count(1)
        self.now_ms = NOV_21
        self.size = 0

    def key(self, name):
        return KeyOpener().open(self.keyring.folder, name)

    def stage(self, name, role=LOG, algorithm=ED25519):
        """A new key in the folder that the policy does not know."""
        owner = ORIGIN if role == LOG else f"{ORIGIN}/certificates"
        key, seed = new_key(owner, algorithm)
        write_key(self.keyring_files, name, key, seed, None)
        return key

    @property
    def keyring_files(self):
        return Folder(self.keyring.folder)

    def key_event(self, kind, key, signers, role=LOG, **changes):
        message = approval_message(kind, ORIGIN, role, key)
        approvals = [
            {"key": signer.key.label, "signature": encode_base64(signer.secret.sign(message))} for signer in signers
        ]
        data = {"role": role, "vkey": str(key), "approvals": approvals}
        return self.event_of_keys(**{"type": kind, "data": data} | changes)

    def event_of_keys(self, **changes):
        version = next(self.versions)
        attributes = {
            "id": f"ledger.keys.{version}",
            "subject": "ledger/keys",
            "aggregateversion": version,
            "causationid": f"k{version}",
            "recordedtime": to_time(self.now_ms),
        }
        return event(0, **attributes | changes)

    def add(self, name, *approvers, role=LOG, **changes):
        """An event that adds a key of the folder, approved by these and by itself."""
        signers = [self.key(one) for one in (*approvers, name)]
        return self.key_event(KEY_ADDED, self.key(name).key, signers, role, **changes)

    def retire(self, name, *approvers, role=LOG):
        return self.key_event(KEY_RETIRED, self.key(name).key, [self.key(one) for one in approvers], role)

    def run(self, *batches):
        """Start anew, append each batch and sign after it."""
        self.keyring = load_keyring(self.keyring.folder)
        writer = self.open(self.now_ms)
        try:
            for batch in batches:
                writer.append(batch)
                writer.sign(self.now_ms)
            writer.close(self.now_ms)
        finally:
            writer.abandon()

    def players(self, n):
        """The next n events of players."""
        self.size += n
        return [event(number, recordedtime=to_time(self.now_ms)) for number in range(self.size - n, self.size)]

    def signers_of(self, path="checkpoint"):
        policy = self.policy()
        return set(policy.open(path, self.folder.read(path)).signed_by)


def told(report):
    """What an audit says about the keys."""
    return next(claim.detail for claim in report.claims if claim.name == "keys")


def rotate(rotating):
    """Ten events, a second key from size 11 on, ten more, the first key retired at entry 21, ten more."""
    rotating.stage("log-ed25519-2")
    rotating.run(rotating.players(10))
    rotating.now_ms = DEC_21
    rotating.run([rotating.add("log-ed25519-2", "log-ed25519"), *rotating.players(10)])
    rotating.now_ms = JAN_21
    rotating.run([rotating.retire("log-ed25519", "log-ed25519-2"), *rotating.players(10)])
    return rotating
