"""Small logs with their signed checkpoints, and witnesses that really answer over HTTP."""

import contextlib
import http.client
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from log_samples import NOV_21, Installation, events, slow_consistency, slow_root

from ledger.checkpoint import Checkpoint
from ledger.files import Folder
from ledger.keyring import load_keyring
from ledger.keys import SigningKey, format_private_key, public_key
from ledger.note import COSIGNATURE_ED25519, ED25519, Note
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
        self._options = {"poll_s": 0.01} | options
        self._port = 0
        self.server = None

    def trust(self, policy, file_name="log.policy"):
        Folder(self.base / LOGS).replace(file_name, policy.encode())

    def start(self):
        self.witness = open_witness(self.base)
        self.server = WitnessServer(self.witness, ("127.0.0.1", self._port), lambda: self.now, **self._options)
        self._port = self.server.server_address[1]
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
        """Where it answers, also while it is down."""
        return f"http://127.0.0.1:{self._port}"

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


@contextlib.contextmanager
def served(base, port=0):
    """The witness of a folder in a process of its own, by the system's clock: its URL and, at the end, what it said."""
    command = [sys.executable, "-m", "ledger.cli", "witness", "serve", str(base), "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().split()[-1]
            said = []
            yield url, said
            process.send_signal(signal.SIGTERM)
            said += [*process.communicate(timeout=30), process.returncode]
        finally:
            process.kill()


def post(url, body):
    """Status and body of one request to `add-checkpoint`."""
    try:
        with urllib.request.urlopen(f"{url}/add-checkpoint", body, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read()


class Puppet(ThreadingHTTPServer):
    """A witness that does what `answer(handler, body)` does; counts what it is asked."""

    daemon_threads = True

    def __init__(self, answer, name="puppet.example", number=77):
        super().__init__(("127.0.0.1", 0), _PuppetHandler)
        self.answer = answer
        self.key = signing_key(name, number, COSIGNATURE_ED25519)
        self.asked = []
        self.go_on = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __exit__(self, *_):
        self.go_on.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """A client that hung up."""

    @property
    def keys(self):
        return [self.key.key]

    @property
    def name(self):
        return self.key.key.name

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/a/prefix"


class _PuppetHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(body)
        self.server.answer(self, body)

    def do_GET(self):
        self.server.answer(self, None)

    def say(self, status, body, content_type="text/plain"):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class WitnessedLog(Installation):
    """A log on disk whose policy asks for cosignatures."""

    def require(self, rule, *witnesses, first_size=0):
        """Put witnesses into the policy, one key each, and a quorum of them: `rule` is all, any or a number."""
        plain = self.plain_policy()
        lines = [f"witness w{at} {witness.keys[0]} {witness.url}" for at, witness in enumerate(witnesses)]
        members = " ".join(f"w{at}" for at in range(len(witnesses)))
        lines += [f"# tally-quorum {first_size}", f"group g {rule} {members}", "quorum g", ""]
        text = plain.replace("quorum none\n", "\n".join(lines))
        Folder(self.keyring.folder).replace("policy", text.encode())
        self.keyring = load_keyring(self.keyring.folder)

    def plain_policy(self):
        """The policy as a witness needs it: the log's keys."""
        starts = ("# tally-range", "# tally-certificate", "log ")
        kept = [line for line in self.policy_path.read_text().split("\n") if line.startswith(starts)]
        return "\n".join([*kept, "quorum none", ""])

    @property
    def published(self):
        return self.folder.read("checkpoint")

    def published_size(self):
        return self.policy().open("checkpoint", self.published).checkpoint.tree_size


def grow(writer, size, *, now_ms=NOV_21, until=None):
    """Append up to a size and sign until a checkpoint over it, or over `until`, is published."""
    writer.append(events(writer.tree_size, size))
    wait_for(writer, size if until is None else until, now_ms=now_ms)


def wait_for(writer, size, *, now_ms=NOV_21):
    deadline = time.monotonic() + 30
    while writer.signed.tree_size < size:
        writer.sign(now_ms)
        assert time.monotonic() < deadline, f"{writer.witnesses()}"
        time.sleep(0.002)


LOG = SmallLog()
OTHER_HISTORY = SmallLog(salt=b"other ")
STRANGER = SmallLog("example.com/stranger", key_number=3)
WRONG_KEY = signing_key("example.com/log", 9)
