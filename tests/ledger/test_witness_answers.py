"""What a witness answers: the whole matrix of C2SP tlog-witness, and what it has recorded before it answers."""

import base64
import itertools
import json
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from witness_samples import LOG, NOW, OTHER_HISTORY, STRANGER, WRONG_KEY, RunningWitness, SmallLog

from ledger.checkpoint import parse_checkpoint, verify_signature
from ledger.errors import ProofFailed
from ledger.files import Folder
from ledger.note import COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44
from ledger.policy import parse_policy
from ledger.primitives import has_ml_dsa_44, mldsa
from ledger.proofs import verify_consistency
from ledger.witness import checkpoint_path, parse_cosignatures


@pytest.fixture
def witness(tmp_path):
    with RunningWitness(tmp_path / "w", LOG.policy) as witness:
        yield witness


def cosignatures(witness, size, body, log=LOG):
    """The keys that signed, each line verified."""
    lines = parse_cosignatures("answer", body)
    keys = {key.key_id: key for key in witness.keys}
    for line in lines:
        assert verify_signature("answer", log.checkpoint(size), keys[line.key_id], line) == witness.now
    return [keys[line.key_id].algorithm for line in lines]


def test_a_first_checkpoint_is_cosigned_by_each_key_of_the_witness_and_recorded_before_the_answer(witness):
    status, body, _ = witness.add(LOG.request(0, 5))

    assert status == 200
    expected = [COSIGNATURE_ED25519] + ([COSIGNATURE_ML_DSA_44] if has_ml_dsa_44() else [])
    assert cosignatures(witness, 5, body) == expected
    recorded = Folder(witness.base / "state").read(checkpoint_path(LOG.origin))
    assert recorded == LOG.note(5) + body


def test_a_witness_goes_with_a_log_that_grows_and_monitors_read_the_latest_checkpoint(witness):
    path = f"/{sha256(LOG.origin.encode()).hexdigest()}/checkpoint"
    assert witness.ask("GET", path)[0] == 404

    for old, new in itertools.pairwise([0, 0, 1, 4, 4, 9]):
        status, body, _ = witness.add(LOG.request(old, new))
        assert status == 200, body
        assert cosignatures(witness, new, body)

    status, note, content_type = witness.ask("GET", path)
    assert (status, content_type) == (200, "text/plain; charset=utf-8")
    assert parse_checkpoint("monitor", note)[0] == LOG.checkpoint(9)
    assert witness.ask("HEAD", path)[:2] == (200, b"")


def test_the_keys_of_the_two_roles_differ(witness):
    assert len({key.public for key in witness.keys}) == len(witness.keys)


def request(old="old 4", proof=None, note=None):
    lines = [old, *(LOG.request(4, 9).split(b"\n\n")[0].decode().split("\n")[1:] if proof is None else proof)]
    return "\n".join(lines).encode() + b"\n\n" + (LOG.note(9) if note is None else note)


