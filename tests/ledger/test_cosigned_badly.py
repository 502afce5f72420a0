"""Witnesses that do not do their part: nothing that they answer is counted, followed or waited for without end."""

import re
import shutil
import socket
import time
from types import SimpleNamespace

import pytest
from log_samples import NOV_21, events
from witness_samples import NOW, Puppet, WitnessedLog, signing_key

from ledger import keyring, witness_link, writer
from ledger.checkpoint import parse_checkpoint
from ledger.errors import WrongUse
from ledger.note import COSIGNATURE_ED25519
from ledger.witness import parse_request

# Witnesses that do not do their part


def cosignature(handler, body, *, at=NOW, key=None):
    checkpoint, _ = parse_checkpoint("asked", parse_request(body).note)
    return str((key or handler.server.key).sign_checkpoint(checkpoint, at)).encode()


def drip(handler, _body):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.server.go_on.wait(0.05):
        handler.wfile.write(b"x")


def half(handler, body):
    handler.send_response(200)
    handler.send_header("Content-Length", "900")
    handler.end_headers()
    handler.wfile.write(cosignature(handler, body))
    handler.close_connection = True


def endless(handler, _body):
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    while not handler.server.go_on.is_set():
        handler.wfile.write(b"x" * 65_536)


OTHER_KEY = signing_key("puppet.example", 78, COSIGNATURE_ED25519)
BAD_ANSWERS = {
    "HTML": (lambda h, _: h.say(200, b"<html>welcome</html>\n"), "signature line"),
    "nothing": (lambda h, _: h.say(200, b""), "end in a newline"),
    "binary": (lambda h, _: h.say(200, b"\xff\xfe\n"), "UTF-8"),
    "500": (lambda h, _: h.say(500, b"no\n"), "answer 500: expected 200, found 'no\\\\n'"),
    "404": (lambda h, _: h.say(404, b"who?\n"), "answer 404"),
    "403": (lambda h, _: h.say(403, b"not you\n"), "answer 403"),
    "422 without cause": (lambda h, b: h.say(422 if b else 404, b"no\n"), "answer 422"),
    "a size that is none": (lambda h, _: h.say(409, b"+1\n", "text/x.tlog.size"), "recorded size"),
    "409 without a size": (lambda h, b: h.say(409 if b else 404, b"300\n"), "answer 409"),
    "a redirect": (lambda h, _: h.say(302, b"elsewhere\n"), "answer 302"),
    "hung up": (lambda h, _: h.connection.shutdown(socket.SHUT_RDWR), "Remote|Bad|Connection"),
    "half an answer": (half, "as many bytes as it announces"),
    "a drip": (drip, "too slow"),
    "an endless body": (endless, "too slow"),
    "another key": (
        lambda h, b: h.say(200, cosignature(h, b, key=OTHER_KEY)),
        "expected a cosignature by",
    ),
    "a bad cosignature": (lambda h, b: h.say(200, cosignature(h, b.replace(b"\n300\n", b"\n299\n"))), "a bad one"),
    "time 0": (lambda h, b: h.say(200, cosignature(h, b, at=0)), "found 0"),
    "a clock that is ahead": (lambda h, b: h.say(200, cosignature(h, b, at=NOW + 301)), "from the future"),
}


@pytest.fixture(scope="module")
def at_299(tmp_path_factory):
    """A log of 299 entries without witnesses so far, copied for each case."""
    base = tmp_path_factory.mktemp("signed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyring, "has_ml_dsa_44", lambda: False)
        WitnessedLog(base / "log").publish(299)
    return base / "log"


@pytest.mark.parametrize(
    "url",
    [
        "w.example",
        "ftp://w.example",
        "http://",
        "http://w.example:99999",
        "http://w.example:x",
        "http://[::1",
        "http://w.example?a",
        "http://user@w.example",
        f"http://{'a' * 64}.example",
    ],
)
def test_a_url_that_no_witness_can_have_is_refused_before_anything_is_signed(at_299, scratch, ed25519_alone, url):
    shutil.copytree(at_299, scratch / "log")
    log = WitnessedLog(scratch / "log")
    log.require("all", SimpleNamespace(keys=[OTHER_KEY.key], url=url), first_size=300)

    with pytest.raises(WrongUse, match=r"URL of a witness: expected an http\(s\) URL"):
        log.open()


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_a_witness_does_not_count_that_answers_with(at_299, ed25519_alone, scratch, monkeypatch, case):
    answer, said = BAD_ANSWERS[case]
    shutil.copytree(at_299, scratch / "log")
    installed = WitnessedLog(scratch / "log")
    if said == "too slow":  # elsewhere the time is not what is looked for, and a busy machine may need more
        monkeypatch.setattr(witness_link, "ANSWER_S", 0.2)
    monkeypatch.setattr(writer, "CLOSE_S", 0)
    with Puppet(answer) as puppet:
        installed.require("all", puppet, first_size=300)
        log = installed.open()
        log.append(events(299, 300))
        deadline = time.monotonic() + 30
        while not (problem := log.witnesses()[0].problem):
            assert log.sign(NOV_21) is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        log.close(NOV_21)

    assert re.search(said, problem), problem
    assert installed.published_size() == 299
    assert list(installed.keyring.folder.glob("*.evidence-*")) == []
