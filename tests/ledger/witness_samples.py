"""A small log in memory with its signed checkpoints, and witnesses that really answer over HTTP."""

import http.client

from log_samples import slow_consistency, slow_root

from ledger.checkpoint import Checkpoint
from ledger.files import Folder
from ledger.keys import SigningKey, format_private_key, public_key
from ledger.note import ED25519, Note
from ledger.witness import AddCheckpoint
from ledger.witness_server import WitnessServer
from ledger.witness_setup import LOGS, init_witness, open_witness

NOW = 1_795_255_200  # 2026-11-21T10:00:00Z


def signing_key(name, number, algorithm=ED25519):
    seed = bytes([number]) * 32
    return SigningKey.parse(format_private_key(public_key(name, algorithm, seed), seed))


class SmallLog:
    """Entries in memory; another `salt` is another history, under the same key."""

    def __init__(self, origin="example.com/log", *, key_number=1, salt=b""):
        self.origin = origin
        self.key = signing_key(origin, key_number)
        self.salt = salt

    def entries(self, size):
        return [self.salt + b"%d" % number for number in range(size)]

    def checkpoint(self, size):
        return Checkpoint(self.origin, size, slow_root(self.entries(size)))

    def note(self, size, *signers, extensions=()):
        checkpoint = Checkpoint(self.origin, size, slow_root(self.entries(size)), extensions)
        lines = [key.sign_checkpoint(checkpoint, NOW) for key in signers or [self.key]]
        return bytes(Note(checkpoint.text, tuple(lines)))

    def proof(self, old, size):
        return tuple(slow_consistency(old, self.entries(size))) if 0 < old < size else ()

    def request(self, old, size):
        return bytes(AddCheckpoint(old, self.proof(old, size), self.note(size)))

    @property
    def policy(self):
        return f"log {self.key.key}\nquorum none\n"


class RunningWitness:
    """A witness's folder and, between `start` and `stop`, its server on a free port."""

    def __init__(self, base, *policies, name="w1.example", **options):
        self.base = base
        self.name = name
        self.now = NOW
        self.keys = init_witness(base, name)
        for number, policy in enumerate(policies):
            self.trust(policy, f"{number}.policy")
        self._options = options
        self.server = None

    def trust(self, policy, file_name="log.policy"):
        Folder(self.base / LOGS).replace(file_name, policy.encode())

    def start(self):
        self.witness = open_witness(self.base)
        self.server = WitnessServer(self.witness, ("127.0.0.1", 0), lambda: self.now, **self._options)
        self.server.start()
        return self

    def stop(self):
        if self.server is not None:
            self.server.stop()
            self.witness.close()
            self.server = None

    def __enter__(self):
        return self.start() if self.server is None else self

    def __exit__(self, *_):
        self.stop()

    @property
    def url(self):
        return self.server.url

    def ask(self, method, path, body=None, headers=None):
        """Status, body and content type of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            with connection.getresponse() as response:
                return response.status, response.read(), response.headers["Content-Type"]
        finally:
            connection.close()

    def add(self, body):
        return self.ask("POST", "/add-checkpoint", body)


LOG = SmallLog()
OTHER_HISTORY = SmallLog(salt=b"other ")
STRANGER = SmallLog("example.com/stranger", key_number=3)
WRONG_KEY = signing_key("example.com/log", 9)