HASH = "A" * 43 + "="
ZERO_ROOT = LOG.note(0).replace(b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", HASH.encode())
# What is sent to a witness that has recorded size 4 -> status and a part of what it says.
REFUSED = {
    "an empty body": (b"", 400, "request"),
    "no empty line": (b"old 4\n" + LOG.note(9).split(b"\n\n")[0], 400, "request"),
    "no old line": (b"\n\n" + LOG.note(9), 400, "first line"),
    "another first word": (request("size 4"), 400, "first line"),
    "an old size with a sign": (request("old +4"), 400, "old size"),
    "an old size with a leading zero": (request("old 04"), 400, "old size"),
    "an old size in Arabic digits": (request("old ٤"), 400, "ASCII"),
    "an old size with two spaces": (request("old  4"), 400, "old size"),
    "an old size beyond 2^63": (request(f"old {2**63}"), 400, "old size"),
    "a carriage return": (request("old 4\r"), 400, "old size"),
    "a hash of 31 bytes": (request(proof=["A" * 42 + "=="]), 400, "32 bytes"),
    "a hash in URL-safe base64": (request(proof=["-" * 43 + "="]), 400, "base64"),
    "64 lines of proof": (request(proof=[HASH] * 64), 400, "at most 63"),
    "no checkpoint": (request(note=b""), 400, "checkpoint"),
    "a checkpoint without signatures": (request(note=LOG.note(9).split(b"\xe2\x80\x94")[0]), 400, "checkpoint"),
    "a checkpoint with a bad number": (request(note=LOG.note(9).replace(b"\n9\n", b"\n09\n")), 400, "tree size"),
    "an old size larger than the checkpoint's": (LOG.request(9, 5), 400, "larger than the checkpoint's 5"),
    "another key of that name": (request(note=LOG.note(9, WRONG_KEY)), 403, "none of a known key"),
    "a bad signature by a known key": (request(note=LOG.note(9).replace(b"\n9\n", b"\n8\n")), 403, "a bad one"),
    "a bad signature beside a good one": (
        request(note=LOG.note(9) + LOG.note(8).split(b"\n\n")[1]),
        403,
        "a bad one",
    ),
    "a log that nobody told it of": (STRANGER.request(0, 3), 404, "does not know the log"),
    "an origin with another case": (
        request(note=SmallLog("example.com/Log").note(9)),
        404,
        "does not know the log",
    ),
    "a recorded size that is smaller": (LOG.request(3, 9), 409, "4\n"),
    "a recorded size that is larger": (LOG.request(5, 9), 409, "4\n"),
    "a first contact that is none": (LOG.request(0, 9), 409, "4\n"),
    "an older checkpoint": (LOG.request(3, 3), 409, "4\n"),
    "a proof of another history": (OTHER_HISTORY.request(4, 9), 422, "consistency"),
    "no proof": (request(proof=[]), 422, "expected a proof"),
    "a proof that is too short": (request(proof=[HASH]), 422, "consistency"),
    "a proof that is too long": (LOG.request(4, 9).replace(b"\n\n", f"\n{HASH}\n\n".encode(), 1), 422, "consistency"),
    "a proof between equal sizes": (request(proof=[HASH], note=LOG.note(4)), 422, "an empty proof"),
    "another root of the same size": (OTHER_HISTORY.request(4, 4), 422, "consistency"),
    "size 0 with the root of something": (request("old 0", [], ZERO_ROOT), 422, "root of size 0"),
}


@pytest.fixture(scope="module")
def at_four(tmp_path_factory):
    with RunningWitness(tmp_path_factory.mktemp("four") / "w", LOG.policy) as witness:
        assert witness.add(LOG.request(0, 4))[0] == 200
        yield witness


@pytest.mark.parametrize("case", REFUSED)
def test_a_witness_refuses(at_four, case):
    body, status, said = REFUSED[case]

    found = at_four.add(body)

    assert (found[0], said in found[1].decode()) == (status, True), found
    assert found[2] == ("text/x.tlog.size" if status == 409 else "text/plain; charset=utf-8")
    assert at_four.witness.logs[LOG.origin][1] == LOG.checkpoint(4)


def test_the_cosignatures_are_those_of_the_specification_read_aloud(witness):
    """C2SP tlog-cosignature without any code of ours but the vkeys' base64."""
    body = witness.add(LOG.request(0, 5))[1].decode()
    text = LOG.note(5).split(b"\n\n")[0] + b"\n"
    size_and_root = (5).to_bytes(8, "big") + base64.b64decode(text.split(b"\n")[2])

    lines = body.splitlines()
    assert len(lines) == len(witness.keys)
    for line, vkey in zip(lines, map(str, witness.keys), strict=True):
        dash, name, encoded = line.split(" ")
        raw = base64.b64decode(encoded)
        public = base64.b64decode(vkey.split("+", 2)[2])
        assert (dash, name) == ("\u2014", "w1.example")
        assert raw[:4] == sha256(b"w1.example\n" + public).digest()[:4]
        seconds = int.from_bytes(raw[4:12], "big")
        assert seconds == NOW
        if public[0] == 4:
            message = b"cosignature/v1\ntime %d\n" % seconds + text
            Ed25519PublicKey.from_public_bytes(public[1:]).verify(raw[12:], message)
        else:
            names = b"\x0aw1.example" + raw[4:12] + b"\x0fexample.com/log"
            message = b"subtree/v1\n\0" + names + bytes(8) + size_and_root
            mldsa.MLDSA44PublicKey.from_public_bytes(public[1:]).verify(raw[12:], message)


def test_a_proof_at_first_contact_is_refused(witness):
    body = LOG.request(0, 9).replace(b"\n\n", f"\n{HASH}\n\n".encode(), 1)

    assert witness.add(body)[:2] == (422, b"consistency from size 0: expected an empty proof, found 1 hashes\n")


@pytest.mark.parametrize(
    ("first", "last", "status"), [("0", "9", 200), ("5", "-", 200), ("10", "-", 403), ("0", "8", 403)]
)
def test_a_log_key_counts_within_its_range_only(tmp_path, first, last, status):
    ranged = f"# tally-range {LOG.key.key.key_id.hex()} {first} {last}\n{LOG.policy}"

    with RunningWitness(tmp_path / "w", ranged) as witness:
        assert witness.add(LOG.request(0, 9))[0] == status


def test_signatures_of_unknown_keys_are_neither_checked_nor_recorded(witness):
    status, body, _ = witness.add(LOG.request(0, 5) + str(WRONG_KEY.sign_checkpoint(LOG.checkpoint(6), 1)).encode())

    assert status == 200
    assert Folder(witness.base / "state").read(checkpoint_path(LOG.origin)) == LOG.note(5) + body


def test_a_split_view_shown_to_the_witness_is_kept_as_evidence(witness):
    witness.add(LOG.request(0, 4))
    assert witness.add(OTHER_HISTORY.request(0, 4))[0] == 409

    kept = list((witness.base / "state").glob("*/checkpoint.evidence-1.json"))
    evidence = json.loads(kept[0].read_bytes())
    assert "split view" in evidence["problem"]
    assert evidence["found"].encode() == OTHER_HISTORY.note(4)


def test_the_same_checkpoint_again_is_cosigned_again_with_the_time_of_then(witness):
    witness.add(LOG.request(0, 4))
    witness.now += 60

    status, body, _ = witness.add(LOG.request(4, 4))

    assert status == 200
    assert cosignatures(witness, 4, body)


def test_what_the_witness_cosigned_opens_under_an_auditors_policy(witness):
    answer = witness.add(LOG.request(0, 4))[1]
    witness_line = f"witness w {witness.keys[0]}\nquorum w\n"
    policy = parse_policy("policy", LOG.policy.replace("quorum none\n", witness_line).encode())

    opened = policy.open("checkpoint", LOG.note(4) + answer)

    assert opened.witnessed_by == ("w",)


def test_recorded_checkpoints_are_all_of_one_history(witness):
    sizes = [1, 2, 7, 8, 15]
    for old, new in itertools.pairwise([0, *sizes]):
        assert witness.add(LOG.request(old, new))[0] == 200

    for old, new in itertools.combinations(sizes, 2):
        verify_consistency(old, new, LOG.checkpoint(old).root, LOG.checkpoint(new).root, LOG.proof(old, new))
    with pytest.raises(ProofFailed):
        verify_consistency(7, 15, OTHER_HISTORY.checkpoint(7).root, LOG.checkpoint(15).root, LOG.proof(7, 15))
